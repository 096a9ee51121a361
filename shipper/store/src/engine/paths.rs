//! From an inode up to the root, along the names derived from entries.

use std::collections::BTreeSet;

use cfs_shipper_core::merge::ROOT_NAME;

use super::read::is_directory;
use crate::backend::{Read, Scan};
use crate::row::{InodeRow, inode_key, split_key};
use crate::table::{Error, Table};

/// Directories that a search for the root passes at most; a path of 4096 bytes has no more.
const MAX_DEPTH: usize = 4096;
/// Steps that a search for paths takes at most, beyond one for each level and path asked for.
const MAX_STEPS: usize = 64 * 1024;

/// The names of an inode, at most `limit`.
pub(super) fn names(tables: &impl Read, inode: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let key = inode_key(inode);
    let mut out = Vec::new();
    if let Some(row) = tables.get(Table::Inodes, &key)? {
        out.extend(InodeRow::decode(&key, row)?.links.first.map(|(parent, name)| (parent, name.to_vec())));
    }
    tables.scan_prefix(Table::Links, &key, &mut |key, _| {
        if out.len() >= limit {
            return Ok(Scan::Stop);
        }
        let (_, rest) = split_key(Table::Links, key)?;
        let (parent, name) = split_key(Table::Links, rest)?;
        out.push((parent, name.to_vec()));
        Ok(Scan::More)
    })?;
    Ok(out)
}

/// Paths that pass no directory twice: where renames have made a cycle, the others have no end.
pub(super) fn paths(tables: &impl Read, inode: u64, limit: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut out = BTreeSet::new();
    let mut open = vec![(vec![inode], Vec::<Vec<u8>>::new())];
    let mut steps = MAX_STEPS;
    while let Some((passed, below)) = open.pop() {
        steps = steps.saturating_sub(1);
        let Some(at) = passed.last().filter(|_| out.len() < limit && steps > 0) else { break };
        for (parent, name) in names(tables, *at, limit.saturating_add(1))? {
            if parent == 0 {
                let path: Vec<u8> = below.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect();
                out.insert(if path.is_empty() { ROOT_NAME.to_vec() } else { path });
            } else if below.len() < MAX_DEPTH && !passed.contains(&parent) {
                let (mut passed, mut below) = (passed.clone(), below.clone());
                passed.push(parent);
                below.push(name);
                open.push((passed, below));
            }
        }
    }
    Ok(out.into_iter().take(limit).collect())
}

/// Whether an inode can be reached from the root.
pub(super) fn reaches_root(tables: &impl Read, inode: u64) -> Result<bool, Error> {
    let mut seen = BTreeSet::from([inode]);
    let mut open = vec![inode];
    while let Some(at) = open.pop() {
        for (parent, _) in names(tables, at, MAX_DEPTH)? {
            if parent == 0 {
                return Ok(true);
            }
            let key = inode_key(parent);
            let is_live_directory = match tables.get(Table::Inodes, &key)? {
                // One that does not decode is a finding of its own: what is below it is not to blame.
                Some(row) => {
                    let Ok(row) = InodeRow::decode(&key, row) else { return Ok(true) };
                    row.inode(&key).map_or(true, |inode| is_directory(&inode))
                }
                None => false,
            };
            if is_live_directory && seen.len() < MAX_DEPTH && seen.insert(parent) {
                open.push(parent);
            }
        }
    }
    Ok(false)
}
