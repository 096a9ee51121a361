//! Cut and flipped segments (invariant 3): the exact prefix, or damage that is named; never anything else.

use std::path::{Path, PathBuf};

use cfs_journal::{Journal, Recovered, open, read};
use cfs_shipper_core::batch::Batch;

use crate::disk::Disk;
use crate::history::{DIR, groups, history, open, options, read_all, segment_path, stream};

const HEADER: usize = 64;
const MARK: usize = 48;

/// A segment of three groups: one batch, three batches, two batches.
struct Fixture {
    disk: Disk,
    batches: Vec<Batch>,
    path: PathBuf,
    bytes: Vec<u8>,
    /// For each batch: where it starts and ends.
    places: Vec<(usize, usize)>,
    /// Where the first group ends, and where the last one starts.
    first_group_end: usize,
    last_group: usize,
}

fn fixture() -> Fixture {
    let disk = Disk::new();
    let batches = history(stream(1), &[(1, 8), (2, 4), (1, 3), (3, 1), (1, 20), (2, 2)]);
    let lengths = [1, 3, 2];
    let journal = open(&disk.files(), Path::new(DIR), 1 << 20);
    let mut writer = journal.writer(stream(1)).unwrap();
    let (mut places, mut starts, mut at) = (Vec::new(), Vec::new(), HEADER);
    for group in groups(&batches, &lengths) {
        writer.append(group).unwrap();
        starts.push(at);
        at += MARK;
        for batch in group {
            places.push((at, at + batch.bytes().len()));
            at += batch.bytes().len();
        }
    }
    let path = segment_path(Path::new(DIR), stream(1), 1);
    let bytes = disk.contents(&path);
    assert_eq!(bytes.len(), at);
    Fixture { disk: disk.copy(), batches, path, bytes, places, first_group_end: starts[1], last_group: starts[2] }
}

impl Fixture {
    fn open_with(&self, bytes: &[u8]) -> (Disk, Result<(Journal, Vec<Recovered>), open::Error>) {
        let disk = self.disk.copy();
        disk.put(&self.path, bytes);
        let opened = Journal::open(disk.files(), Path::new(DIR), options(1 << 20));
        (disk, opened)
    }

    /// Whole batches before `offset`.
    fn whole_before(&self, offset: usize) -> usize {
        self.places.iter().take_while(|(_, end)| *end <= offset).count()
    }

    fn expect_prefix(&self, journal: &Journal, count: usize, context: &str) {
        let (read, error) = read_all(journal, stream(1));
        assert!(error.is_none(), "{context}: {error:?}");
        assert_eq!(read, self.batches[..count], "{context}");
        let position = journal.position(stream(1)).unwrap();
        assert_eq!(position.durable, self.batches[count - 1].header().last_lsn(), "{context}");
        assert_eq!(position.chain, self.batches[count - 1].chain_after(), "{context}");
    }

    /// Damage must name this segment, and a place at or before what was changed; and nothing on disk may change.
    fn expect_damage(&self, disk: &Disk, error: &open::Error, changed: usize, bytes: &[u8], context: &str) {
        let open::Error::Damaged(damage) = error else { panic!("{context}: {error}") };
        assert_eq!(damage.segment, self.path, "{context}");
        assert!(damage.offset as usize <= changed, "{context}: {damage}");
        let next = self.batches.get(self.whole_before(damage.offset as usize));
        assert!(next.is_none_or(|b| damage.lsn == b.header().first_lsn), "{context}: {damage}");
        assert!(damage.to_string().contains("start again"), "{context}");
        assert_eq!(disk.contents(&self.path), bytes, "{context}: changed on disk");
    }
}

#[test]
fn a_segment_cut_at_any_byte_keeps_the_exact_prefix_or_is_refused() {
    let f = fixture();
    for zeros in [0, 100] {
        for cut in 0..f.bytes.len() {
            let mut bytes = f.bytes[..cut].to_vec();
            bytes.resize(cut + zeros, 0);
            let context = format!("cut at {cut}, followed by {zeros} zeros");
            let (disk, opened) = f.open_with(&bytes);
            match opened {
                Err(e) => {
                    assert!(cut < f.first_group_end, "{context}: only the first group is known to be durable: {e}");
                    f.expect_damage(&disk, &e, cut, &bytes, &context);
                }
                Ok((journal, recovered)) => {
                    assert!(cut >= f.first_group_end, "{context}");
                    let count = f.whole_before(cut);
                    f.expect_prefix(&journal, count, &context);
                    let kept = f.places[count - 1].1;
                    assert_eq!(disk.contents(&f.path), f.bytes[..kept], "{context}");
                    assert_eq!(recovered.len(), usize::from(cut > kept), "{context}: {recovered:?}");
                    for r in &recovered {
                        assert_eq!((r.offset as usize, &r.segment), (kept, &f.path), "{context}");
                        assert_eq!(r.durable, f.batches[count - 1].header().last_lsn(), "{context}");
                        // Zeros at the end of what was written cannot be told from zeros written ahead.
                        assert!((1..=(cut - kept) as u64).contains(&r.cut_bytes), "{context}: {r:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_keeps_the_exact_prefix_or_is_refused() {
    let f = fixture();
    for zeros in [0, 100] {
        for bit in 0..(f.bytes.len() + zeros) * 8 {
            let mut bytes = f.bytes.clone();
            bytes.resize(f.bytes.len() + zeros, 0);
            let at = bit / 8;
            bytes[at] ^= 1 << (bit % 8);
            let context = format!("bit {bit}, byte {at}, {zeros} zeros behind");
            let (disk, opened) = f.open_with(&bytes);
            match opened {
                Err(e) => f.expect_damage(&disk, &e, at, &bytes, &context),
                Ok((journal, recovered)) => {
                    assert!(at >= f.last_group, "{context}: a later sync mark calls this durable");
                    f.expect_prefix(&journal, f.whole_before(at), &context);
                    assert_eq!(recovered.len(), 1, "{context}: a cut is reported");
                }
            }
        }
    }
}

/// What is not in the last segment is checked when it is read.
#[test]
fn a_flipped_byte_in_an_earlier_segment_is_found_by_whoever_reads_it() {
    let disk = Disk::new();
    let batches = history(stream(1), &[(1, 100); 6]);
    {
        let journal = open(&disk.files(), Path::new(DIR), 900);
        journal.writer(stream(1)).unwrap().append(&batches).unwrap();
    }
    let path = segment_path(Path::new(DIR), stream(1), 1);
    let whole = disk.contents(&path);
    for cut_or_flip in 0..whole.len() * 2 {
        let at = cut_or_flip / 2;
        let mut bytes = whole.clone();
        if cut_or_flip % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 0x40;
        }
        let disk = disk.copy();
        disk.put(&path, &bytes);
        let journal = match Journal::open(disk.files(), Path::new(DIR), options(900)) {
            Ok((journal, _)) => journal,
            Err(open::Error::Damaged(damage)) => {
                assert!(at < HEADER && damage.segment == path, "{at}: {damage}");
                continue;
            }
            Err(e) => panic!("{at}: {e}"),
        };
        let (read, error) = read_all(&journal, stream(1));
        assert_eq!(read, batches[..read.len()], "{at}");
        match error {
            Some(read::Error::Damaged(damage)) => {
                assert!(damage.segment == path && damage.offset as usize <= at, "{at}: {damage}");
                assert_eq!(damage.lsn.0, read.len() as u64 + 1, "{at}");
            }
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let disk = Disk::new();
    let batches = history(stream(1), &[(1, 100); 9]);
    {
        let journal = open(&disk.files(), Path::new(DIR), 700);
        journal.writer(stream(1)).unwrap().append(&batches).unwrap();
        assert!(journal.usage().segments >= 3);
    }
    let files = disk.files();
    let dir = segment_path(Path::new(DIR), stream(1), 1).parent().unwrap().to_owned();
    let mut names = files.list(&dir).unwrap();
    names.sort();
    files.remove(&dir.join(&names[1])).unwrap();
    let error = Journal::open(files, Path::new(DIR), options(700)).err().unwrap();
    let open::Error::Damaged(damage) = error else { panic!("{error}") };
    assert_eq!(damage.segment, dir.join(&names[2]));
}

/// A producer may write what looks like a sync mark; in a payload it must not count as one.
#[test]
fn a_sync_mark_of_another_place_proves_nothing() {
    let f = fixture();
    let mark = &f.bytes[f.last_group..f.last_group + MARK];
    // A torn last group whose payload happens to hold the bytes of a mark that says that all was durable.
    let mut bytes = f.bytes[..f.last_group].to_vec();
    bytes.extend_from_slice(b"torn");
    bytes.extend_from_slice(mark);
    let (_, opened) = f.open_with(&bytes);
    let (journal, recovered) = opened.unwrap();
    f.expect_prefix(&journal, 4, "copied mark");
    assert_eq!(recovered.len(), 1);
}
