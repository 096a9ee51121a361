//! Ports on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;
use serde::{Deserialize, Serialize};

const PORTS_PER_SITE: u16 = 10;
/// Ports of the fault proxy for each site that another one dials: its shipper and its control process.
const PORTS_PER_ROUTE: u16 = 2;
/// Below what Linux hands out by itself.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 200;

/// Where one site listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Other shippers.
    pub peer: u16,
    /// Other control processes.
    pub control: u16,
    /// The control process's HTTP.
    pub http: u16,
    /// The shipper's HTTP.
    pub shipper_http: u16,
    /// Producers.
    pub producer: u16,
}

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody listens there.
    #[error("port {0} is in use: choose another --base-port, or find who listens with `ss -ltnp 'sport = :{0}'`")]
    InUse(u16),
    /// Past the last port.
    #[error("--base-port {0} leaves no room for {1} sites: each takes ten ports, and two more for each other site")]
    TooHigh(u16, usize),
    /// Nothing was free.
    #[error("no free ports were found from {} to {}: give --base-port", RANGE.start, RANGE.end)]
    NoneFree,
}

impl Ports {
    fn of_site(base: u16, index: usize) -> Option<Self> {
        let first = u16::try_from(index).ok()?.checked_mul(PORTS_PER_SITE)?.checked_add(base)?;
        let port = |offset| first.checked_add(offset);
        Some(Self { producer: port(4)?, peer: first, control: port(1)?, http: port(2)?, shipper_http: port(3)? })
    }

    fn all(self) -> [u16; 5] {
        [self.peer, self.control, self.http, self.shipper_http, self.producer]
    }
}

/// All ports of a cluster: `base + 10 * site + 0..5`, and after the sites' blocks those of the fault proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) sites: Vec<Ports>,
    /// The first of the fault proxy's.
    pub(super) proxy: u16,
}

/// Where the fault proxy listens for one site's connections to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proxied {
    /// To its shipper.
    pub(super) peer: u16,
    /// To its control process.
    pub(super) control: u16,
}

/// One port of the fault proxy and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// Index of the site that dials.
    pub(super) from: usize,
    /// Index of the site that is dialled.
    pub(super) to: usize,
    pub(super) listen: u16,
    pub(super) target: u16,
}

impl Block {
    fn from_base(sites: usize, base: u16) -> Option<Self> {
        let ports = (0..sites).map(|index| Ports::of_site(base, index)).collect::<Option<Vec<Ports>>>()?;
        let proxy = u16::try_from(sites).ok()?.checked_mul(PORTS_PER_SITE)?.checked_add(base)?;
        proxy.checked_add(proxy_ports(sites))?;
        Some(Self { sites: ports, proxy })
    }

    fn first_used(&self) -> Option<u16> {
        let proxy = self.proxy..self.proxy + proxy_ports(self.sites.len());
        self.sites.iter().flat_map(|ports| ports.all()).chain(proxy).find(is_used)
    }
}

/// How many ports the fault proxy of so many sites takes.
fn proxy_ports(sites: usize) -> u16 {
    u16::try_from(sites * sites.saturating_sub(1)).unwrap_or(u16::MAX).saturating_mul(PORTS_PER_ROUTE)
}

/// The fault proxy's ports for connections that one of `sites` sites dials to another; both are indices.
pub(super) fn proxied(first: u16, sites: usize, from: usize, to: usize) -> Proxied {
    let pair = from * (sites - 1) + if to < from { to } else { to - 1 };
    let peer = first + u16::try_from(pair).unwrap_or_default() * PORTS_PER_ROUTE;
    Proxied { peer, control: peer + 1 }
}

/// Ports for so many sites, from `base` or from a place where all are free.
pub(super) fn choose(sites: usize, base: Option<u16>) -> Result<Block, Error> {
    if let Some(base) = base {
        let block = Block::from_base(sites, base).ok_or(Error::TooHigh(base, sites))?;
        return match block.first_used() {
            Some(port) => Err(Error::InUse(port)),
            None => Ok(block),
        };
    }
    for _ in 0..ATTEMPTS {
        let base = rand::rng().random_range(RANGE);
        if let Some(block) = Block::from_base(sites, base).filter(|block| block.first_used().is_none()) {
            return Ok(block);
        }
    }
    Err(Error::NoneFree)
}

/// Refuses when somebody listens on one of these ports.
pub(super) fn check_free(ports: &[u16]) -> Result<(), Error> {
    match ports.iter().find(|port| is_used(port)) {
        Some(port) => Err(Error::InUse(*port)),
        None => Ok(()),
    }
}

fn is_used(port: &u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_has_ten_ports() {
        let block = Block::from_base(2, 30_000).expect("room");
        assert_eq!(
            block.sites[1],
            Ports { peer: 30_010, control: 30_011, http: 30_012, shipper_http: 30_013, producer: 30_014 }
        );
        assert_eq!(block.proxy, 30_020);
        assert!(matches!(choose(3, Some(65_500)), Err(Error::TooHigh(65_500, 3))));
    }

    #[test]
    fn each_pair_of_sites_has_its_own_ports_of_the_proxy() {
        let sites = 6;
        let mut all = Vec::new();
        for from in 0..sites {
            for to in (0..sites).filter(|to| *to != from) {
                let ports = proxied(1000, sites, from, to);
                all.extend([ports.peer, ports.control]);
            }
        }
        let expected: Vec<u16> = (1000..1000 + proxy_ports(sites)).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = held.local_addr().expect("bound").port();
        assert!(matches!(choose(1, Some(port)), Err(Error::InUse(used)) if used == port));
    }
}
