//! Invariants 5, 6 and 8 across `kill -9`: a process that applies is killed at any moment; the store opens at the end of
//! a transaction, not before what the process had reported, and its digest is the registers' digest.

// A test fails by panicking, also in the functions that it shares with others.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use cfs_model::op::{Create, Forget, InodeKind, Op, SetXattr, StreamPosition, Unlink, op::Kind};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use cfs_store::apply::Decoded;
use cfs_store::{HeedStore, Store, lmdb};
use prost::Message;

const STREAM: StreamId = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
const ENTRIES_PER_BATCH: u64 = 300;
const BATCHES_AT_ONCE: usize = 4;
/// Enough tombstones in between that a `Forget` is spread over several transactions.
const BATCHES_PER_FORGET: u64 = 80;
const KILLS: u32 = 12;

/// The operation at an LSN: always the same, so that the stream can be continued after a crash.
fn operation(lsn: u64) -> Op {
    let (batch, in_batch) = ((lsn - 1) / ENTRIES_PER_BATCH, (lsn - 1) % ENTRIES_PER_BATCH);
    let number = lsn / 3 % 50_000 + 2;
    let name = Bytes::from(format!("name-{number}"));
    let kind = if batch % BATCHES_PER_FORGET == BATCHES_PER_FORGET - 1 && in_batch == ENTRIES_PER_BATCH / 2 {
        let lsn = batch * ENTRIES_PER_BATCH;
        Kind::Forget(Forget { positions: vec![StreamPosition { site: 1, incarnation: 1, lsn }] })
    } else {
        match lsn % 3 {
            0 => Kind::Create(Create {
                parent: 1,
                name,
                inode: number,
                kind: InodeKind::File.into(),
                attributes: None,
                device: 0,
            }),
            1 => Kind::SetXattr(SetXattr { inode: number, name, value: Bytes::from_static(b"value") }),
            _ => Kind::Unlink(Unlink { parent: 1, name, inode: number, last: lsn.is_multiple_of(2) }),
        }
    };
    Op { kind: Some(kind) }
}

fn batch(first: u64, chain: ChainHash) -> Decoded {
    let mut payload = Builder::default();
    for lsn in first..first + ENTRIES_PER_BATCH {
        payload.push(&Bytes::from_static(b"producer"), lsn, &operation(lsn).encode_to_vec());
    }
    let header = Header {
        stream: STREAM,
        epoch: Epoch(1),
        first_lsn: Lsn(first),
        count: ENTRIES_PER_BATCH as u32,
        first_clock: first,
        durable_lsn: Lsn(first - 1),
        vector: None,
        codec: Codec::None,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain,
    };
    let batch = Batch::build(header, &payload.finish(), &mut Vec::new()).unwrap();
    Decoded { header: batch.header().clone(), chain_after: batch.chain_after(), payload: batch.decompress().unwrap() }
}

fn open(dir: &Path) -> HeedStore {
    HeedStore::open(&lmdb::Options { path: dir.to_path_buf(), map_bytes: 4 << 30 }).unwrap()
}

/// Whether a call that applied entries in this range may have been spread over several transactions.
fn forgets_between(after: u64, upto: u64) -> bool {
    let period = ENTRIES_PER_BATCH * BATCHES_PER_FORGET;
    (upto + ENTRIES_PER_BATCH) / period > after / period
}

/// The process to be killed: applies for ever and reports after each call.
fn write_for_ever(dir: &Path) {
    let store = open(dir);
    let position = store.position();
    let mut next = position.applied.get(STREAM).0 + 1;
    let mut chain = position.chains.get(&STREAM).copied().unwrap_or(ChainHash::start(STREAM));
    loop {
        let mut batches = Vec::new();
        for _ in 0..BATCHES_AT_ONCE {
            let batch = batch(next, chain);
            (next, chain) = (next + ENTRIES_PER_BATCH, batch.chain_after);
            batches.push(batch);
        }
        store.apply(&batches).unwrap();
        println!("{}", next - 1);
    }
}

/// Runs the writer for a while and kills it. Returns what it had reported.
fn run_and_kill(dir: &Path, lifetime: Duration) -> u64 {
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg("writer").arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let reported = lines.filter_map(|line| line.parse().ok()).last().unwrap_or(0);
    child.wait().unwrap();
    reported
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, mode, dir] = &args[..]
        && mode == "writer"
    {
        return write_for_ever(Path::new(dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for kill in 0..KILLS {
        let reported = run_and_kill(dir.path(), Duration::from_millis(150 + u64::from(kill) * 67 % 400));
        let store = open(dir.path());
        let position = store.position();
        let applied = position.applied.get(STREAM).0;
        assert!(applied >= reported.max(reached), "invariant 6: at {applied}, {reported} had been reported");
        assert_eq!(applied % ENTRIES_PER_BATCH, 0, "cursors stand at ends of batches");
        let call = ENTRIES_PER_BATCH * BATCHES_AT_ONCE as u64;
        let whole = (applied - reached).is_multiple_of(call);
        assert!(whole || forgets_between(reached, applied + call), "the batches of one call are one transaction");
        assert!(store.recompute_digest().unwrap().agrees(), "invariant 5: the running digest is the registers'");
        reached = applied;
    }
    assert!(reached > 0, "the writer got somewhere");
    println!("crash: {KILLS} kills, {reached} entries applied");
    matches_a_store_that_never_crashed(dir.path(), reached);
}

/// Invariants 5 and 8: nothing was applied twice or left out.
fn matches_a_store_that_never_crashed(dir: &Path, reached: u64) {
    let smooth = cfs_store::MemoryStore::new();
    let crashed = open(dir);
    let mut chain = ChainHash::start(STREAM);
    for first in (1..=reached).step_by(ENTRIES_PER_BATCH as usize) {
        let batch = batch(first, chain);
        chain = batch.chain_after;
        smooth.apply(&[batch]).unwrap();
    }
    // A crash in the middle of a forget leaves its batch to be applied again.
    let at_rest = |store: &dyn Store| {
        let mut next = reached + 1;
        let mut chain = store.position().chains[&STREAM];
        for _ in 0..BATCHES_PER_FORGET {
            let batch = batch(next, chain);
            (next, chain) = (next + ENTRIES_PER_BATCH, batch.chain_after);
            store.apply(&[batch]).unwrap();
        }
        assert!(store.position().comparable);
        (store.position(), store.digest(), store.tombstones().unwrap())
    };
    assert_eq!(at_rest(&crashed), at_rest(&smooth));
}
