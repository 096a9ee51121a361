//! In which order batches of several streams are applied: a batch waits until what its writer had seen is applied.

use cfs_model::{Lsn, StreamId, Vector};

/// The next batch of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Next<'a> {
    /// Its stream.
    pub stream: StreamId,
    /// What its writer had seen; `None` if that did not change since the batch before.
    pub vector: Option<&'a Vector>,
}

/// What holds a stream up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The stream that waits.
    pub stream: StreamId,
    /// For this stream,
    pub on: StreamId,
    /// up to here.
    pub until: Lsn,
}

/// Whether a batch may be applied on top of `applied`, and if not, what it waits for.
pub fn ready(next: &Next<'_>, applied: &Vector) -> Result<(), Waiting> {
    let missing = next.vector.and_then(|vector| {
        vector.iter().find(|(stream, lsn)| *stream != next.stream && !applied.covers_entry(*stream, *lsn))
    });
    match missing {
        None => Ok(()),
        Some((on, until)) => Err(Waiting { stream: next.stream, on, until }),
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::{Incarnation, SiteId};

    use super::*;

    #[test]
    fn a_batch_waits_for_what_its_writer_had_seen() {
        let stream = |site| StreamId { site: SiteId(site), incarnation: Incarnation(1) };
        let seen: Vector = [(stream(1), Lsn(5)), (stream(2), Lsn(99))].into_iter().collect();
        let next = Next { stream: stream(2), vector: Some(&seen) };
        let applied = |lsn| [(stream(1), Lsn(lsn))].into_iter().collect::<Vector>();
        let waiting = Waiting { stream: stream(2), on: stream(1), until: Lsn(5) };
        assert_eq!(ready(&next, &applied(4)), Err(waiting));
        assert_eq!(ready(&next, &applied(5)), Ok(()), "its own stream does not hold it up");
        assert_eq!(ready(&Next { vector: None, ..next }, &applied(0)), Ok(()));
    }
}
