//! One inode.

use cfs_model::Version;
use cfs_rpc::v1;
use cfs_shipper_core::merge::Field;
use cfs_store::Store;
use cfs_store::view::{self, InodeView, State};
use tonic::Status;

use super::{node_view, store_error};

/// Paths of one inode in an answer.
const MAX_PATHS: usize = 1000;

/// An inode with its paths and the version of each register.
pub(super) fn lookup(store: &dyn Store, inode: u64) -> Result<v1::LookupReply, Status> {
    let Some(view) = store.inode(inode).map_err(store_error)? else { return Ok(v1::LookupReply::default()) };
    let paths = store.paths(inode, MAX_PATHS).map_err(store_error)?;
    let mut registers: Vec<v1::RegisterVersion> = view
        .versions
        .iter()
        .map(|held| register(held.field.name().to_owned(), field_text(&view, held.field), &held.version))
        .collect();
    for xattr in &view.xattrs {
        let name = format!("xattr {}", String::from_utf8_lossy(&xattr.name));
        registers.push(register(name, xattr.value.clone(), &xattr.version));
    }
    Ok(v1::LookupReply {
        found: true,
        removed: view.state == State::Removed,
        paths: paths.into_iter().map(Into::into).collect(),
        registers,
        node: node_view::node(view),
    })
}

fn register(register: String, value: Vec<u8>, version: &Version) -> v1::RegisterVersion {
    v1::RegisterVersion {
        register,
        value: value.into(),
        epoch: version.stamp.epoch.0,
        clock: version.stamp.clock,
        site: u32::from(version.stamp.site.0),
        incarnation: version.stamp.incarnation.0,
        lsn: version.lsn.0,
    }
}

fn field_text(view: &InodeView, field: Field) -> Vec<u8> {
    let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
    let time = |t: Option<view::Time>| t.map(|t| format!("{}.{:09}", t.seconds, t.nanos)).unwrap_or_default();
    let text = match field {
        Field::Life => match &view.state {
            State::Absent => "absent".to_owned(),
            State::Removed => "removed".to_owned(),
            State::Live { kind, .. } => format!("live, kind {kind}"),
        },
        Field::Mode => view.mode.map(|mode| format!("{mode:04o}")).unwrap_or_default(),
        Field::Uid => number(view.uid.map(u64::from)),
        Field::Gid => number(view.gid.map(u64::from)),
        Field::Size => number(view.size),
        Field::Mtime => time(view.mtime),
        Field::Ctime => time(view.ctime),
        Field::Extents => return view.extents.clone().unwrap_or_default(),
    };
    text.into_bytes()
}
