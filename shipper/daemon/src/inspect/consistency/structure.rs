//! What follows from the registers and should hold.

use std::sync::Arc;

use cfs_rpc::v1;
use cfs_store::structure::StructureReport;
use tonic::Status;

use super::super::{blocking, store_error};
use super::findings::Findings;
use crate::node::Node;

/// Findings of each kind that are listed; all are counted.
const MAX_PROBLEMS: usize = 100;

/// Checks the structure; what can only be damage goes to `findings` as well.
pub(super) async fn check(node: &Arc<Node>, findings: &mut Findings) -> Result<v1::ConsistencyReply, Status> {
    let store = node.store.clone();
    let report = blocking(move || store.structure(MAX_PROBLEMS).map_err(store_error)).await?;
    findings.derived(&node.site().to_string(), &report.derived, report.derived_count);
    let mut problems: Vec<String> = Vec::new();
    problems.extend(report.orphans.iter().map(|inode| format!("inode {inode} exists and has no name")));
    problems.extend(report.detached.iter().map(|inode| format!("directory {inode} has no way to the root")));
    problems.extend(report.multiply_named.iter().map(|inode| format!("directory {inode} has more than one name")));
    problems.extend(report.dangling.iter().map(|(parent, name, inode)| {
        format!(
            "entry {:?} of directory {parent} points to inode {inode}, which is not there",
            String::from_utf8_lossy(name)
        )
    }));
    problems.extend(report.unreadable.iter().map(|inode| format!("a register of inode {inode} does not decode")));
    problems.extend(
        report
            .derived
            .iter()
            .map(|inode| format!("what is derived of inode {inode} does not follow from its registers")),
    );
    let found = report.orphan_count
        + report.detached_count
        + report.multiply_named_count
        + report.dangling_count
        + report.unreadable_count
        + report.derived_count;
    if found > problems.len() as u64 {
        problems.push(format!("... and {} more", found - problems.len() as u64));
    }
    Ok(v1::ConsistencyReply {
        site: node.site().to_string(),
        inodes: report.inodes,
        entries: report.entries,
        orphans: report.orphan_count,
        dangling: report.dangling_count,
        cycles: report.detached_count + report.multiply_named_count,
        structure_sound: report.is_sound(),
        structure: findings_of(&report),
        problems,
        ..v1::ConsistencyReply::default()
    })
}

/// What is said of a store in which rows are not found where they belong.
pub(super) fn not_checked(node: &Node) -> v1::ConsistencyReply {
    v1::ConsistencyReply {
        site: node.site().to_string(),
        problems: vec!["the structure was not checked: rows of this store are not found where they belong".to_owned()],
        ..v1::ConsistencyReply::default()
    }
}

/// What entries could mend, one by one.
fn findings_of(report: &StructureReport) -> Vec<v1::StructureFinding> {
    let inode = |kind: &'static str, inodes: &[u64]| {
        let found =
            inodes.iter().map(|inode| v1::StructureFinding { kind: kind.into(), inode: *inode, ..Default::default() });
        found.collect::<Vec<_>>()
    };
    let entry = |kind: &'static str, entries: &[(u64, Vec<u8>, u64)]| {
        let found = entries.iter().map(|(parent, name, inode)| v1::StructureFinding {
            kind: kind.into(),
            inode: *inode,
            parent: *parent,
            name: name.clone().into(),
        });
        found.collect::<Vec<_>>()
    };
    // An entry that leads nowhere goes, wherever it is.
    let homeless: Vec<_> = report.homeless.iter().filter(|entry| !report.dangling.contains(entry)).cloned().collect();
    // What a homeless entry names comes back with it.
    [
        entry("dangling", &report.dangling),
        inode("multiply_named", &report.multiply_named),
        inode("detached", &report.detached),
        entry("homeless", &homeless),
        inode("orphan", &report.orphans),
    ]
    .concat()
}
