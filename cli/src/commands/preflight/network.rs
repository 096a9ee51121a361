//! Whether the ports of the other sites can be reached, and whether those who listen there speak TLS.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cfs_config::Config;
use cfs_model::SiteName;
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::look::look;
use cfs_rpc::net::RealNet;
use cfs_rpc::tls::Material;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Check;
use crate::commands::tls::status::any_key;

/// Who does not answer within this is behind a firewall, or gone.
const LIMIT: Duration = Duration::from_millis(2000);
/// Connection and handshake together take no longer.
const WHOLE_LIMIT: Duration = Duration::from_millis(2600);
const EXPECTED: &str = "a connection, and TLS";

/// A port of another site.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    site: SiteName,
    /// The process that listens there.
    process: &'static str,
    address: String,
}

/// How far a connection came.
#[derive(Debug)]
enum Tried {
    /// No answer in time.
    Silent,
    /// There is no connection.
    Unconnected(io::Error),
    /// It takes connections; there is no key here to try TLS with.
    Connected,
    /// It takes connections, and TLS does not complete.
    NoTls(String),
    /// All is well.
    Tls,
}

/// Tries the port between shippers and the one between control processes of each configured site. Those who listen there
/// neither log nor count it.
pub(super) async fn checks(config: &Config) -> anyhow::Result<Vec<Check>> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let dir = config.tls_dir().to_owned();
    let key = tokio::task::spawn_blocking(move || any_key(&dir, &clock)).await?;
    let port =
        |site: &SiteName, process, address: &String| Port { site: site.clone(), process, address: address.clone() };
    let shippers = config.data_peers().map(|peer| port(&peer.name, "shipper", &peer.peer));
    let controls = config.peers.iter().map(|peer| port(&peer.name, "control", &peer.control));
    let mut ports: Vec<Port> = shippers.chain(controls).collect();
    ports.sort();
    Ok(futures::future::join_all(ports.iter().map(async |port| judge(port, attempt(port, key.as_ref()).await))).await)
}

async fn attempt(port: &Port, key: Option<&Material>) -> Tried {
    let began = Instant::now();
    match tokio::time::timeout(LIMIT, TcpStream::connect(&port.address)).await {
        Err(_) => return Tried::Silent,
        Ok(Err(error)) => return Tried::Unconnected(error),
        Ok(Ok(_)) => {}
    }
    let Some(key) = key else { return Tried::Connected };
    let left = WHOLE_LIMIT.saturating_sub(began.elapsed());
    match look(&*RealNet::shared(), key, &port.site, &port.address, SystemTime::now(), left).await {
        // What the certificate is worth is a check of its own.
        Ok(_) => Tried::Tls,
        Err(error) => Tried::NoTls(error.to_string()),
    }
}

fn judge(port: &Port, tried: Tried) -> Check {
    let Port { site, process, address } = port;
    let found = |text: String| Check::pass("port", format!("{site} {process}"), text, EXPECTED);
    let number = address.rsplit_once(':').map_or("", |(_, number)| number);
    match tried {
        Tried::Tls => found(format!("{address} answers")),
        Tried::Connected => found(format!("{address} takes a connection; there is no key here to try TLS with"))
            .warn("cfs admin tls status"),
        Tried::NoTls(why) => found(format!("{address} takes a connection, and TLS does not complete: {why}")).fail(format!(
            "on {site}: systemctl status claudefs-{process}; if it runs and hangs: systemctl restart claudefs-{process}; \
             if it is well, something between the sites holds back what is sent"
        )),
        Tried::Unconnected(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            found(format!("{address} refuses: the machine is there, the process is not"))
                .warn(format!("on {site}: systemctl start claudefs-repl"))
        }
        Tried::Unconnected(error) => {
            found(format!("{address}: {error}")).fail("check the address in [[peers]], the name service and the routes")
        }
        Tried::Silent => found(format!("{address} does not answer within {} s", LIMIT.as_secs()))
            .fail(format!("on {site}: open the port, as with `sudo ufw allow {number}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn at(tried: Tried) -> Check {
        let site = SiteName::new("site-b").expect("a name");
        judge(&Port { site, process: "shipper", address: "10.0.0.2:9500".into() }, tried)
    }

    fn unconnected(kind: io::ErrorKind) -> Check {
        at(Tried::Unconnected(kind.into()))
    }

    #[test]
    fn refused_warns_and_silence_fails() {
        assert_eq!(at(Tried::Tls).result, Outcome::Pass);
        let refused = unconnected(io::ErrorKind::ConnectionRefused);
        assert_eq!(refused.result, Outcome::Warn);
        assert!(refused.next.contains("site-b"), "{refused:?}");
        let silent = at(Tried::Silent);
        assert_eq!(silent.result, Outcome::Fail);
        assert!(silent.next.contains("ufw allow 9500"), "{silent:?}");
        assert_eq!(unconnected(io::ErrorKind::HostUnreachable).result, Outcome::Fail);
        assert_eq!(at(Tried::Unconnected(io::Error::other("no such name"))).result, Outcome::Fail);
    }

    #[test]
    fn a_port_that_takes_a_connection_and_speaks_no_tls_fails() {
        let hangs = at(Tried::NoTls("10.0.0.2:9500 did not answer within 2.6s".into()));
        assert_eq!(hangs.result, Outcome::Fail);
        assert!(hangs.found.contains("TLS does not complete: 10.0.0.2:9500 did not answer"), "{hangs:?}");
        assert!(hangs.next.contains("on site-b: systemctl status claudefs-shipper"), "{hangs:?}");
        assert_eq!(at(Tried::Connected).result, Outcome::Warn);
    }
}
