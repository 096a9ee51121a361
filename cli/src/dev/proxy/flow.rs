//! Bytes in one direction of one connection.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use super::link::Link;
use crate::dev::faults::Fault;

const READ_BYTES: usize = 64 * 1024;
/// Most bytes under way in one direction of a connection.
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
const MIN_QUEUED_BYTES: usize = 256 * 1024;
/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = 64;
/// How much a slow line queues before it holds up the sender, as routers do.
const LINE_QUEUE: Duration = Duration::from_millis(200);
/// A slow line takes pieces of so much time, so that connections share it.
const LINE_PIECE: Duration = Duration::from_millis(10);
const MIN_LINE_PIECE_BYTES: usize = 1400;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The sender said that nothing more comes, and the receiver was told.
    Finished,
    /// The sender broke the connection; the receiver is to be told.
    Reset,
    /// The receiver is gone; the sender is to be told.
    Gone,
}

struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    arrived: Instant,
}

/// What is under way.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// The sender ended then, after all pieces.
    end: Option<(Ended, Instant)>,
}

/// What can be done about the oldest piece.
enum Next {
    Nothing,
    WaitUntil(Instant),
    Write(usize),
    Deliver(Ended),
}

impl Queue {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() + PIECE_BYTES;
        self.pieces.push_back(Piece { bytes: bytes.to_vec(), sent: 0, arrived: Instant::now() });
    }

    fn front(&self) -> &[u8] {
        self.pieces.front().and_then(|piece| piece.bytes.get(piece.sent..)).unwrap_or_default()
    }

    fn wrote(&mut self, bytes: usize) {
        let Some(piece) = self.pieces.front_mut() else { return };
        piece.sent += bytes;
        self.bytes -= bytes;
        if piece.sent >= piece.bytes.len() {
            self.bytes -= PIECE_BYTES;
            self.pieces.pop_front();
        }
    }

    fn has_room(&self, fault: Fault) -> bool {
        let limit = fault.bandwidth.map_or(MAX_QUEUED_BYTES, |per_second| {
            let time = LINE_QUEUE + Duration::from_millis(fault.delay_ms);
            bytes_in(time, per_second).clamp(MIN_QUEUED_BYTES, MAX_QUEUED_BYTES)
        });
        self.end.is_none() && self.bytes < limit
    }

    /// `slot` is the place on a slow line that the oldest piece has.
    fn next(&self, fault: Fault, slot: &mut Option<(Instant, usize)>, link: &Link) -> Next {
        if fault.cut {
            return Next::Nothing;
        }
        let delay = Duration::from_millis(fault.delay_ms);
        let now = Instant::now();
        let due = |arrived: Instant| Some(arrived + delay).filter(|due| *due > now);
        let Some(piece) = self.pieces.front() else {
            return match self.end {
                None => Next::Nothing,
                Some((ended, arrived)) => due(arrived).map_or(Next::Deliver(ended), Next::WaitUntil),
            };
        };
        if let Some(due) = due(piece.arrived) {
            return Next::WaitUntil(due);
        }
        let left = self.front().len();
        let Some(per_second) = fault.bandwidth else { return Next::Write(left) };
        let (from, bytes) = *slot.get_or_insert_with(|| {
            let bytes = left.min(bytes_in(LINE_PIECE, per_second).max(MIN_LINE_PIECE_BYTES));
            (link.reserve(bytes, per_second), bytes)
        });
        if from > now { Next::WaitUntil(from) } else { Next::Write(bytes.min(left)) }
    }
}

/// Passes on what `from` sends, as the link's rules say, until either end is done.
pub(super) async fn flow(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, link: &Link) -> Ended {
    let mut rules = link.watch();
    let mut buffer = vec![0; READ_BYTES];
    let mut queue = Queue::default();
    let mut slot = None;
    loop {
        let fault = *rules.borrow_and_update();
        let (mut writes, mut wake) = (0, None);
        match queue.next(fault, &mut slot, link) {
            Next::Nothing => {}
            Next::WaitUntil(due) => wake = Some(due),
            Next::Write(bytes) => writes = bytes,
            Next::Deliver(Ended::Finished) => {
                return if to.shutdown().await.is_ok() { Ended::Finished } else { Ended::Gone };
            }
            Next::Deliver(ended) => return ended,
        }
        tokio::select! {
            // The sender lives in the link.
            _ = rules.changed() => slot = None,
            read = from.read(&mut buffer), if !fault.cut && queue.has_room(fault) => match read {
                Ok(0) => queue.end = Some((Ended::Finished, Instant::now())),
                Ok(bytes) => {
                    let free = queue.pieces.is_empty() && *rules.borrow() == Fault::default();
                    let passed = if free { pass_on(&to, &buffer[..bytes]) } else { Ok(0) };
                    match passed {
                        Ok(passed) if passed == bytes => {}
                        Ok(passed) => queue.push(&buffer[passed..bytes]),
                        Err(_) => return Ended::Gone,
                    }
                }
                Err(_) => queue.end = Some((Ended::Reset, Instant::now())),
            },
            written = to.write(&queue.front()[..writes]), if writes > 0 => match written {
                Ok(0) | Err(_) => return Ended::Gone,
                Ok(bytes) => {
                    queue.wrote(bytes);
                    slot = slot.map(|(at, left)| (at, left - bytes.min(left))).filter(|(_, left)| *left > 0);
                }
            },
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

/// Writes what the kernel takes at once.
fn pass_on(to: &WriteHalf<'_>, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn bytes_in(time: Duration, per_second: u64) -> usize {
    (time.as_secs_f64() * per_second as f64) as usize
}
