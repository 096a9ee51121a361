//! What applying creates costs: `cargo run --release -p cfs-store --example apply_bench -- 1000000`.
//!
//! Batches of 500 entries of about 200 bytes, eight in a transaction, one stream, one directory for every 1000 files.

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use cfs_model::op::{Attributes, Create, InodeKind, Mkdir, Op, Time, op::Kind};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use cfs_store::apply::Decoded;
use cfs_store::{HeedStore, Store, lmdb};
use prost::Message;

const BATCH: u64 = 500;
const BATCHES_AT_ONCE: usize = 8;
const FILES_PER_DIRECTORY: u64 = 1000;

fn operation(i: u64) -> Op {
    let time = Some(Time { seconds: 1_700_000_000 + i as i64, nanos: (i % 1_000_000_000) as u32 });
    let attributes = Some(Attributes {
        mode: Some(0o644),
        uid: Some(1000),
        gid: Some(1000),
        size: Some(i * 37),
        mtime: time,
        ctime: time,
        extents: Some(Bytes::from(vec![(i % 251) as u8; 96])),
    });
    let parent = 1 + i / FILES_PER_DIRECTORY * FILES_PER_DIRECTORY;
    let inode = i + 2;
    let kind = if i.is_multiple_of(FILES_PER_DIRECTORY) {
        Kind::Mkdir(Mkdir { parent: 1, name: format!("directory-{i:012}").into(), inode, attributes })
    } else {
        let name = format!("file-with-a-longish-name-{i:012}").into();
        let kind = InodeKind::File.into();
        Kind::Create(Create { parent: parent + 1, name, inode, kind, attributes, device: 0 })
    };
    Op { kind: Some(kind) }
}

struct Source {
    chain: ChainHash,
    next: u64,
    bytes: u64,
}

impl Source {
    fn batch(&mut self, stream: StreamId) -> Result<Decoded, Box<dyn Error>> {
        let mut builder = Builder::default();
        let producer = Bytes::from_static(b"bench");
        for i in self.next..self.next + BATCH {
            let op = operation(i).encode_to_vec();
            self.bytes += op.len() as u64;
            builder.push(&producer, i + 1, &op);
        }
        let header = Header {
            stream,
            epoch: Epoch(1),
            first_lsn: Lsn(self.next + 1),
            count: BATCH as u32,
            first_clock: 1_700_000_000_000_000_000 + self.next,
            durable_lsn: Lsn(self.next),
            vector: None,
            codec: Codec::None,
            raw_len: 0,
            encoded_len: 0,
            payload_checksum: 0,
            chain: self.chain,
        };
        let batch = Batch::build(header, &builder.finish(), &mut Vec::new())?;
        self.chain = batch.chain_after();
        self.next += BATCH;
        let (header, chain_after) = (batch.header().clone(), batch.chain_after());
        Ok(Decoded { payload: batch.decompress()?, header, chain_after })
    }
}

fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn memory_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default()
}

fn main() -> Result<(), Box<dyn Error>> {
    let entries: u64 = std::env::args().nth(1).as_deref().unwrap_or("1000000").parse()?;
    let path = std::env::args().nth(2);
    let dir = path.map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
    let store = HeedStore::open(&lmdb::Options::new(dir.path().join("meta")))?;
    let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
    let mut source = Source { chain: ChainHash::start(stream), next: 0, bytes: 0 };
    let (mut wall, mut cpu) = (0.0, 0.0);
    let mut slowest: f64 = 0.0;
    let (mut last_wall, mut last_cpu, mut last) = (0.0, 0.0, 0);
    let report_every = (entries / 5).max(1);
    while source.next < entries {
        let batches = (0..BATCHES_AT_ONCE).map(|_| source.batch(stream)).collect::<Result<Vec<_>, _>>()?;
        let (began, cpu_began) = (Instant::now(), cpu_seconds());
        store.apply(&batches)?;
        let took = began.elapsed().as_secs_f64();
        slowest = slowest.max(took);
        wall += took;
        cpu += cpu_seconds() - cpu_began;
        if source.next - last >= report_every {
            let n = (source.next - last) as f64;
            println!(
                "{:>9} entries: {:>7.0} creates/s, {:.2} us CPU each; anonymous memory {} KiB, mapped file {} KiB",
                source.next,
                n / (wall - last_wall),
                (cpu - last_cpu) / n * 1e6,
                memory_kib("RssAnon"),
                memory_kib("RssFile"),
            );
            (last_wall, last_cpu, last) = (wall, cpu, source.next);
        }
    }
    let n = source.next as f64;
    let usage = store.usage()?;
    println!(
        "{} entries of {} bytes: {:.0} creates/s, {:.2} us CPU each, slowest transaction {:.1} ms, {} bytes of store each",
        source.next,
        source.bytes / source.next,
        n / wall,
        cpu / n * 1e6,
        slowest * 1e3,
        usage.used_bytes / source.next,
    );
    let began = Instant::now();
    let agrees = store.recompute_digest()?.agrees();
    println!("digest recomputed in {:.2} s: agrees = {agrees}", began.elapsed().as_secs_f64());
    Ok(())
}
