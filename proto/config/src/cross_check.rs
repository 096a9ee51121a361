//! What no single value shows.

use crate::config::{Config, Listen};
use crate::error::Problem;
use crate::resolve::address;

/// What is wrong between values that are all right by themselves.
pub(crate) fn cross_check(config: &Config) -> Vec<Problem> {
    let mut messages = Vec::new();
    for (index, peer) in config.peers.iter().enumerate() {
        let earlier = || config.peers.iter().take(index);
        if peer.name == config.site.name || earlier().any(|other| other.name == peer.name) {
            messages.push(format!("peers[{index}].name: {} is the name of another site too", peer.name));
        }
        if peer.id == config.site.id || earlier().any(|other| other.id == peer.id) {
            messages.push(format!("peers[{index}].id: {} is the number of another site too", peer.id));
        }
    }
    let copies = config.replication.durability.copies();
    if copies > config.peers.len() {
        let durability = config.replication.durability;
        messages.push(format!(
            "replication.durability: {durability} needs {copies} other sites, and there are {} peers",
            config.peers.len()
        ));
    }
    messages.extend(clashes(&config.listen));
    let place = config.file.display().to_string();
    messages.into_iter().map(|message| Problem { place: place.clone(), message }).collect()
}

fn clashes(listen: &Listen) -> Vec<String> {
    let all = [
        ("listen.peer", Some(&listen.peer)),
        ("listen.control", Some(&listen.control)),
        ("listen.http", listen.http.as_ref()),
        ("listen.shipper_http", listen.shipper_http.as_ref()),
        ("listen.producer", listen.producer.as_ref()),
    ];
    let used: Vec<_> = all.iter().filter_map(|(key, text)| Some((*key, address(text.as_ref()?)?))).collect();
    let mut found = Vec::new();
    for (index, (key, (host, port))) in used.iter().enumerate() {
        let clash = used.iter().take(index).find(|(_, (other, taken))| {
            *port != 0 && port == taken && (host == other || is_any(host) || is_any(other))
        });
        if let Some((other, _)) = clash {
            found.push(format!("{key}: port {port} is taken by {other} already"));
        }
    }
    found
}

/// Whether an address stands for all of the machine's.
fn is_any(host: &str) -> bool {
    host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}
