//! Writing batches of operations, and short ways to write operations.

use bytes::Bytes;
use cfs_model::op::{self, Attributes, InodeKind, Op, op::Kind};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId, Vector};
use cfs_shipper_core::batch::{Batch, ChainHash, Header};
use cfs_shipper_core::codec::Codec;
use cfs_shipper_core::payload::Builder;
use prost::Message;

use crate::apply::Decoded;

/// The writer's end of one stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) last: Lsn,
    chain: ChainHash,
    seen: Vector,
    pub(super) seq: u64,
}

pub(super) fn stream_id(site: u8, incarnation: u64) -> StreamId {
    StreamId { site: SiteId(site), incarnation: Incarnation(incarnation) }
}

impl Stream {
    pub(super) fn new(id: StreamId) -> Self {
        Self { id, last: Lsn::ZERO, chain: ChainHash::start(id), seen: Vector::new(), seq: 0 }
    }

    /// The next batch. `applied` is what its site has applied of all streams.
    pub(super) fn batch(&mut self, epoch: u64, first_clock: u64, applied: &Vector, ops: &[Op]) -> Decoded {
        let mut builder = Builder::default();
        let producer = Bytes::from(format!("producer-{}", self.id.site));
        for op in ops {
            self.seq += 1;
            builder.push(&producer, self.seq, &op.encode_to_vec());
        }
        self.raw_batch(epoch, first_clock, applied, ops.len() as u32, &builder.finish())
    }

    pub(super) fn raw_batch(
        &mut self,
        epoch: u64,
        first_clock: u64,
        applied: &Vector,
        count: u32,
        payload: &[u8],
    ) -> Decoded {
        let mut seen = applied.clone();
        seen.set(self.id, Lsn::ZERO);
        let header = Header {
            stream: self.id,
            epoch: Epoch(epoch),
            first_lsn: self.last.next(),
            count,
            first_clock,
            durable_lsn: self.last,
            vector: (seen != self.seen).then(|| seen.clone()),
            codec: Codec::None,
            raw_len: 0,
            encoded_len: 0,
            payload_checksum: 0,
            chain: self.chain,
        };
        let batch = Batch::build(header, payload, &mut Vec::new()).unwrap();
        self.chain = batch.chain_after();
        self.last = batch.header().last_lsn();
        self.seen = seen;
        Decoded {
            header: batch.header().clone(),
            chain_after: batch.chain_after(),
            payload: batch.decompress().unwrap(),
        }
    }
}

fn op(kind: Kind) -> Op {
    Op { kind: Some(kind) }
}

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn mode(mode: u32) -> Option<Attributes> {
    Some(Attributes { mode: Some(mode), ..Default::default() })
}

pub(super) fn create(parent: u64, text: &str, inode: u64, bits: u32) -> Op {
    let kind = InodeKind::File.into();
    op(Kind::Create(op::Create { parent, name: name(text), inode, kind, attributes: mode(bits), device: 0 }))
}

pub(super) fn mkdir(parent: u64, text: &str, inode: u64) -> Op {
    op(Kind::Mkdir(op::Mkdir { parent, name: name(text), inode, attributes: mode(0o755) }))
}

pub(super) fn make_root() -> Op {
    mkdir(0, "/", 1)
}

pub(super) fn symlink(parent: u64, text: &str, inode: u64, target: &str) -> Op {
    op(Kind::Symlink(op::Symlink { parent, name: name(text), inode, target: name(target), attributes: None }))
}

pub(super) fn link(parent: u64, text: &str, inode: u64) -> Op {
    op(Kind::Link(op::Link { parent, name: name(text), inode, kind: InodeKind::File.into() }))
}

pub(super) fn unlink(parent: u64, text: &str, inode: u64, last: bool) -> Op {
    op(Kind::Unlink(op::Unlink { parent, name: name(text), inode, last }))
}

pub(super) fn rmdir(parent: u64, text: &str, inode: u64) -> Op {
    op(Kind::Rmdir(op::Rmdir { parent, name: name(text), inode }))
}

pub(super) fn rename(from: (u64, &str), to: (u64, &str), inode: u64, kind: InodeKind, replaced: u64) -> Op {
    op(Kind::Rename(op::Rename {
        from_parent: from.0,
        from_name: name(from.1),
        to_parent: to.0,
        to_name: name(to.1),
        inode,
        kind: kind.into(),
        replaced,
    }))
}

pub(super) fn chmod(inode: u64, bits: u32) -> Op {
    op(Kind::SetAttr(op::SetAttr { inode, attributes: mode(bits) }))
}

pub(super) fn write(inode: u64, size: u64, extents: &str) -> Op {
    let mtime = Some(op::Time { seconds: -1, nanos: 999_999_999 });
    op(Kind::Write(op::Write { inode, size, mtime, extents: name(extents) }))
}

pub(super) fn truncate(inode: u64, size: u64) -> Op {
    op(Kind::Truncate(op::Truncate { inode, size, mtime: None }))
}

pub(super) fn set_xattr(inode: u64, text: &str, value: &str) -> Op {
    op(Kind::SetXattr(op::SetXattr { inode, name: name(text), value: name(value) }))
}

pub(super) fn remove_xattr(inode: u64, text: &str) -> Op {
    op(Kind::RemoveXattr(op::RemoveXattr { inode, name: name(text) }))
}

pub(super) fn forget(vector: &Vector) -> Op {
    let position = |(stream, lsn): (StreamId, Lsn)| op::StreamPosition {
        site: stream.site.0.into(),
        incarnation: stream.incarnation.0,
        lsn: lsn.0,
    };
    op(Kind::Forget(op::Forget { positions: vector.iter().map(position).collect() }))
}
