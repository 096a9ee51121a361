//! Whether sites hold the same: digests at equal cursors, registers against the digests kept, the inodes in which sites
//! differ, and the structure of what is held.

mod findings;
mod structure;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_store::digest::BUCKETS;
use cfs_store::verify::Verified;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::node::Node;
use crate::verify::sums_from_wire;
use crate::{descent, digests, verify};
use findings::Findings;

const DEFAULT_TIMEOUT_MS: u64 = 5000;
const MAX_TIMEOUT_MS: u64 = 600_000;
/// Cursors that have not met are compared again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// The same where it is known that they will not meet unless they are equal by now.
const SURE_TIMEOUT: Duration = Duration::from_millis(1200);
/// A pass over a store, and the way down to what differs, take no longer than this.
const PASS: Duration = Duration::from_secs(3600);
/// Inodes that are named.
const MAX_NAMED: usize = 1000;

/// Compares with every peer, unless only this site is to be looked at; checks registers and structure either way.
pub(super) async fn check(node: &Arc<Node>, request: &v1::ConsistencyRequest) -> Result<v1::ConsistencyReply, Status> {
    let timeout_ms = if request.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { request.timeout_ms.min(MAX_TIMEOUT_MS) };
    let mut findings = Findings::default();
    let sites = if request.local {
        let here = verify::verify(node).await?;
        findings.damaged_here(node, &here);
        vec![local_verdict(node, &here)]
    } else {
        against_all(node, Duration::from_millis(timeout_ms), &mut findings).await?
    };
    // Only now: a site that has just started was still applying while it waited to be compared.
    let structure = if findings.is_disordered(node.site().as_str()) {
        structure::not_checked(node)
    } else {
        structure::check(node, &mut findings).await?
    };
    Ok(findings.fill(node.site(), v1::ConsistencyReply { sites, ..structure }))
}

/// What one comparison found.
struct Compared {
    verdict: v1::SiteVerdict,
    /// Whatever else was learnt of the peer, if it could be asked.
    there: Option<There>,
}

struct There {
    client: PeerClient<Channel>,
    verified: Verified,
    /// Buckets whose running sums differ.
    differing: Vec<u16>,
}

async fn against_all(
    node: &Arc<Node>,
    timeout: Duration,
    findings: &mut Findings,
) -> Result<Vec<v1::SiteVerdict>, Status> {
    let deadline = Instant::now() + timeout;
    let peers = node.data_peers();
    let compared = peers.iter().map(|peer| async move {
        let site = peer.name.to_string();
        let obstacle = obstacle(node, peer);
        let deadline = if obstacle.is_some() { deadline.min(Instant::now() + SURE_TIMEOUT) } else { deadline };
        let met = match tokio::time::timeout_at(deadline, compare(node, peer)).await {
            Ok(met) => met,
            Err(_) => Err(obstacle.unwrap_or_else(|| {
                format!("cursors did not meet within {} ms; it may be far behind", timeout.as_millis())
            })),
        };
        match met {
            Ok((verdict, client)) => match tokio::time::timeout(PASS, there(node, client)).await {
                Ok(Ok(there)) => Compared { verdict, there: Some(there) },
                Ok(Err(why)) => Compared { verdict: undecided(verdict, why), there: None },
                Err(_) => Compared { verdict: undecided(verdict, "it did not end its check".into()), there: None },
            },
            Err(why) => Compared { verdict: not_compared(site, why), there: None },
        }
    });
    let (here, compared) = tokio::join!(verify::verify(node), futures::future::join_all(compared));
    let here = here?;
    findings.damaged_here(node, &here);
    let mut sites = Vec::new();
    for Compared { mut verdict, there } in compared {
        if let Some(mut there) = there {
            let candidates: std::collections::BTreeSet<u16> =
                here.wrong.iter().chain(&there.verified.wrong).chain(&there.differing).copied().collect();
            // Where rows are not found, everything near them would seem to differ.
            let difference = if here.misplaced + there.verified.misplaced == 0 {
                descent::differing(node, &mut there.client, candidates, MAX_NAMED).await
            } else {
                Err("rows do not stand where their keys belong".to_owned())
            };
            let both = (&here, &there.verified);
            findings.compared(node.site(), both, &there.differing, difference, &mut verdict);
        }
        sites.push(verdict);
    }
    Ok(sites)
}

fn not_compared(site: String, why: String) -> v1::SiteVerdict {
    v1::SiteVerdict { site, verdict: "NOT COMPARED".into(), why, ..v1::SiteVerdict::default() }
}

/// Digests that match say nothing of registers that could not be read; those that differ do differ.
fn undecided(verdict: v1::SiteVerdict, why: String) -> v1::SiteVerdict {
    if verdict.verdict == "DIFFER" {
        verdict
    } else {
        v1::SiteVerdict { verdict: "NOT COMPARED".into(), why, ..verdict }
    }
}

/// Why the cursors of this site and a peer do not come to meet, as far as that is known; `None`: they do, or it has only started.
fn obstacle(node: &Node, peer: &cfs_config::Peer) -> Option<String> {
    if let Some(why) = node.governed.directed().kept_apart_from(peer.id) {
        return Some(format!("no streams are exchanged with it: {why}"));
    }
    let (now_ms, silence_ms) = (node.boot_ms(), node.silence_ms());
    if now_ms.saturating_sub(node.started_ms) <= silence_ms {
        return None;
    }
    let peers = node.peers.lock();
    let known = peers.get(&peer.name)?;
    if !known.is_silent(now_ms, silence_ms) {
        let answers = known.answered_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= silence_ms);
        return (!answers).then(|| "its words arrive here, and nothing that is sent from here is answered".to_owned());
    }
    let because = if known.trouble.is_empty() { String::new() } else { format!(": {}", known.trouble) };
    Some(format!("nothing of it arrives here{because}"))
}

/// Compares digests with one peer at the latest cursors that both have passed through.
pub(crate) async fn compare(
    node: &Arc<Node>,
    peer: &cfs_config::Peer,
) -> Result<(v1::SiteVerdict, PeerClient<Channel>), String> {
    let site = peer.name.to_string();
    let channel = crate::dial::peer(node, peer).await?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    loop {
        let wanted = node.store.position().applied.to_wire();
        let theirs = client.digests(v1::DigestsRequest { wanted, wait_ms: 1000 }).await.map(Response::into_inner);
        let theirs = theirs.map_err(|status| status.message().to_owned())?;
        if !theirs.comparable {
            return Err(theirs.why);
        }
        let ours = digests::recent(node, v1::DigestsRequest::default()).await;
        let ours = ours.map_err(|status| status.message().to_owned())?;
        if !ours.comparable {
            return Err(format!("here {}", ours.why));
        }
        if let Some(verdict) = meet(&site, &ours.points, &theirs.points) {
            return Ok((verdict, client));
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

/// Has a peer read its registers, and compares the running sums of buckets. Those that are the same before or after
/// are the same: what was written meanwhile is in one of the two.
async fn there(node: &Arc<Node>, mut client: PeerClient<Channel>) -> Result<There, String> {
    const BAD: &str = "it answered with something else";
    let before = node.store.digest();
    let request = v1::VerifyRequest { wanted: before.applied.to_wire(), wait_ms: 2000 };
    let reply = client.verify(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    let applied = Vector::from_wire(&reply.applied).ok_or(BAD)?;
    let buckets = sums_from_wire(&reply.buckets, BUCKETS).ok_or(BAD)?;
    digests::wait_applied(node, &applied, Duration::from_secs(2)).await;
    let after = node.store.digest();
    let differing = (0u16..).zip(&buckets).filter(|(bucket, sum)| {
        let bucket = usize::from(*bucket);
        before.buckets[bucket] != **sum && after.buckets[bucket] != **sum
    });
    let differing = differing.map(|(bucket, _)| bucket).collect();
    let wrong: Option<Vec<u16>> = reply
        .wrong
        .iter()
        .map(|bucket| u16::try_from(*bucket).ok().filter(|bucket| usize::from(*bucket) < BUCKETS))
        .collect();
    let verified = Verified {
        applied,
        buckets,
        rows: reply.rows,
        wrong: wrong.ok_or(BAD)?,
        // Not told; of what differs it follows from this site's.
        excess: Vec::new(),
        unreadable: reply.unreadable,
        unreadable_count: reply.unreadable_count,
        misplaced: reply.misplaced,
        astray: Vec::new(),
    };
    Ok(There { client, verified, differing })
}

fn local_verdict(node: &Node, here: &Verified) -> v1::SiteVerdict {
    let root = here.buckets.iter().fold(0u128, |sum, bucket| sum.wrapping_add(*bucket));
    v1::SiteVerdict {
        site: node.site().to_string(),
        verdict: if here.is_sound() { "MATCH" } else { "DIFFER" }.into(),
        why: if here.is_sound() {
            String::new()
        } else {
            "the registers do not have the digest that was kept: the file is damaged".into()
        },
        cursors: here.applied.to_wire(),
        digest_here: format!("{root:032x}"),
        digest_there: String::new(),
    }
}
