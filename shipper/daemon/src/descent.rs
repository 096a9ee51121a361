//! From buckets down to the inodes in which this site and another differ. What travels grows with the difference.
//!
//! Both go on applying meanwhile. So this site is read before and after the other, at positions below and above the
//! other's: where both reads say the same, nothing was written in between, and the other must have that too. What was
//! written in between is looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_store::verify::{Content, Contents, Differing, MAX_PLACES, Place};
use tonic::transport::Channel;

use crate::digests::wait_applied;
use crate::node::Node;
use crate::verify::{content_from_wire, contents};

/// How long one side waits for the other to reach its position.
const WAIT: Duration = Duration::from_secs(2);
/// How often an inode is looked at that is being written.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(60);

/// Inodes in which two sites differ.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// The first `limit`, in order within each bucket.
    pub(crate) inodes: Vec<Differing>,
    /// All of them.
    pub(crate) count: u64,
    /// Those that were being written whenever they were looked at.
    pub(crate) undecided: u64,
}

/// Compares what two sites hold in `buckets`, naming at most `limit` inodes.
pub(crate) async fn differing(
    node: &Arc<Node>,
    peer: &mut PeerClient<Channel>,
    buckets: impl IntoIterator<Item = u16>,
    limit: usize,
) -> Result<Difference, String> {
    let mut out = Difference::default();
    for bucket in buckets {
        let mut open = vec![Place::default()];
        let mut busy: BTreeMap<u64, u32> = BTreeMap::new();
        while !open.is_empty() {
            let places = open.split_off(open.len().saturating_sub(MAX_PLACES));
            let round = Round::read(node, peer, bucket, places).await?;
            let mut again = BTreeSet::new();
            for step in round.steps() {
                match step {
                    Step::Deeper(place) => open.push(place),
                    Step::Differs(differing) => {
                        out.count += 1;
                        if out.inodes.len() < limit {
                            out.inodes.push(differing);
                        }
                    }
                    Step::Busy(place, inode) => {
                        let seen = busy.entry(inode).or_default();
                        *seen += 1;
                        if *seen < ATTEMPTS {
                            again.insert(place);
                        } else {
                            out.undecided += 1;
                        }
                    }
                }
            }
            if !again.is_empty() {
                tokio::time::sleep(PAUSE).await;
                open.extend(again);
            }
        }
    }
    Ok(out)
}

enum Step {
    /// The two differ in something below.
    Deeper(Place),
    /// They differ in this inode.
    Differs(Differing),
    /// The inode was written meanwhile. The place holds it alone, so that looking again counts no other twice.
    Busy(Place, u64),
}

/// What both have in some places: here before, there, here after.
struct Round {
    places: Vec<Place>,
    before: Contents,
    there: Vec<Content>,
    after: Contents,
}

impl Round {
    async fn read(
        node: &Arc<Node>,
        peer: &mut PeerClient<Channel>,
        bucket: u16,
        places: Vec<Place>,
    ) -> Result<Self, String> {
        let text = |status: tonic::Status| status.message().to_owned();
        let before = contents(node, bucket, places.clone()).await.map_err(text)?;
        let request = v1::DescendRequest {
            bucket: bucket.into(),
            places: places.iter().map(|place| place.levels().to_vec().into()).collect(),
            wanted: before.applied.to_wire(),
            wait_ms: WAIT.as_millis() as u64,
        };
        let reply = peer.descend(request).await.map_err(text)?.into_inner();
        let there: Option<Vec<Content>> = reply.places.iter().map(content_from_wire).collect();
        let there = there.filter(|there| there.len() == places.len()).ok_or("it answered with something else")?;
        let applied = Vector::from_wire(&reply.applied).ok_or("it answered with something else")?;
        wait_applied(node, &applied, WAIT).await;
        let after = contents(node, bucket, places.clone()).await.map_err(text)?;
        if !applied.covers(&before.applied) || !after.applied.covers(&applied) {
            let who = if after.applied.covers(&applied) { "the other site" } else { "this site" };
            return Err(format!("{who} did not reach the other's position within {} s", WAIT.as_secs()));
        }
        if !(before.comparable && after.comparable && reply.comparable) {
            return Err("a snapshot or a forgetting is under way".to_owned());
        }
        Ok(Self { places, before, there, after })
    }

    fn steps(&self) -> Vec<Step> {
        let here = self.before.places.iter().zip(&self.after.places);
        let mut steps = Vec::new();
        for ((place, there), (before, after)) in self.places.iter().zip(&self.there).zip(here) {
            if there == before || there == after {
                continue;
            }
            match (before, there, after) {
                (Content::Inodes(before), Content::Inodes(there), Content::Inodes(after)) => {
                    inodes(place, before, there, after, &mut steps);
                }
                _ => children(place, [before, there, after], &mut steps),
            }
        }
        steps
    }
}

/// Both list the inodes of a place.
fn inodes(place: &Place, before: &[(u64, u128)], there: &[(u64, u128)], after: &[(u64, u128)], out: &mut Vec<Step>) {
    let map = |list: &[(u64, u128)]| list.iter().copied().collect::<BTreeMap<u64, u128>>();
    let (before, there, after) = (map(before), map(there), map(after));
    let all: BTreeSet<u64> = before.keys().chain(there.keys()).chain(after.keys()).copied().collect();
    for inode in all {
        let (b, t, a) = (before.get(&inode), there.get(&inode), after.get(&inode));
        if t == b || t == a {
            continue;
        }
        let sum = |sum: Option<&u128>| sum.copied().unwrap_or_default();
        let differing = Differing { inode, here: sum(b), there: sum(t) };
        out.push(if b == a { Step::Differs(differing) } else { Step::Busy(alone(place, inode), inode) });
    }
}

/// The deepest place: it holds this inode and no other of its bucket.
pub(crate) fn alone(place: &Place, inode: u64) -> Place {
    let mut at = place.clone();
    while let Some(child) = at.child(at.child_with(inode)) {
        at = child;
    }
    at
}

/// One of the two has too many inodes to list them, so both are summed up by children.
fn children(place: &Place, contents: [&Content; 3], out: &mut Vec<Step>) {
    let [before, there, after] = contents.map(|content| match content {
        Content::Children(children) => children.iter().copied().collect(),
        Content::Inodes(inodes) => {
            let mut sums = BTreeMap::<u8, u128>::new();
            for (inode, sum) in inodes {
                let child = sums.entry(place.child_with(*inode)).or_default();
                *child = child.wrapping_add(*sum);
            }
            sums
        }
    });
    let all: BTreeSet<u8> = before.keys().chain(there.keys()).chain(after.keys()).copied().collect();
    for child in all {
        let (b, t, a) = (before.get(&child), there.get(&child), after.get(&child));
        if t != b && t != a {
            out.extend(place.child(child).map(Step::Deeper));
        }
    }
}
