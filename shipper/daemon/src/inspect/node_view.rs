//! Inodes as messages.

use cfs_model::op::{Attributes, InodeKind, Time};
use cfs_rpc::v1;
use cfs_store::view::{self, InodeView, State};

/// An inode as it shows; `None` if it does not exist.
pub(super) fn node(view: InodeView) -> Option<v1::Node> {
    let State::Live { kind, device, target } = view.state else { return None };
    let time = |t: view::Time| Time { seconds: t.seconds, nanos: t.nanos };
    Some(v1::Node {
        inode: view.inode,
        kind: InodeKind::try_from(i32::from(kind)).unwrap_or_default().into(),
        attributes: Some(Attributes {
            mode: view.mode,
            uid: view.uid,
            gid: view.gid,
            size: view.size,
            mtime: view.mtime.map(time),
            ctime: view.ctime.map(time),
            extents: view.extents.map(Into::into),
        }),
        target: target.into(),
        device,
        nlink: view.nlink,
        xattrs: view
            .xattrs
            .into_iter()
            .map(|xattr| v1::Xattr { name: xattr.name.into(), value: xattr.value.into() })
            .collect(),
    })
}
