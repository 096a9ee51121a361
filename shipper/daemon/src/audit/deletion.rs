//! Restoring a deletion of a name that was lost: only what it meant goes, and not what somebody has put in its place since.
//!
//! What is kept of the lost write is that the name was gone. Which inode it led to is in the journal's entry.

use bytes::Bytes;
use cfs_journal::{Journal, read};
use cfs_model::op::{Op, Rmdir, Unlink, op::Kind};
use cfs_model::{Lsn, StreamId};
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_shipper_core::payload::Entries;

/// What an entry took a name from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removal {
    inode: u64,
    /// Whether the inode itself was removed with the name.
    ends: bool,
}

impl Removal {
    /// What `op` took this name from; `None` if it did not remove the name.
    pub(super) fn by(op: &Op, parent: u64, name: &[u8]) -> Option<Self> {
        let (inode, ends, of, from) = match op.kind.as_ref()? {
            Kind::Unlink(o) => (o.inode, o.last, o.parent, &o.name),
            Kind::Rmdir(o) => (o.inode, true, o.parent, &o.name),
            Kind::Rename(o) => (o.inode, false, o.from_parent, &o.from_name),
            _ => return None,
        };
        (of == parent && from == name).then_some(Self { inode, ends })
    }
}

/// What a name leads to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) inode: u64,
    pub(super) is_directory: bool,
    /// Whether the inode has no other name.
    pub(super) is_only_name: bool,
}

/// The entry that removes the name again. It ends an inode only if the lost write ended that same inode. With `force` also
/// where it is not known what the lost write meant, and where the inode is left without a name.
///
/// # Errors
/// The name leads elsewhere by now; or, without `force`, one of these two.
pub(super) fn again(
    (parent, name): (u64, Bytes),
    present: Present,
    removal: Option<Removal>,
    force: bool,
) -> Result<Kind, String> {
    let inode = present.inode;
    let ends = match removal {
        Some(removal) if removal.inode != inode => {
            return Err(format!(
                "the lost write removed the name of inode {}, and the name leads to inode {inode} now, which is another",
                removal.inode
            ));
        }
        Some(removal) => removal.ends,
        None if !force => {
            return Err(format!(
                "which inode it removed is not known: its entry is not in this site's journal any more, and the name leads \
                 to inode {inode} now; --force takes the name from that one and leaves the inode"
            ));
        }
        None => false,
    };
    if removal.is_some() && present.is_only_name && !ends && !force {
        return Err(format!(
            "the lost write took one of its names from inode {inode}, and this is the only one by now; --force takes it and \
             leaves the inode without a name"
        ));
    }
    if present.is_directory && ends {
        return Ok(Kind::Rmdir(Rmdir { parent, name, inode }));
    }
    Ok(Kind::Unlink(Unlink { parent, name, inode, last: ends && present.is_only_name }))
}

/// The operation of an entry, while the journal here holds it. Reads one segment at most; blocks.
///
/// # Errors
/// What the journal holds does not read.
pub(super) fn written(journal: &Journal, stream: StreamId, lsn: Lsn) -> Result<Option<Op>, String> {
    let segments = journal.segments(stream);
    let Some(segment) = segments.iter().find(|segment| (segment.first..=segment.last).contains(&lsn)) else {
        return Ok(None);
    };
    let mut reader = match journal.reader(stream, Lsn(segment.first.0.saturating_sub(1))) {
        Ok(reader) => reader,
        Err(read::Error::Gone { .. }) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    loop {
        let batches = match reader.next(MAX_FRAME_BYTES) {
            Ok(batches) => batches,
            Err(read::Error::Gone { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let Some(last) = batches.last() else { return Ok(None) };
        if last.header().last_lsn() < lsn {
            continue;
        }
        let Some(batch) = batches.iter().find(|batch| batch.header().last_lsn() >= lsn) else { return Ok(None) };
        for entry in Entries::new(batch.decompress().map_err(|error| error.to_string())?) {
            let entry = entry.map_err(|error| error.to_string())?;
            if batch.header().first_lsn.plus(u64::from(entry.index)) == lsn {
                return entry.decode().map(Some).map_err(|error| error.to_string());
            }
        }
        return Ok(None);
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::op::Rename;

    use super::*;

    const NAME: Bytes = Bytes::from_static(b"doc");

    fn unlink(inode: u64, last: bool) -> Op {
        Op { kind: Some(Kind::Unlink(Unlink { parent: 1, name: NAME, inode, last })) }
    }

    fn restored(op: Option<&Op>, present: Present, force: bool) -> Result<Kind, String> {
        let removal = op.and_then(|op| Removal::by(op, 1, b"doc"));
        again((1, NAME), present, removal, force)
    }

    fn file(inode: u64, is_only_name: bool) -> Present {
        Present { inode, is_directory: false, is_only_name }
    }

    /// The name was removed here, and removed and given to a new file elsewhere: that one stays, whatever is asked for.
    #[test]
    fn what_has_been_put_in_its_place_stays() {
        for force in [false, true] {
            let why = restored(Some(&unlink(30, true)), file(31, true), force).expect_err("another inode");
            assert!(why.contains("inode 30") && why.contains("inode 31"), "{why}");
        }
        let last = |kind| matches!(kind, Ok(Kind::Unlink(Unlink { inode: 30, last: true, .. })));
        assert!(last(restored(Some(&unlink(30, true)), file(30, true), false)), "what it meant goes");
        assert!(!last(restored(Some(&unlink(30, true)), file(30, false), false)), "another name has come");
    }

    #[test]
    fn an_inode_that_the_lost_write_did_not_end_is_not_ended() {
        let rename = Rename {
            from_parent: 1,
            from_name: NAME,
            to_parent: 2,
            to_name: Bytes::from_static(b"moved"),
            inode: 30,
            kind: 1,
            replaced: 0,
        };
        let rename = Op { kind: Some(Kind::Rename(rename)) };
        let directory = |is_only_name| Present { inode: 30, is_directory: true, is_only_name };
        for (op, only) in [(Some(&rename), true), (None, true), (None, false), (Some(&unlink(30, false)), true)] {
            for present in [file(30, only), directory(only)] {
                assert!(restored(op, present, false).is_err(), "{op:?} {present:?}");
                let forced = restored(op, present, true);
                assert!(matches!(forced, Ok(Kind::Unlink(Unlink { last: false, .. }))), "{op:?} {forced:?}");
            }
        }
        let moved = restored(Some(&rename), directory(false), false);
        assert!(matches!(moved, Ok(Kind::Unlink(Unlink { last: false, .. }))), "its other name stays: {moved:?}");
        let rmdir = Op { kind: Some(Kind::Rmdir(Rmdir { parent: 1, name: NAME, inode: 30 })) };
        assert!(matches!(restored(Some(&rmdir), directory(true), false), Ok(Kind::Rmdir(_))));
        assert_eq!(Removal::by(&rmdir, 2, b"doc"), None, "of another name");
    }
}
