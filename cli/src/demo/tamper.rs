//! Damages one value in a stopped site's store, to show that the comparison can fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cfs_model::op::InodeKind;
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, Stamp, Version};
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{ListRequest, LookupReply, LookupRequest};
use cfs_shipper_core::merge::{Life, Value, encode_version};
use tonic::transport::Channel;

use super::is_in;
use crate::client;
use crate::path_text::for_terminal;

/// LMDB's file in the store's directory.
const DATA_FILE: &str = "data.mdb";
const CHUNK_BYTES: usize = 1 << 20;

/// A file whose mode can be damaged.
#[derive(Debug)]
pub struct Victim {
    /// Its path.
    pub path: String,
    inode: u64,
    mode: u32,
    written: Version,
}

/// The first regular file that was written by one entry and not changed since, and is not at `apart` in the root
/// directory.
///
/// # Errors
/// When the site does not answer, or holds no such file.
pub async fn choose(apart: &str, inspect: &mut InspectClient<Channel>) -> anyhow::Result<Victim> {
    let request = ListRequest { path: b"/".to_vec().into(), recursive: true };
    let action = "list its tree";
    let mut replies = inspect.list(request).await.map_err(client::failed(action))?.into_inner();
    while let Some(reply) = replies.message().await.map_err(client::failed(action))? {
        for item in reply.items.iter().filter(|item| !is_in(&item.path, apart)) {
            let Some(node) = item.node.as_ref().filter(|node| node.kind == InodeKind::File as i32) else { continue };
            let looked = inspect.lookup(LookupRequest { inode: node.inode, all_sites: false }).await;
            let found = looked.map_err(client::failed("look up an inode"))?.into_inner();
            let mode = node.attributes.as_ref().and_then(|attributes| attributes.mode);
            if let (Some(written), Some(mode)) = (written_at_once(&found), mode) {
                return Ok(Victim { path: for_terminal(&item.path), inode: node.inode, mode, written });
            }
        }
    }
    anyhow::bail!("there is no regular file to damage")
}

/// The one entry that wrote life and mode of an inode.
fn written_at_once(found: &LookupReply) -> Option<Version> {
    let of = |name: &str| {
        let r = found.registers.iter().find(|register| register.register == name)?;
        let site = SiteId(u8::try_from(r.site).ok()?);
        let stamp = Stamp { epoch: Epoch(r.epoch), clock: r.clock, site, incarnation: Incarnation(r.incarnation) };
        Some(Version { stamp, lsn: Lsn(r.lsn) })
    };
    of("life").filter(|life| of("mode") == Some(*life))
}

/// Flips a bit of the file's mode in the store's pages, behind the back of everything that keeps digests. The site
/// must not run. Blocks.
///
/// # Errors
/// When the store's file cannot be changed or does not hold the value.
pub fn damage(store: &Path, victim: &Victim) -> anyhow::Result<()> {
    let path = store.join(DATA_FILE);
    let (sound, damaged) = (encoded(victim, victim.mode), encoded(victim, victim.mode ^ 1));
    let replaced = replace_all(&path, &sound, &damaged).with_context(|| format!("cannot change {}", path.display()))?;
    anyhow::ensure!(replaced > 0, "inode {} was not found in {}", victim.inode, path.display());
    Ok(())
}

/// How the store holds the beginning of an inode that one entry wrote: that entry, life, mode.
fn encoded(victim: &Victim, mode: u32) -> Vec<u8> {
    let mut out = Vec::new();
    encode_version(&victim.written, &mut out);
    Value::Life(Life::Live { kind: InodeKind::File as u8, device: 0, target: &[] }).encode(&mut out);
    Value::Number(u64::from(mode)).encode(&mut out);
    out
}

/// Replaces `from` by `to`, which is as long, wherever the file holds it: also in pages that are no longer used.
fn replace_all(path: &PathBuf, from: &[u8], to: &[u8]) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut replaced = 0;
    let mut chunk = vec![0; CHUNK_BYTES + from.len()];
    let mut at = 0;
    loop {
        let length = read_at(&file, &mut chunk, at)?;
        for index in 0..length.saturating_sub(from.len() - 1) {
            if chunk[index..].starts_with(from) {
                file.write_all_at(to, at + index as u64)?;
                replaced += 1;
            }
        }
        if length < chunk.len() {
            file.sync_all()?;
            return Ok(replaced);
        }
        at += (CHUNK_BYTES + 1) as u64;
    }
}

fn read_at(file: &File, chunk: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < chunk.len() {
        match file.read_at(&mut chunk[length..], at + length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_is_replaced_also_across_chunks() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("data");
        let mut content = vec![7; 3 * CHUNK_BYTES];
        let places = [0, CHUNK_BYTES - 2, CHUNK_BYTES + 3, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES - 5];
        for at in places {
            content[at..at + 5].copy_from_slice(b"value");
        }
        std::fs::write(&path, &content).expect("writable");
        assert_eq!(replace_all(&path, b"value", b"vague").expect("writable"), places.len() as u64);
        let after = std::fs::read(&path).expect("readable");
        for at in places {
            assert_eq!(&after[at..at + 5], b"vague");
        }
        assert_eq!(after.len(), content.len());
    }
}
