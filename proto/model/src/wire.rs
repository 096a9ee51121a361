//! Between the model's types and their messages.

use crate::op::StreamPosition;
use crate::{Incarnation, Lsn, SiteId, StreamId, Vector};

impl StreamPosition {
    /// The message for a position.
    pub fn of(stream: StreamId, lsn: Lsn) -> Self {
        Self { site: u32::from(stream.site.0), incarnation: stream.incarnation.0, lsn: lsn.0 }
    }

    /// The stream named; `None` if the site's number is not one.
    pub fn stream(&self) -> Option<StreamId> {
        let site = SiteId(u8::try_from(self.site).ok().filter(|site| *site != 0)?);
        Some(StreamId { site, incarnation: Incarnation(self.incarnation) })
    }

    /// The position in that stream.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }
}

impl Vector {
    /// The message for a vector.
    pub fn to_wire(&self) -> Vec<StreamPosition> {
        self.iter().map(|(stream, lsn)| StreamPosition::of(stream, lsn)).collect()
    }

    /// Reads a message; `None` if it names a site that cannot be, or more than [`Self::MAX_STREAMS`] streams.
    pub fn from_wire(positions: &[StreamPosition]) -> Option<Self> {
        if positions.len() > Self::MAX_STREAMS {
            return None;
        }
        positions.iter().map(|p| Some((p.stream()?, p.lsn()))).collect()
    }
}
