//! Who is followed: every other site is dialled for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer as PeerConfig;
use cfs_model::SiteName;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::node::Node;
use crate::path::receive::{Ended, run};
use crate::path::replicate::Work;

/// Pause before the next try, from the first to the last; it is never given up.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// Pause while the site is heard over a connection of its own: it is there, and what it has can be had any moment.
const HEARD_PAUSE: Duration = Duration::from_millis(500);
/// A session that lasted for so long was sound, and its end begins a new episode.
const SOUND_AFTER_MS: u64 = 10_000;

/// Keeps a session with every other site, also with those that are enrolled later on, for as long as the process lives.
pub(crate) async fn follow_all(node: Arc<Node>, journal: mpsc::Sender<Work>) {
    let mut role = node.signals.role.subscribe();
    let mut followed: BTreeMap<SiteName, JoinHandle<()>> = BTreeMap::new();
    loop {
        for site in node.data_peers() {
            let name = site.name.clone();
            if followed.get(&name).is_none_or(JoinHandle::is_finished) {
                node.peers.add(&name, site.id);
                followed.insert(name, tokio::spawn(follow(node.clone(), site, journal.clone())));
            }
        }
        role.changed().await;
    }
}

/// Keeps a session with one site for as long as it is known, at the address that it has now.
async fn follow(node: Arc<Node>, mut site: PeerConfig, journal: mpsc::Sender<Work>) {
    let mut pause = BACKOFF.0;
    let mut role = node.signals.role.subscribe();
    // A connection that was made anew beside the last one.
    let mut renewed = None;
    loop {
        match node.data_peer(&site.name) {
            Some(known) => site = known,
            None => {
                tracing::info!(site = %site.name, "no streams are exchanged with a site that is not enrolled");
                node.peers.remove(&site.name);
                node.positions.claimed(site.id, &BTreeMap::new(), node.boot_ms());
                return;
            }
        }
        if let Some(why) = node.governed.directed().kept_apart_from(site.id) {
            node.peers.update(&site.name, |peer| why.clone_into(&mut peer.trouble));
            role.changed().await;
            continue;
        }
        let session = node.next_session();
        let started_ms = node.boot_ms();
        let ended = run(&node, &site, session, &journal, renewed.take()).await;
        node.plan().disconnected(session);
        let error = match ended {
            Ended::Renewed(channel) => {
                renewed = Some(channel);
                continue;
            }
            Ended::Broken(error) => error,
        };
        let lasted = node.boot_ms().saturating_sub(started_ms) > SOUND_AFTER_MS;
        lost(&node, &site, &error, lasted);
        if lasted {
            pause = BACKOFF.0;
        }
        rest(&node, &site.name, pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Waits for `pause`, or for less once the site has made itself heard.
async fn rest(node: &Node, site: &SiteName, pause: Duration) {
    let since_ms = node.boot_ms();
    let mut peers = node.signals.peers.subscribe();
    let heard = || node.peers.lock().get(site).is_some_and(|peer| peer.heard_at_ms.is_some_and(|at| at > since_ms));
    tokio::time::sleep(pause.min(HEARD_PAUSE)).await;
    let back = async {
        while !heard() {
            peers.changed().await;
        }
    };
    tokio::select! {
        () = back => {}
        () = tokio::time::sleep(pause.saturating_sub(HEARD_PAUSE)) => {}
    }
}

/// One episode without a sound connection is counted and logged once, however many tries it takes; a moment without one,
/// as while sites start, is none.
fn lost(node: &Node, site: &PeerConfig, error: &str, lasted: bool) {
    let now_ms = node.boot_ms();
    let news = node.peers.update(&site.name, |peer| {
        peer.trouble = error.to_owned();
        peer.down &= !lasted;
        let long = peer.silent_ms(now_ms, node.started_ms) > node.silence_ms();
        long && !std::mem::replace(&mut peer.down, true)
    });
    if news == Some(true) {
        node.metrics.error("peer_lost");
        tracing::warn!(site = %site.name, address = site.peer, error, "no connection to a site; trying again for ever");
    }
    node.signals.peers.bump();
}
