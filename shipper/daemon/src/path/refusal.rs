//! Why appends are refused, and what the producer is told.

use bytes::Bytes;
use cfs_model::op::Op;
use cfs_model::op::op::Kind;
use cfs_rpc::v1::refusal::Reason;
use cfs_rpc::v1::{Backpressure, Fenced, Invalid, NotPrimary};
use cfs_shipper_core::admit::Refused;
use cfs_shipper_core::caps::{MAX_APPEND_BYTES, MAX_APPEND_ENTRIES, MAX_ENTRY_BYTES};
use cfs_shipper_core::merge;
use prost::Message;

use crate::node::Node;

/// What a refused session is told to wait.
const RETRY_AFTER_MS: u64 = 100;

/// The answer to what was not admitted.
pub(crate) fn reason(node: &Node, refused: Refused, first_seq: u64) -> Reason {
    let invalid = |why: String| Reason::Invalid(Invalid { seq: first_seq, why });
    match refused {
        Refused::NotAccepting => not_primary(node),
        Refused::Fenced(current) => Reason::Fenced(Fenced { current_epoch: current.0 }),
        Refused::Gap { expected } => invalid(format!("sequence {first_seq} leaves a gap: {expected} comes next")),
        // Nothing is wrong with the entry: asked again, the journal says what the other session appended.
        Refused::Superseded => backpressure("a later session of the same producer took over".into()),
        Refused::BadSequence => invalid("sequence numbers start at 1".into()),
    }
}

/// Nobody may append here now: who may, or what this site waits for.
pub(crate) fn not_primary(node: &Node) -> Reason {
    let (site, address, epoch) = node.governed.primary();
    let directed = node.governed.directed();
    if directed.fenced {
        let why = fenced(&directed.fenced_why);
        return Reason::NotPrimary(NotPrimary { site: String::new(), address: String::new(), epoch: epoch.0, why });
    }
    if let Some(change) = node.governed.change_under_way() {
        let why = format!("the primary changes; this site waits for {change}");
        return Reason::NotPrimary(NotPrimary { site: String::new(), address: String::new(), epoch: epoch.0, why });
    }
    if site == node.site().as_str() {
        let why = match node.governed.waiting().for_what {
            waiting if waiting.is_empty() => "this site is primary and not ready yet".to_owned(),
            waiting => format!("this site is primary and waits for {waiting}"),
        };
        return backpressure(why);
    }
    if node.governed.is_told_primary() {
        // Active-active: another site may take them, and this one will again.
        return backpressure(match node.governed.waiting().for_what {
            waiting if waiting.is_empty() => "this site takes appends, and is not ready yet".to_owned(),
            waiting => format!("this site takes appends, and waits for {waiting}"),
        });
    }
    let why = if site.is_empty() { "no control process has named a primary yet" } else { "another site is primary" };
    Reason::NotPrimary(NotPrimary { site, address, epoch: epoch.0, why: why.into() })
}

fn fenced(why: &str) -> String {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("this site is fenced and takes no appends{why}; `cfs admin replication status` there names the way out")
}

/// Not now, but soon.
pub(crate) const fn backpressure(why: String) -> Reason {
    Reason::Backpressure(Backpressure { why, retry_after_ms: RETRY_AFTER_MS })
}

/// Checks every entry before any is admitted; returns their bytes.
pub(crate) fn validate(first_seq: u64, entries: &[Bytes]) -> Result<usize, Reason> {
    let invalid =
        |index: usize, why: String| Reason::Invalid(Invalid { seq: first_seq.saturating_add(index as u64), why });
    if entries.is_empty() || entries.len() > MAX_APPEND_ENTRIES {
        return Err(invalid(
            0,
            format!("a message holds {} entries, it may hold 1 to {MAX_APPEND_ENTRIES}", entries.len()),
        ));
    }
    let mut bytes = 0;
    for (index, entry) in entries.iter().enumerate() {
        if entry.is_empty() {
            return Err(invalid(index, "the entry is empty".into()));
        }
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(invalid(index, format!("the entry has {} bytes, the limit is {MAX_ENTRY_BYTES}", entry.len())));
        }
        bytes += entry.len();
        if bytes > MAX_APPEND_BYTES {
            return Err(invalid(index, format!("the message is over its limit of {MAX_APPEND_BYTES} bytes")));
        }
        let op = Op::decode(entry.clone()).map_err(|e| invalid(index, format!("the entry is no operation: {e}")))?;
        merge::validate(&op).map_err(|e| invalid(index, e.to_string()))?;
        if matches!(op.kind, Some(Kind::Forget(_))) {
            return Err(invalid(index, "only the primary itself writes forget".into()));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_site_says_so_with_whose_word_it_was() {
        let said = fenced("root@host sealed it and wants site-b to be primary");
        assert!(said.starts_with("this site is fenced and takes no appends: root@host sealed it"), "{said}");
        assert!(said.contains("status` there names the way out"), "{said}");
        assert!(fenced("").starts_with("this site is fenced and takes no appends; "));
    }
}
