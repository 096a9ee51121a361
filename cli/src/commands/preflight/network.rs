//! Whether the ports of the other sites can be reached.

use std::io;
use std::time::Duration;

use cfs_config::Config;
use tokio::net::TcpStream;

use super::Check;

/// Who does not answer within this is behind a firewall, or gone.
const LIMIT: Duration = Duration::from_millis(2000);
const EXPECTED: &str = "a connection";

/// Tries the port between shippers and the one between control processes of each configured site.
pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let shippers = config.data_peers().map(|peer| (format!("{} shipper", peer.name), peer.peer.clone()));
    let controls = config.peers.iter().map(|peer| (format!("{} control", peer.name), peer.control.clone()));
    let mut ports: Vec<(String, String)> = shippers.chain(controls).collect();
    ports.sort();
    futures::future::join_all(ports.into_iter().map(async |(subject, address)| {
        let tried = tokio::time::timeout(LIMIT, TcpStream::connect(&address)).await;
        judge(&subject, &address, tried.map(|connected| connected.map(|_| ())).ok())
    }))
    .await
}

/// `None`: no answer in time.
fn judge(subject: &str, address: &str, tried: Option<io::Result<()>>) -> Check {
    let found = |text: String| Check::pass("port", subject, text, EXPECTED);
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let site = subject.split(' ').next().unwrap_or_default();
    match tried {
        Some(Ok(())) => found(format!("{address} answers")),
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            found(format!("{address} refuses: the machine is there, the process is not"))
                .warn(format!("on {site}: systemctl start claudefs-repl"))
        }
        Some(Err(error)) => {
            found(format!("{address}: {error}")).fail("check the address in [[peers]], the name service and the routes")
        }
        None => found(format!("{address} does not answer within {} s", LIMIT.as_secs()))
            .fail(format!("on {site}: open the port, as with `sudo ufw allow {port}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn refused_warns_and_silence_fails() {
        let at = |tried| judge("site-b shipper", "10.0.0.2:9500", tried);
        assert_eq!(at(Some(Ok(()))).result, Outcome::Pass);
        let refused = at(Some(Err(io::ErrorKind::ConnectionRefused.into())));
        assert_eq!(refused.result, Outcome::Warn);
        assert!(refused.next.contains("site-b"), "{refused:?}");
        let silent = at(None);
        assert_eq!(silent.result, Outcome::Fail);
        assert!(silent.next.contains("ufw allow 9500"), "{silent:?}");
        assert_eq!(at(Some(Err(io::ErrorKind::HostUnreachable.into()))).result, Outcome::Fail);
        assert_eq!(at(Some(Err(io::Error::other("no such name")))).result, Outcome::Fail);
    }
}
