//! Messages between sites, and what can be done to them.

use cfs_control_core::{Answer, Lease, Order, Report};
use cfs_model::{Epoch, SiteId, Vector};

#[derive(Debug, Clone)]
pub enum Message {
    Report { report: Report, sent_ns: u64 },
    Reply { instance: u64, sent_ns: u64, lease: Lease },
    Order { instance: u64, op: u64, order: Order },
    Answer { instance: u64, op: u64, order: Order, answer: Answer },
    Ack { durable: Vector, floor: Epoch },
}

impl Message {
    /// The word by which a script holds it, and whether it concerns its receiver.
    pub const fn word(&self) -> (&'static str, bool) {
        match self {
            Self::Report { .. } => ("reports", false),
            Self::Reply { .. } => ("replies", true),
            Self::Order { .. } => ("orders", true),
            Self::Answer { .. } => ("answers", false),
            Self::Ack { .. } => ("acks", false),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Flight {
    pub at_ms: u64,
    pub from: SiteId,
    pub to: SiteId,
    pub message: Message,
}

impl Flight {
    /// What a script's `hold` matches.
    pub fn held_as(&self) -> (&'static str, SiteId) {
        let (word, to) = self.message.word();
        (word, if to { self.to } else { self.from })
    }
}
