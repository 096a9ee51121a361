//! Walks the records of one segment in order and checks each against what came before.

use std::io;
use std::sync::Arc;

use cfs_model::{Epoch, Lsn};
use cfs_shipper_core::batch::{self, Batch, ChainHash, MAX_HEADER_BYTES};
use cfs_shipper_core::caps::MAX_BATCH_BYTES;

use crate::files::File;
use crate::segment::{HEADER_BYTES, MARK_BYTES, MARK_MAGIC, Mark, SegmentHeader};
use crate::window::Window;

/// What stands at the next place of a segment.
pub(crate) enum Found {
    /// A batch that continues the stream.
    Batch {
        offset: u64,
        batch: Batch,
    },
    /// Nothing more, or only zeros.
    End,
    Invalid(Invalid),
}

/// A place where no valid record stands.
#[derive(Debug)]
pub(crate) struct Invalid {
    pub(crate) offset: u64,
    pub(crate) what: String,
    /// Whether no crash can have caused this, so that it is damage wherever it stands.
    pub(crate) certain: bool,
}

/// Batches of the group that is being walked.
#[derive(Clone, Copy)]
enum Group {
    /// Between groups, or after a complete one.
    Outside,
    /// After a mark that stands at `mark`; `taken` of `batches` have come.
    Inside { mark: u64, taken: u32, batches: u32 },
    /// The walk began in the middle of a group.
    Unknown,
}

/// A walk along one segment.
pub(crate) struct Walk {
    window: Window,
    segment: SegmentHeader,
    at: u64,
    /// Where the last batch ended: what a cut keeps.
    kept: u64,
    limit: u64,
    next: Lsn,
    chain: ChainHash,
    epoch: Epoch,
    group: Group,
}

impl Walk {
    /// Begins at the first record of `segment`. `epoch` is that of the batch before, as far as known.
    pub(crate) fn start(file: Arc<dyn File>, segment: SegmentHeader, limit: u64, epoch: Epoch) -> Self {
        let at = HEADER_BYTES as u64;
        let (next, chain) = (segment.first_lsn, segment.chain);
        Self { window: Window::new(file), segment, at, kept: at, limit, next, chain, epoch, group: Group::Outside }
    }

    /// Begins at `at`, where the record of `next`, or the mark before it, stands, and where the chain is `chain`.
    pub(crate) fn resume(
        file: Arc<dyn File>,
        segment: SegmentHeader,
        at: u64,
        next: Lsn,
        chain: ChainHash,
        epoch: Epoch,
    ) -> Self {
        let window = Window::new(file);
        Self { window, segment, at, kept: at, limit: at, next, chain, epoch, group: Group::Unknown }
    }

    /// Lets the walk go on up to `limit`.
    pub(crate) fn extend(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Lets the walk go on after its end, in a file that another process may have written since.
    pub(crate) fn again(&mut self, limit: u64) {
        self.window.forget();
        self.limit = limit;
    }

    /// LSN of the entry after the last batch.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The chain after the last batch.
    pub(crate) fn chain(&self) -> ChainHash {
        self.chain
    }

    /// The epoch of the last batch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where the last batch ended.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// The next batch. After `End` or `Invalid`, ask again only once the limit was extended.
    pub(crate) fn next(&mut self) -> io::Result<Found> {
        loop {
            let bytes = self.window.at(self.at, MARK_BYTES, self.limit)?;
            if bytes.iter().take(4).all(|b| *b == 0) {
                return self.end();
            }
            if !bytes.starts_with(&MARK_MAGIC) {
                return self.batch();
            }
            if let Err(invalid) = self.mark(&bytes) {
                return Ok(Found::Invalid(invalid));
            }
        }
    }

    /// Length of the next batch, if one seems to stand there.
    pub(crate) fn peek_bytes(&mut self) -> io::Result<Option<usize>> {
        let mut at = self.at;
        if self.window.at(at, MARK_BYTES, self.limit)?.starts_with(&MARK_MAGIC) {
            at += MARK_BYTES as u64;
        }
        let bytes = self.window.at(at, MAX_HEADER_BYTES, self.limit)?;
        Ok(batch::Header::decode(&bytes).ok().map(|(header, len, _)| len + header.encoded_len as usize))
    }

    fn invalid(&self, what: impl Into<String>, misfit: bool) -> Invalid {
        // A segment gets its name only once its first group is durable.
        Invalid { offset: self.at, what: what.into(), certain: misfit || self.in_first_group() }
    }

    fn in_first_group(&self) -> bool {
        let first = HEADER_BYTES as u64;
        match self.group {
            Group::Outside => self.at == first,
            Group::Inside { mark, taken, batches } => mark == first && taken < batches,
            Group::Unknown => false,
        }
    }

    fn mark(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let Some(mark) = Mark::decode(bytes, &self.segment, self.at) else {
            return Err(self.invalid("the sync mark is not valid", false));
        };
        if mark.durable.next() != self.next {
            let what = format!("a sync mark says that {} was durable, it stands before {}", mark.durable, self.next);
            return Err(self.invalid(what, true));
        }
        if matches!(self.group, Group::Inside { taken: 0, .. }) {
            return Err(self.invalid("a sync mark follows another one", true));
        }
        if self.in_first_group() && !matches!(self.group, Group::Outside) {
            return Err(self.invalid("batches are missing before a sync mark", true));
        }
        self.group = Group::Inside { mark: self.at, taken: 0, batches: mark.batches };
        self.at += MARK_BYTES as u64;
        Ok(())
    }

    fn batch(&mut self) -> io::Result<Found> {
        let batch = match self.decode()? {
            Ok(batch) => batch,
            Err(e) => {
                let what = format!("no valid batch stands there: {e}");
                return Ok(Found::Invalid(self.invalid(what, !a_crash_leaves(&e))));
            }
        };
        if let Some(what) = self.misfit(&batch) {
            return Ok(Found::Invalid(self.invalid(what, true)));
        }
        let offset = self.at;
        let header = batch.header();
        (self.next, self.epoch, self.chain) = (header.last_lsn().next(), header.epoch, batch.chain_after());
        self.at += batch.bytes().len() as u64;
        self.kept = self.at;
        if let Group::Inside { taken, .. } = &mut self.group {
            *taken += 1;
        }
        Ok(Found::Batch { offset, batch })
    }

    fn decode(&mut self) -> io::Result<Result<Batch, batch::Error>> {
        let mut need = MARK_BYTES;
        loop {
            let bytes = self.window.at(self.at, need, self.limit)?;
            match Batch::decode(&bytes) {
                // Each round asks for more than there was, up to the length of a whole batch.
                Err(batch::Error::Short { have, need: more })
                    if more > need && more <= MAX_BATCH_BYTES && self.at + have as u64 <= self.limit =>
                {
                    need = more;
                }
                other => return Ok(other),
            }
        }
    }

    /// Why a batch, valid in itself, cannot stand here. No crash leaves such a one behind.
    fn misfit(&self, batch: &Batch) -> Option<String> {
        let header = batch.header();
        let outside = match self.group {
            Group::Outside => true,
            Group::Inside { taken, batches, .. } => taken == batches,
            Group::Unknown => false,
        };
        if outside {
            Some("a batch follows without a sync mark".to_owned())
        } else if header.stream != self.segment.stream {
            Some(format!("a batch of stream {} stands in stream {}", header.stream, self.segment.stream))
        } else if header.first_lsn != self.next {
            Some(format!("a batch starts at LSN {}, {} must follow", header.first_lsn, self.next))
        } else if header.chain != self.chain {
            Some(format!("a batch continues the chain {}, the chain here is {}", header.chain, self.chain))
        } else if header.epoch < self.epoch {
            Some(format!("a batch of epoch {} follows one of epoch {}", header.epoch, self.epoch))
        } else {
            None
        }
    }

    fn end(&mut self) -> io::Result<Found> {
        if self.window.blank_from(self.at, self.limit)? > self.at {
            return Ok(Found::Invalid(self.invalid("zeros stand where a record must start", false)));
        }
        if self.in_first_group() {
            return Ok(Found::Invalid(self.invalid("the segment ends within its first group", true)));
        }
        if self.at != self.kept {
            return Ok(Found::Invalid(self.invalid("no batch follows the sync mark", false)));
        }
        Ok(Found::End)
    }
}

/// Whether a write that was cut short can look like this. What is whole but of a format, codec or range that this
/// version does not know was written by another version, and is not to be cut.
fn a_crash_leaves(error: &batch::Error) -> bool {
    match error {
        batch::Error::Short { .. }
        | batch::Error::Magic
        | batch::Error::HeaderChecksum
        | batch::Error::PayloadChecksum => true,
        batch::Error::Format(format) => *format == 0,
        batch::Error::Range(_) | batch::Error::Codec(_) => false,
    }
}
