//! The journal's size, and who falls behind it. Pure.

use cfs_rpc::v1::StatusReply;

use super::checks::finding;
use super::finding::{self as code, Finding, Level};
use crate::commands::replication::journal_status::size_text;
use crate::commands::replication::status::duration_text;

/// Journal above which the runbook warns.
pub(super) const LARGE_BYTES: u64 = 5_000_000_000;
/// Journal that the runbook calls critical.
pub(super) const TOO_LARGE_BYTES: u64 = 10_000_000_000;
/// An operator has a day to bring a site back before it needs a snapshot, and is told then.
const EXHAUSTION_WARNING_S: u64 = 24 * 3600;
/// The last hour.
const EXHAUSTION_CRITICAL_S: u64 = 3600;
/// Removed names and inodes that wait to be forgotten, above which it is worth a look.
const MANY_TOMBSTONES: u64 = 1_000_000;

/// What is wrong, as this site's shipper sees it.
pub(super) fn findings(shipper: &StatusReply) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(size(shipper));
    found.extend(exhaustion(shipper));
    let own = Some((shipper.site.as_str(), shipper.behind.as_str()));
    let peers = shipper.peers.iter().map(|peer| (peer.site.as_str(), peer.behind.as_str()));
    let behind = own.into_iter().chain(peers).filter(|(_, why)| !why.is_empty());
    found.extend(behind.map(|(site, why)| needs_snapshot(site, why)));
    found.extend(tombstones(shipper));
    found
}

fn size(shipper: &StatusReply) -> Option<Finding> {
    let bytes = shipper.journal_bytes;
    let level = match bytes {
        0..=LARGE_BYTES => return None,
        bytes if bytes <= TOO_LARGE_BYTES => Level::Warning,
        _ => Level::Critical,
    };
    Some(finding(
        code::JOURNAL_LARGE,
        level,
        &shipper.site,
        format!(
            "the journal of {} takes {}; above 5 GB is a warning, above 10 GB critical",
            shipper.site,
            size_text(bytes)
        ),
        "it takes room that the store may need",
        "cfs admin replication journal-status, then gc --aggressive".into(),
    ))
}

fn exhaustion(shipper: &StatusReply) -> Option<Finding> {
    let in_s = shipper.journal_exhausted_in_s.filter(|in_s| *in_s < EXHAUSTION_WARNING_S)?;
    let level = if in_s < EXHAUSTION_CRITICAL_S { Level::Critical } else { Level::Warning };
    let site = &shipper.journal_exhausted_by;
    Some(finding(
        code::JOURNAL_EXHAUSTION,
        level,
        site,
        format!("what {site} lacks reaches the retention budget in {}", duration_text(in_s.saturating_mul(1000))),
        "then it goes, and the site needs a snapshot when it is back",
        format!("start {site}, or raise journal_retention_bytes: cfs admin replication journal-status"),
    ))
}

fn needs_snapshot(site: &str, why: &str) -> Finding {
    finding(
        code::NEEDS_SNAPSHOT,
        Level::Critical,
        site,
        format!("{site} needs a snapshot: {why}"),
        "it falls behind and cannot take over; nothing is lost, and no gap is skipped",
        format!("on {site}: cfs admin replication cursor status"),
    )
}

fn tombstones(shipper: &StatusReply) -> Option<Finding> {
    (shipper.tombstones > MANY_TOMBSTONES).then(|| {
        let down: Vec<&str> = shipper.peers.iter().filter(|p| p.state == "DOWN").map(|p| p.site.as_str()).collect();
        let next = match down.as_slice() {
            [] => "nothing: they go once every site has applied what removed them".to_owned(),
            down => format!("start {}, or take it out: cfs admin replication remove", down.join(" and ")),
        };
        finding(
            code::TOMBSTONES,
            Level::Warning,
            &shipper.site,
            format!("{} removed names and inodes wait until every site has applied their removal", shipper.tombstones),
            "they take room in the store",
            next,
        )
    })
}
