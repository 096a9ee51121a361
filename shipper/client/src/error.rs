//! Why an entry was not appended, or why nobody knows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfs_model::Epoch;
use cfs_shipper_core::caps;

/// What ends a [`Producer`](crate::Producer): nothing further can be appended through it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The producer's name is empty or too long.
    #[error("producer name {0:?} is not usable: use 1 to {max} bytes", max = caps::MAX_PRODUCER_BYTES)]
    Name(String),
    /// No site to connect to was given.
    #[error("no address was given: name the producer address of at least one site")]
    NoAddress,
    /// Another site takes the appends, and the target does not lead there.
    #[error("{site} is not primary, {primary} is (epoch {epoch}): append there{at}", at = at(.address))]
    NotPrimary {
        /// The site that was asked.
        site: String,
        /// The site that takes appends.
        primary: String,
        /// Its producer address; empty if unknown.
        address: String,
        /// The epoch in which it does.
        epoch: Epoch,
    },
    /// The epoch that the producer insisted on is not the current one.
    #[error(
        "epoch {pinned} is over, the current one is {current}: append in that one, or leave the choice to the client"
    )]
    Fenced {
        /// What was insisted on.
        pinned: Epoch,
        /// What the site is in.
        current: Epoch,
    },
    /// Somebody else appends under this name.
    #[error(
        "the journal holds entry {held} of producer {producer:?}, but this process sent none beyond {sent}: \
         another process uses the name; give each its own"
    )]
    NameInUse {
        /// The name.
        producer: String,
        /// Highest sequence number that the journal holds.
        held: u64,
        /// Highest sequence number that this process sent, or found when it began.
        sent: u64,
    },
    /// The journal lost what it had acknowledged in this very epoch.
    #[error(
        "the journal holds producer {producer:?} up to {held}, but acknowledged {acknowledged} in the same epoch {epoch}: \
         acknowledged entries are lost; look at `cfs admin meta consistency-check` before appending more"
    )]
    LostAcknowledged {
        /// The name.
        producer: String,
        /// Highest sequence number that the journal holds.
        held: u64,
        /// Highest sequence number that it acknowledged.
        acknowledged: u64,
        /// The epoch in which both happened.
        epoch: Epoch,
    },
    /// The shipper refuses this producer for good: its certificate, its name or what it asks for.
    #[error("{target} refuses producer {producer:?}: {why}")]
    Rejected {
        /// Who refused.
        target: String,
        /// The name.
        producer: String,
        /// What it said.
        why: String,
    },
    /// Nothing was acknowledged within the time that the options allow.
    #[error("gave up after {after:?} without an acknowledgement: {why}")]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// What the last attempt ended with, or what the site in session says.
        why: String,
    },
    /// More refusals than this client keeps were never looked at.
    #[error("{0} refused entries were never looked at: await the appends, or call flush now and then")]
    Unheeded(usize),
    /// The producer was dropped.
    #[error("the producer was closed")]
    Closed,
}

fn at(address: &str) -> String {
    if address.is_empty() { String::new() } else { format!(" ({address})") }
}

/// Why an entry is not known to be in the journal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The shipper will never take this entry. Nothing of it was appended; the entries around it were.
    #[error("entry refused: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
        /// The entry, handed back.
        entry: Bytes,
    },
    /// The entry is longer than any entry may be; it was not sent.
    #[error("the entry has {bytes} bytes, the limit is {max}", bytes = .entry.len(), max = caps::MAX_ENTRY_BYTES)]
    TooLong {
        /// The entry, handed back.
        entry: Bytes,
    },
    /// A permit does not cover the entry; it was not sent.
    #[error("the permit has room for {entries} entries and {bytes} bytes, and the entry has {length}: reserve more", length = .entry.len())]
    PermitUsedUp {
        /// Entries that it still covers.
        entries: usize,
        /// Bytes that it still covers.
        bytes: usize,
        /// The entry, handed back.
        entry: Bytes,
    },
    /// A list to append was empty.
    #[error("there is nothing to append")]
    Empty,
    /// So much room can never come free.
    #[error(
        "{entries} entries of {bytes} bytes cannot be reserved at once, the limits are {max_entries} and {max_bytes}"
    )]
    PermitTooLarge {
        /// Entries asked for.
        entries: usize,
        /// Bytes asked for.
        bytes: usize,
        /// Entries that may be in flight.
        max_entries: usize,
        /// Bytes that may be in flight.
        max_bytes: usize,
    },
    /// The entry was sent, and the producer ended before an acknowledgement came that could be believed: it may be in
    /// the journal or not. A new producer of the same name learns from its start which.
    #[error("the entry was sent and never acknowledged, it may be in the journal or not: {0}")]
    Unknown(Arc<Fatal>),
    /// The producer ended before the entry was appended: it is not in the journal.
    #[error("the entry was not appended: {0}")]
    NotAppended(Arc<Fatal>),
}
