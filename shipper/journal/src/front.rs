//! Where a stream begins on this disk, if not at LSN 1: the file `front` in its directory. The layout is in
//! `docs/protocol/journal.md`.

use std::io;
use std::path::Path;

use bytes::{Buf, BufMut};
use cfs_model::{Epoch, Incarnation, Lsn, SiteId, StreamId};
use cfs_shipper_core::batch::ChainHash;
use xxhash_rust::xxh3::xxh3_64;

use crate::files::Files;
use crate::segment::UNFINISHED;
use crate::stream::Position;
use crate::window::Window;

/// First bytes of the file.
const MAGIC: [u8; 4] = *b"CFSF";
/// The format that this code writes, and the only one it reads.
const FORMAT: u16 = 1;
/// Bytes of the file.
const FRONT_BYTES: usize = 72;
const CHECKSUM_BYTES: usize = 8;
/// Name of the file.
pub(crate) const NAME: &str = "front";

/// The position after which `stream` begins if nothing of it was ever removed.
pub(crate) fn origin(stream: StreamId) -> Position {
    Position { durable: Lsn::ZERO, chain: ChainHash::start(stream), epoch: Epoch(0), clock: 0 }
}

fn encode(stream: StreamId, front: &Position) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRONT_BYTES);
    out.extend_from_slice(&MAGIC);
    out.put_u16_le(FORMAT);
    out.put_u16_le(FRONT_BYTES as u16);
    out.put_u8(stream.site.0);
    out.put_bytes(0, 7);
    out.put_u64_le(stream.incarnation.0);
    out.put_u64_le(front.durable.0);
    out.put_u64_le(front.epoch.0);
    out.put_u64_le(front.clock);
    out.extend_from_slice(&front.chain.0);
    let checksum = xxh3_64(&out);
    out.put_u64_le(checksum);
    out
}

fn decode(stream: StreamId, bytes: &[u8]) -> Result<Position, String> {
    if bytes.len() != FRONT_BYTES || bytes[..4] != MAGIC {
        return Err("the file is not one that says where a stream begins".to_owned());
    }
    let (covered, mut checksum) = bytes.split_at(FRONT_BYTES - CHECKSUM_BYTES);
    if xxh3_64(covered) != checksum.get_u64_le() {
        return Err("its checksum is wrong".to_owned());
    }
    let mut b = &covered[4..];
    let (format, length) = (b.get_u16_le(), b.get_u16_le());
    if format != FORMAT || usize::from(length) != FRONT_BYTES {
        return Err(format!("its format is {format}, this version reads {FORMAT}"));
    }
    let site = SiteId(b.get_u8());
    b.advance(7);
    let said = StreamId { site, incarnation: Incarnation(b.get_u64_le()) };
    if said != stream {
        return Err(format!("it is that of stream {said}"));
    }
    let (durable, epoch, clock) = (Lsn(b.get_u64_le()), Epoch(b.get_u64_le()), b.get_u64_le());
    let mut chain = ChainHash([0; 16]);
    b.copy_to_slice(&mut chain.0);
    Ok(Position { durable, chain, epoch, clock })
}

/// Where the stream in `dir` begins. The inner error is what is wrong with the file.
pub(crate) fn read(files: &dyn Files, dir: &Path, stream: StreamId) -> io::Result<Result<Position, String>> {
    let file = match files.open_read_only(&dir.join(NAME)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(origin(stream))),
        Err(e) => return Err(e),
    };
    let bytes = Window::new(file.clone()).at(0, FRONT_BYTES, file.len()?)?;
    Ok(decode(stream, &bytes))
}

/// Why a front was not written.
pub(crate) enum Failed {
    /// The old one stands.
    Before(io::Error),
    /// Which of the two stands is known after a restart.
    Unknown(io::Error),
}

/// Makes it durable that the stream in `dir` begins after `front`.
pub(crate) fn write(files: &dyn Files, dir: &Path, stream: StreamId, front: &Position) -> Result<(), Failed> {
    let path = dir.join(format!("{NAME}{UNFINISHED}"));
    match files.remove(&path) {
        // An earlier attempt left it.
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failed::Before(e)),
    }
    let file = files.create(&path).map_err(Failed::Before)?;
    file.write_all_at(&encode(stream, front), 0).map_err(Failed::Before)?;
    file.sync_all().map_err(Failed::Before)?;
    files.rename(&path, &dir.join(NAME)).map_err(Failed::Unknown)?;
    files.sync_dir(dir).map_err(Failed::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_is_read_as_written_and_no_changed_byte_passes() {
        let stream = StreamId { site: SiteId(3), incarnation: Incarnation(7) };
        let front = Position { durable: Lsn(41), chain: ChainHash([9; 16]), epoch: Epoch(5), clock: 77 };
        let bytes = encode(stream, &front);
        assert_eq!(bytes.len(), FRONT_BYTES);
        assert_eq!(decode(stream, &bytes), Ok(front));
        assert!(decode(StreamId { incarnation: Incarnation(8), ..stream }, &bytes).is_err());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode(stream, &changed).is_err(), "byte {at}");
        }
        assert!(decode(stream, &bytes[..70]).is_err());
    }
}
