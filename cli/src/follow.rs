//! Appending at whichever site is primary, with nothing but the configuration and a certificate.

use anyhow::Context as _;
use cfs_client::Target;
use cfs_config::Config;
use cfs_rpc::clock::RealClock;
use cfs_rpc::connect::Connector;
use cfs_rpc::identity::Role;
use cfs_rpc::net::RealNet;
use cfs_rpc::tls::SharedTls;
use std::sync::Arc;
use std::time::Duration;

use crate::path_text;

/// For how long nothing may be acknowledged, unless a command is told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// All sites of the configuration that take producers, over mTLS as this site's producer. Reads the certificate and
/// blocks for that.
///
/// # Errors
/// When the certificate cannot be used, or no site has a producer address.
pub fn target(config: &Config) -> anyhow::Result<Target> {
    let own = config.listen.producer.as_deref().map(reachable);
    let own = own.map(|address| (config.site.name.clone(), address));
    let peers = config.peers.iter().filter_map(|peer| Some((peer.name.clone(), peer.producer.clone()?)));
    let sites: Vec<_> = own.into_iter().chain(peers).collect();
    anyhow::ensure!(
        !sites.is_empty(),
        "no site takes producers over the network: set listen.producer, and `producer` of the peers, in {}",
        config.file.display()
    );
    let tls = SharedTls::load(config.tls_dir(), Role::Producer, Arc::new(RealClock)).with_context(|| {
        format!("following the primary needs a certificate of the role producer in {}", config.tls_dir().display())
    })?;
    let dial = Arc::new(Connector::new(RealNet::shared(), tls));
    Ok(Target::Tls { dial, cluster: config.cluster.id, sites })
}

/// Says on standard error why appending waits; for [`cfs_client::Options::on_wait`].
pub fn say_why(why: &str) {
    anstream::eprintln!("waiting: {}", path_text::for_terminal(why.as_bytes()));
}

/// Where to connect to for what listens on `address`.
fn reachable(address: &str) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        for (listens, reached) in [
            ("0.0.0.0:9504", "127.0.0.1:9504"),
            ("[::]:9504", "[::1]:9504"),
            ("10.1.0.1:9504", "10.1.0.1:9504"),
            ("mds-a:1", "mds-a:1"),
        ] {
            assert_eq!(reachable(listens), reached);
        }
    }
}
