//! Which site an inode is repaired from.

use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer;
use cfs_model::Vector;
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_store::digest::bucket_of;
use cfs_store::verify::Place;
use tonic::transport::Channel;

use crate::node::Node;
use crate::{descent, dial, verify};

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
}

/// The site that was asked for, if it is sound; or one of those that are. The error says why there is none.
pub(super) async fn choose(node: &Arc<Node>, request: &v1::ResyncRequest) -> Result<Source, String> {
    let peers = if request.from.is_empty() { node.data_peers() } else { vec![named(node, &request.from)?] };
    if peers.is_empty() {
        return Err(format!("{} knows of no other site that holds data: there is nothing to repair from", node.site()));
    }
    let asked = peers
        .into_iter()
        .map(|peer| async move { (peer.name.to_string(), examine(node, &peer, request.inode, request.force).await) });
    let (mut sound, mut refused) = (Vec::new(), Vec::new());
    for (site, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(source) => sound.push(source),
            Err(why) => refused.push(format!("{site}: {why}")),
        }
    }
    if sound.is_empty() {
        return Err(nobody(node, &refused.join("; ")).await);
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

/// Has a site read all its registers. With `force`, only those in the same bucket as the inode need be sound.
async fn examine(node: &Arc<Node>, peer: &Peer, inode: u64, force: bool) -> Result<Source, String> {
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
    if reply.wrong.is_empty() && reply.unreadable_count == 0 {
        return Ok(Source {
            site,
            client,
            why: format!("all {} of its rows have the digest that it keeps", reply.rows),
        });
    }
    let here = reply.wrong.contains(&u32::from(bucket_of(inode))) || reply.unreadable.contains(&inode);
    let damage = format!(
        "it is damaged itself: {} buckets of its registers do not have the digest that it keeps, {} registers do not decode",
        reply.wrong.len(),
        reply.unreadable_count
    );
    match (here, force) {
        (false, true) => Ok(Source { site, client, why: format!("{damage}, none near inode {inode}; taken by force") }),
        (true, true) => Err(format!("{damage}, near inode {inode} too")),
        (_, false) => Err(damage),
    }
}

/// What to say when no other site will do.
async fn nobody(node: &Arc<Node>, refused: &str) -> String {
    let here = match verify::verify(node).await {
        Ok(here) if here.is_sound() => format!(
            "the copy of {} is the only one that verifies, so it stays as it is; next: run resync at the other site",
            node.site()
        ),
        _ => format!(
            "the copy of {} does not verify either; next: repair the other site first, or take it with --force if its \
             damage is elsewhere",
            node.site()
        ),
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
