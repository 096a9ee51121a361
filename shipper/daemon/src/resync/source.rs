//! Which site an inode is repaired from.

use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer;
use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_store::digest::bucket_of;
use cfs_store::verify::{MAX_TRIED, Place, Verified, wrong_here};
use tonic::transport::Channel;

use crate::node::Node;
use crate::{descent, dial};

/// How long a site may take to read its registers.
const PASS: Duration = Duration::from_secs(3600);
/// How often several sites are asked for the same moment.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(60);

/// A site with a copy that may be used.
pub(super) struct Source {
    pub(super) site: String,
    pub(super) client: PeerClient<Channel>,
    /// Why it was chosen.
    pub(super) why: String,
    /// Whether all that it holds verifies.
    is_whole: bool,
}

/// The site that was asked for, if it is sound; or one of those that are; or one whose copy of this inode is known to be
/// right. `here` is what this site's own registers are like. The error says why there is none.
pub(super) async fn choose(node: &Arc<Node>, request: &v1::ResyncRequest, here: &Verified) -> Result<Source, String> {
    let peers = if request.from.is_empty() { node.data_peers() } else { vec![named(node, &request.from)?] };
    if peers.is_empty() {
        return Err(format!("{} knows of no other site that holds data: there is nothing to repair from", node.site()));
    }
    let asked =
        peers.into_iter().map(|peer| async move { (peer.name.to_string(), examine(node, &peer, request, here).await) });
    let (mut sound, mut refused) = (Vec::new(), Vec::new());
    for (site, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(source) => sound.push(source),
            Err(why) => refused.push(format!("{site}: {why}")),
        }
    }
    if here.misplaced > 0 {
        // What is taken out here is all to come from there.
        sound.retain(|source| source.is_whole);
    }
    if sound.is_empty() {
        return Err(nobody(node, here, &request.from, &refused.join("; ")));
    }
    agree(&mut sound, request.inode).await?;
    Ok(sound.swap_remove(0))
}

fn named(node: &Node, name: &str) -> Result<Peer, String> {
    if name == node.site().as_str() {
        return Err(format!("{name} is the site to be repaired; next: name another one with --from, or leave it out"));
    }
    let peers = node.data_peers();
    peers.iter().find(|peer| peer.name.as_str() == name).cloned().ok_or_else(|| {
        let known: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        format!("{name} is no site that holds data; {} knows {}", node.site(), known.join(", "))
    })
}

/// Has a site read all its registers. If some are damaged in the bucket of the inode, its copy is taken where the digest
/// that this site keeps says that it is right. With `force`, damage in other buckets is no obstacle; and if the site was
/// asked for by name, neither is damage of which nobody can tell whether it is in this inode.
async fn examine(
    node: &Arc<Node>,
    peer: &Peer,
    request: &v1::ResyncRequest,
    here: &Verified,
) -> Result<Source, String> {
    let (inode, force) = (request.inode, request.force);
    let site = peer.name.to_string();
    let channel = dial::peer(node, peer).await?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
    let reply = match tokio::time::timeout(PASS, client.verify(v1::VerifyRequest::default())).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err("it did not end its check".to_owned()),
    };
    if !reply.comparable {
        return Err("it is not complete itself: a snapshot or a forgetting is under way".to_owned());
    }
    if reply.misplaced > 0 {
        return Err("rows of its store do not stand where their keys belong: it has to be rebuilt itself".to_owned());
    }
    if reply.wrong.is_empty() && reply.unreadable_count == 0 {
        return Ok(Source {
            site,
            client,
            is_whole: true,
            why: format!("all {} of its rows have the digest that it keeps", reply.rows),
        });
    }
    let near = reply.wrong.contains(&u32::from(bucket_of(inode)));
    let damage = format!(
        "it is damaged itself: {} buckets of its registers do not have the digest that it keeps, {} registers do not decode",
        reply.wrong.len(),
        reply.unreadable_count
    );
    if reply.unreadable.contains(&inode) {
        return Err(format!("{damage}, some of inode {inode} itself"));
    }
    let copy = if near && here.misplaced == 0 { copy_of(node, &mut client, here, inode).await } else { Copy::Unknown };
    match (copy, near, force) {
        (Copy::Right, ..) => {
            let why = format!("{damage}; but with its copy of inode {inode} those of {} have theirs", node.site());
            Ok(Source { site, client, why, is_whole: false })
        }
        (Copy::Wrong, ..) => {
            Err(format!("{damage}, and by the digest that {} keeps inode {inode} is right here", node.site()))
        }
        (Copy::Unknown, false, true) => Ok(Source {
            site,
            client,
            is_whole: false,
            why: format!("{damage}, none near inode {inode}; taken by force"),
        }),
        (Copy::Unknown, true, true) if !request.from.is_empty() => {
            let why = format!("{damage}, some in inode {inode} or near it, which is not known; taken by force");
            Ok(Source { site, client, why, is_whole: false })
        }
        (Copy::Unknown, true, _) => Err(format!(
            "{damage}, some in inode {inode} or near it: its copy is taken with --from {site} --force alone"
        )),
        (Copy::Unknown, false, false) => Err(damage),
    }
}

/// What is known of another site's copy of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Right,
    Wrong,
    Unknown,
}

/// Judges another site's copy of an inode by the digest that this site keeps.
async fn copy_of(node: &Arc<Node>, client: &mut PeerClient<Channel>, here: &Verified, inode: u64) -> Copy {
    let bucket = bucket_of(inode);
    let Ok(difference) = descent::differing(node, client, [bucket], MAX_TRIED + 1).await else { return Copy::Unknown };
    if difference.undecided > 0 || !difference.inodes.iter().any(|differing| differing.inode == inode) {
        return Copy::Unknown;
    }
    match wrong_here(here.excess_of(bucket), &difference.inodes) {
        Some(wrong) if wrong.contains(&inode) => Copy::Right,
        Some(_) => Copy::Wrong,
        None => Copy::Unknown,
    }
}

/// What to say when no other site will do.
fn nobody(node: &Node, here: &Verified, from: &str, refused: &str) -> String {
    if !from.is_empty() {
        return format!("{refused}; next: leave --from out, and a site that verifies is looked for");
    }
    let here = if here.is_sound() {
        format!(
            "the copy of {} is the only one that verifies, so it stays as it is; next: run resync at the other site",
            node.site()
        )
    } else {
        format!(
            "the copy of {} does not verify either; next: repair the other site first, or take it with --from SITE --force \
             if its damage is elsewhere",
            node.site()
        )
    };
    format!("no other site has a copy that verifies ({refused}); {here}")
}

/// Several sites that each verify must hold the same, at a position that they share.
async fn agree(sound: &mut [Source], inode: u64) -> Result<(), String> {
    if sound.len() < 2 {
        return Ok(());
    }
    let place = descent::alone(&Place::default(), inode);
    let mut wanted = Vector::new();
    for _ in 0..ATTEMPTS {
        let mut answers = Vec::new();
        for source in &mut *sound {
            let request = v1::DescendRequest {
                bucket: bucket_of(inode).into(),
                places: vec![place.levels().to_vec().into()],
                wanted: wanted.to_wire(),
                wait_ms: 1000,
            };
            let reply = source.client.descend(request).await;
            let reply = reply.map_err(|status| format!("{}: {}", source.site, status.message()))?.into_inner();
            wanted = wanted.max(&Vector::from_wire(&reply.applied).unwrap_or_default());
            answers.push((source.site.clone(), reply.applied, reply.places));
        }
        let (_, applied, places) = &answers[0];
        if answers.iter().all(|(_, _, other)| other == places) {
            return Ok(());
        }
        if let Some((other, ..)) = answers.iter().find(|(_, at, other)| at == applied && other != places) {
            return Err(format!(
                "{} and {other} hold different copies of inode {inode}, and each fits the digest that its site keeps; next: \
                 compare them with `cfs admin meta lookup {inode} --detailed`, and name the right one with --from",
                answers[0].0
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
