//! Whether sites hold the same: digests at equal cursors, and the structure of what is held.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::v1;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::{blocking, store_error};
use crate::digests;
use crate::node::Node;

const DEFAULT_TIMEOUT_MS: u64 = 5000;
const MAX_TIMEOUT_MS: u64 = 600_000;
/// Cursors that have not met are compared again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// Findings of each kind that are listed; all are counted.
const MAX_PROBLEMS: usize = 100;

/// Compares with every peer, or recomputes the local digest; checks the structure either way.
pub(super) async fn check(node: &Arc<Node>, request: &v1::ConsistencyRequest) -> Result<v1::ConsistencyReply, Status> {
    let timeout_ms = if request.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { request.timeout_ms.min(MAX_TIMEOUT_MS) };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    if request.local {
        let sites = vec![recompute(node).await?];
        return Ok(v1::ConsistencyReply { sites, ..structure(node).await? });
    }
    let compared = node.config.peers.iter().map(|peer| async move {
        let site = peer.name.to_string();
        match tokio::time::timeout_at(deadline, compare(node, peer)).await {
            Ok(verdict) => verdict,
            Err(_) => not_compared(site, format!("cursors did not meet within {timeout_ms} ms; it may be far behind")),
        }
    });
    let sites = futures::future::join_all(compared).await;
    // Only now: a site that has just started was still applying while it waited to be compared.
    Ok(v1::ConsistencyReply { sites, ..structure(node).await? })
}

fn not_compared(site: String, why: String) -> v1::SiteVerdict {
    v1::SiteVerdict { site, verdict: "NOT COMPARED".into(), why, ..v1::SiteVerdict::default() }
}

/// Compares with one peer at the latest cursors that both have passed through.
async fn compare(node: &Arc<Node>, peer: &cfs_config::Peer) -> v1::SiteVerdict {
    let site = peer.name.to_string();
    let channel = match crate::dial::peer(node, peer).await {
        Ok(channel) => channel,
        Err(why) => return not_compared(site, why),
    };
    let mut client = v1::peer_client::PeerClient::new(channel);
    loop {
        let wanted = node.store.position().applied.to_wire();
        let theirs = match client.digests(v1::DigestsRequest { wanted, wait_ms: 1000 }).await.map(Response::into_inner)
        {
            Ok(theirs) => theirs,
            Err(status) => return not_compared(site, status.message().to_owned()),
        };
        if !theirs.comparable {
            return not_compared(site, theirs.why);
        }
        let ours = match digests::recent(node, v1::DigestsRequest::default()).await {
            Ok(ours) if ours.comparable => ours,
            Ok(ours) => return not_compared(site, format!("here {}", ours.why)),
            Err(status) => return not_compared(site, status.message().to_owned()),
        };
        if let Some(verdict) = meet(&site, &ours.points, &theirs.points) {
            return verdict;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The verdict at the latest point that is in both lists.
fn meet(site: &str, ours: &[v1::DigestPoint], theirs: &[v1::DigestPoint]) -> Option<v1::SiteVerdict> {
    let key = |point: &v1::DigestPoint| Vector::from_wire(&point.applied);
    let ours: HashMap<Vector, &v1::DigestPoint> = ours.iter().filter_map(|point| Some((key(point)?, point))).collect();
    let (here, there) = theirs.iter().rev().find_map(|there| Some((*ours.get(&key(there)?)?, there)))?;
    let hex = |root: &[u8]| root.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let same = here.root == there.root;
    Some(v1::SiteVerdict {
        site: site.to_owned(),
        verdict: if same { "MATCH" } else { "DIFFER" }.into(),
        why: if same { String::new() } else { "equal cursors, different digests: one of the two is damaged".into() },
        cursors: there.applied.clone(),
        digest_here: hex(&here.root),
        digest_there: hex(&there.root),
    })
}

async fn structure(node: &Arc<Node>) -> Result<v1::ConsistencyReply, Status> {
    let store = node.store.clone();
    let report = blocking(move || store.structure(MAX_PROBLEMS).map_err(store_error)).await?;
    let mut problems: Vec<String> = Vec::new();
    problems.extend(report.orphans.iter().map(|inode| format!("inode {inode} exists and has no name")));
    problems.extend(report.detached.iter().map(|inode| format!("directory {inode} has no way to the root")));
    problems.extend(report.multiply_named.iter().map(|inode| format!("directory {inode} has more than one name")));
    problems.extend(report.dangling.iter().map(|(parent, name, inode)| {
        format!(
            "entry {:?} of directory {parent} points to inode {inode}, which is not there",
            String::from_utf8_lossy(name)
        )
    }));
    let found = report.orphan_count + report.detached_count + report.multiply_named_count + report.dangling_count;
    if found > problems.len() as u64 {
        problems.push(format!("... and {} more", found - problems.len() as u64));
    }
    Ok(v1::ConsistencyReply {
        site: node.site().to_string(),
        sites: Vec::new(),
        inodes: report.inodes,
        entries: report.entries,
        orphans: report.orphan_count,
        dangling: report.dangling_count,
        cycles: report.detached_count + report.multiply_named_count,
        structure_sound: report.is_sound(),
        problems,
    })
}

async fn recompute(node: &Arc<Node>) -> Result<v1::SiteVerdict, Status> {
    let store = node.store.clone();
    let recomputed = blocking(move || store.recompute_digest().map_err(store_error)).await?;
    let same = recomputed.agrees();
    Ok(v1::SiteVerdict {
        site: node.site().to_string(),
        verdict: if same { "MATCH" } else { "DIFFER" }.into(),
        why: if same {
            String::new()
        } else {
            "the registers do not have the digest that was kept: the file is damaged".into()
        },
        cursors: recomputed.running.applied.to_wire(),
        digest_here: format!("{:032x}", recomputed.running.root),
        digest_there: format!("{:032x}", recomputed.registers.root),
    })
}
