//! Ports on 127.0.0.1.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;
use serde::{Deserialize, Serialize};

/// Most sites of a cluster on one machine.
pub(super) const MAX_SITES: usize = 16;
const PORTS_PER_SITE: u16 = 10;
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
    #[error("--base-port {0} leaves no room for {1} sites: each takes ten ports")]
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

/// Ports for so many sites: `base + 10 * site + 0..5`, from `base` or from a place where all are free.
pub(super) fn choose(sites: usize, base: Option<u16>) -> Result<Vec<Ports>, Error> {
    if let Some(base) = base {
        let ports = from_base(sites, base).ok_or(Error::TooHigh(base, sites))?;
        return match first_used(&ports) {
            Some(port) => Err(Error::InUse(port)),
            None => Ok(ports),
        };
    }
    for _ in 0..ATTEMPTS {
        let base = rand::rng().random_range(RANGE);
        if let Some(ports) = from_base(sites, base).filter(|ports| first_used(ports).is_none()) {
            return Ok(ports);
        }
    }
    Err(Error::NoneFree)
}

/// Refuses when somebody listens on a port of a site whose processes do not run.
pub(super) fn check_free(ports: Ports) -> Result<(), Error> {
    match first_used(&[ports]) {
        Some(port) => Err(Error::InUse(port)),
        None => Ok(()),
    }
}

fn from_base(sites: usize, base: u16) -> Option<Vec<Ports>> {
    (0..sites).map(|index| Ports::of_site(base, index)).collect()
}

fn first_used(ports: &[Ports]) -> Option<u16> {
    let is_used = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err();
    ports.iter().flat_map(|ports| ports.all()).find(is_used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_has_ten_ports() {
        let ports = from_base(2, 30_000).expect("room");
        assert_eq!(
            ports[1],
            Ports { peer: 30_010, control: 30_011, http: 30_012, shipper_http: 30_013, producer: 30_014 }
        );
        assert!(matches!(choose(3, Some(65_520)), Err(Error::TooHigh(65_520, 3))));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = held.local_addr().expect("bound").port();
        assert!(matches!(choose(1, Some(port)), Err(Error::InUse(used)) if used == port));
    }
}
