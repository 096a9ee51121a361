//! Checkpoints of the trail at other sites, and theirs here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cfs_audit::checkpoint::Taken;
use cfs_audit::{Checkpoint, Event, Hash, Held, Kind, Severity};
use cfs_config::Peer;
use cfs_model::SiteName;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use jiff::{SignedDuration, Timestamp};
use tonic::{Code, Status};

use super::{now, retention};
use crate::dial;
use crate::node::Node;

/// A trail that grew is told of to the other sites so often.
const INTERVAL: Duration = Duration::from_secs(5);
/// Another site has so long to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

fn to_wire(checkpoint: &Checkpoint) -> v1::AuditCheckpoint {
    v1::AuditCheckpoint {
        site: checkpoint.site.clone(),
        trail: checkpoint.trail.clone(),
        count: checkpoint.count,
        head: checkpoint.head.0.to_vec().into(),
        time_ms: checkpoint.time.as_millisecond(),
        key: checkpoint.key.clone(),
        signature: checkpoint.signature.clone(),
    }
}

fn from_wire(message: v1::AuditCheckpoint) -> Option<Checkpoint> {
    let v1::AuditCheckpoint { site, trail, count, head, time_ms, key, signature } = message;
    let head = Hash(head.as_ref().try_into().ok()?);
    let time = Timestamp::from_millisecond(time_ms).ok()?;
    Some(Checkpoint { site, trail, count, head, time, key, signature })
}

/// Gives the newest checkpoint to every other site that does not hold it, for as long as the process lives.
pub(crate) async fn hand_out(node: Arc<Node>) {
    let mut given: BTreeMap<SiteName, Checkpoint> = BTreeMap::new();
    let mut refused: BTreeMap<SiteName, String> = BTreeMap::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let asked = node.clone();
        let newest = tokio::task::spawn_blocking(move || {
            let trail = asked.audit.trail();
            trail.as_ref().and_then(|trail| trail.newest_checkpoint().cloned())
        });
        let Ok(Some(newest)) = newest.await else { continue };
        let lacking = node.data_peers().into_iter().filter(|peer| given.get(&peer.name) != Some(&newest));
        let (node_of, checkpoint) = (&node, &newest);
        let asked = lacking.map(|peer| async move {
            let give = give(node_of, &peer, checkpoint);
            (peer.name.clone(), tokio::time::timeout(TIMEOUT, give).await.unwrap_or_else(|_| Err("no answer".into())))
        });
        for (site, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(why) if why.is_empty() => {
                    refused.remove(&site);
                    given.insert(site, newest.clone());
                }
                Ok(why) => {
                    // The same again is no news; every new checkpoint contradicts too.
                    if refused.insert(site.clone(), why.clone()).is_none() {
                        let text = format!("ERROR: {site} does not take a checkpoint of this audit trail: {why}");
                        node.metrics.error("audit_checkpoint");
                        tracing::error!("{text}");
                        node.audit(Event::new(Kind::Trail, Severity::Error, text).site(site.as_str()));
                    }
                    given.insert(site, newest.clone());
                }
                // A site that is down, or does not know of checkpoints yet, is asked again.
                Err(error) => tracing::debug!(%site, error, "a checkpoint was not handed over"),
            }
        }
    }
}

/// Why it is not taken; empty if it is.
async fn give(node: &Node, peer: &Peer, checkpoint: &Checkpoint) -> Result<String, String> {
    let channel = dial::peer(node, peer).await?;
    let answer = PeerClient::new(channel).hold_checkpoint(to_wire(checkpoint)).await;
    answer.map(|reply| reply.into_inner().refused).map_err(|status| status.message().to_owned())
}

/// Keeps a checkpoint of another site's trail, whose certificate the caller has shown.
pub(crate) async fn hold(
    node: &Arc<Node>,
    site: SiteName,
    message: v1::AuditCheckpoint,
) -> Result<v1::HoldCheckpointReply, Status> {
    let checkpoint = from_wire(message).ok_or_else(|| Status::invalid_argument("the checkpoint is not one"))?;
    let of = site.clone();
    let taken = with_held(node, move |node, held| {
        let kept = SignedDuration::from_secs(i64::try_from(retention(&node.settings).0).unwrap_or(i64::MAX));
        let oldest = now(node).checked_sub(kept).unwrap_or(Timestamp::UNIX_EPOCH);
        held.take(of.as_str(), checkpoint, oldest)
    });
    let refused = match taken.await? {
        Taken::Held => String::new(),
        Taken::NewTrail { before } => {
            let text = format!("{site} began another audit trail; the one before had {before} records");
            tracing::warn!("{text}");
            node.audit(Event::new(Kind::Trail, Severity::Warning, text).site(site.as_str()));
            String::new()
        }
        Taken::Contradicts(why) => {
            let text = format!("ERROR: the audit trail of {site} is not what it was: {why}");
            node.metrics.error("audit_checkpoint");
            tracing::error!("{text}");
            node.audit(Event::new(Kind::Trail, Severity::Error, text).site(site.as_str()));
            why
        }
    };
    Ok(v1::HoldCheckpointReply { refused })
}

/// The checkpoints of another site's trail that are held here.
pub(crate) async fn held_here(node: &Arc<Node>, site: SiteName) -> Result<v1::HeldCheckpointsReply, Status> {
    let held = with_held(node, move |_, held| held.of(site.as_str())).await?;
    Ok(v1::HeldCheckpointsReply { checkpoints: held.iter().map(to_wire).collect() })
}

async fn with_held<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node, &Held) -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let node = node.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut held = node.audit.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match &mut *held {
            Some(held) => held,
            none => none.insert(Held::open(&node.audit.dir)?),
        };
        work(&node, held)
    });
    let done = done.await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| Status::new(Code::Unavailable, format!("checkpoints cannot be kept here: {error}")))
}

/// The checkpoints of this site's trail that other sites hold, and the sites that could not be asked.
pub(crate) async fn held_by_others(node: &Arc<Node>) -> (BTreeMap<String, Vec<Checkpoint>>, Vec<String>) {
    let asked = node.data_peers().into_iter().map(|peer| async move {
        let ask = async {
            let channel = dial::peer(node, &peer).await?;
            let answer = PeerClient::new(channel).held_checkpoints(v1::HeldCheckpointsRequest {}).await;
            answer.map(|reply| reply.into_inner().checkpoints).map_err(|status| status.message().to_owned())
        };
        (peer.name.to_string(), tokio::time::timeout(TIMEOUT, ask).await.unwrap_or_else(|_| Err("no answer".into())))
    });
    let (mut held, mut unreachable) = (BTreeMap::new(), Vec::new());
    for (site, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(checkpoints) => drop(held.insert(site, checkpoints.into_iter().filter_map(from_wire).collect())),
            Err(_) => unreachable.push(site),
        }
    }
    (held, unreachable)
}
