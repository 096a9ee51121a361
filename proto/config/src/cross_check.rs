//! What no single value shows.

use crate::config::{Config, Listen};
use crate::error::Problem;
use crate::resolve::address;

/// What is wrong between values that are all right by themselves.
pub(crate) fn cross_check(config: &Config) -> Vec<Problem> {
    let mut messages = identities(config);
    messages.extend(roles(config));
    messages.extend(clashes(&config.listen));
    messages.extend(clashes_with_peers(config));
    let place = config.file.display().to_string();
    messages.into_iter().map(|message| Problem { place: place.clone(), message }).collect()
}

fn identities(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    for (index, peer) in config.peers.iter().enumerate() {
        let earlier = || config.peers.iter().take(index);
        if peer.name == config.site.name || earlier().any(|other| other.name == peer.name) {
            found.push(format!("peers[{index}].name: {} is the name of another site too", peer.name));
        }
        if peer.id == config.site.id || earlier().any(|other| other.id == peer.id) {
            found.push(format!("peers[{index}].id: {} is the number of another site too", peer.id));
        }
    }
    found
}

fn roles(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut witness = config.site.witness.then_some(&config.site.name);
    for (index, peer) in config.peers.iter().enumerate().filter(|(_, peer)| peer.witness) {
        match witness {
            Some(other) => {
                found.push(format!(
                    "peers[{index}].kind: {other} is the witness already, and a cluster has one at most"
                ));
            }
            None => witness = Some(&peer.name),
        }
    }
    let (durability, peers) = (config.replication.durability, config.data_peers().len());
    let copies = durability.copies();
    if copies > peers {
        found.push(format!(
            "replication.durability: {durability} needs {copies} other sites that store data, and {peers} are configured"
        ));
    }
    found
}

/// An address that is in use, under its key.
type Used<'a> = (String, &'a str, u16);

fn listeners(listen: &Listen) -> Vec<Used<'_>> {
    let all = [
        ("listen.peer", Some(&listen.peer)),
        ("listen.control", Some(&listen.control)),
        ("listen.http", listen.http.as_ref()),
        ("listen.shipper_http", listen.shipper_http.as_ref()),
        ("listen.producer", listen.producer.as_ref()),
    ];
    all.into_iter().filter_map(|(key, text)| used(key.to_owned(), text?)).collect()
}

fn used(key: String, text: &str) -> Option<Used<'_>> {
    let (host, port) = address(text)?;
    Some((key, host, port))
}

fn clashes(listen: &Listen) -> Vec<String> {
    let used = listeners(listen);
    let mut found = Vec::new();
    for (index, (key, host, port)) in used.iter().enumerate() {
        let clash = used
            .iter()
            .take(index)
            .find(|(_, other, taken)| *port != 0 && port == taken && (host == other || is_any(host) || is_any(other)));
        if let Some((other, ..)) = clash {
            found.push(format!("{key}: port {port} is taken by {other} already"));
        }
    }
    found
}

/// Addresses of other sites that cannot be right: one for two processes, or one where this site itself listens.
fn clashes_with_peers(config: &Config) -> Vec<String> {
    let here = listeners(&config.listen);
    let mut seen: Vec<Used<'_>> = Vec::new();
    let mut found = Vec::new();
    for (index, peer) in config.peers.iter().enumerate() {
        let key = |name: &str| format!("peers[{index}].{name}");
        let addresses = [
            used(key("peer"), &peer.peer),
            used(key("control"), &peer.control),
            peer.producer.as_deref().and_then(|text| used(key("producer"), text)),
        ];
        for (key, host, port) in addresses.into_iter().flatten() {
            let ours = here.iter().find(|(_, listens, taken)| {
                *taken == port && (is_same_host(host, listens) || (is_any(listens) && is_loopback(host)))
            });
            let theirs = || seen.iter().find(|(_, other, taken)| *taken == port && is_same_host(host, other));
            if let Some((other, ..)) = ours.or_else(theirs) {
                found.push(format!("{key}: ports clash: {host}:{port} is the address of {other} too"));
            }
            seen.push((key, host, port));
        }
    }
    found
}

fn is_same_host(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (is_loopback(a) && is_loopback(b) && (is_localhost(a) || is_localhost(b)))
}

/// Whether an address stands for all of the machine's.
fn is_any(host: &str) -> bool {
    host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified())
}

fn is_loopback(host: &str) -> bool {
    is_localhost(host) || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}
