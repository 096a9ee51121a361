//! The files of a cluster: certificates and one configuration for each site.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cfs_config::Config;
use cfs_model::{ClusterId, SiteName};
use cfs_rpc::ca::{self, Authority, Validity};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::private_file;
use rand::RngCore;

use super::cluster::Cluster;
use super::record::Site;
use crate::founding;

/// A socket's path must be shorter than 108 bytes, which leaves this for its directory.
const MAX_RUN_BYTES: usize = 80;

/// Why files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates.
    #[error("certificates: {0}")]
    Authority(#[from] ca::Error),
    /// A configuration.
    #[error("the configuration in {path} does not read:\n{source}", path = path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: cfs_config::Error,
    },
    /// Another file.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file that founds the cluster.
    #[error("the founding file cannot be written: {0}")]
    Founding(#[from] founding::Error),
    /// A path that TOML cannot hold.
    #[error("{0:?} is not UTF-8, which a configuration file must be: choose another directory")]
    NotUtf8(PathBuf),
    /// The record names no cluster.
    #[error(transparent)]
    Cluster(#[from] cfs_model::ClusterIdError),
}

/// The id of a cluster that did not exist before.
pub(super) fn new_cluster_id() -> String {
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    ClusterId(id).to_string()
}

/// Where a site's sockets are: beside its state, or in a short place if that path is too long for a socket.
pub(super) fn run_directory(dir: &Path, name: &SiteName, cluster: &str) -> PathBuf {
    let beside = dir.join(name.as_str()).join("run");
    if beside.as_os_str().len() <= MAX_RUN_BYTES {
        return beside;
    }
    let id = cluster.get(..8).unwrap_or(cluster);
    std::env::temp_dir().join(format!("cfs-{id}-{name}"))
}

/// Makes what is missing of authority, configurations and certificates. Blocks.
pub(super) fn complete(cluster: &Cluster) -> Result<(), Error> {
    let authority = authority(cluster)?;
    for site in cluster.sites() {
        let dir = cluster.site_dir(site);
        for dir in [&dir, &site.run] {
            private_file::create_directory(dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        }
        let path = cluster.config_path(site);
        if !path.exists() {
            let text = config_text(cluster, site)?;
            private_file::replace(&dir, "repl.toml", text.as_bytes())
                .map_err(|source| Error::File { path: path.clone(), source })?;
        }
        let config = Config::load_with(Some(&path), &[], []).map_err(|source| Error::Config { path, source })?;
        install_certificates(&authority, site, config.tls_dir())?;
    }
    Ok(())
}

/// Writes the file with which the first site founds the cluster. Blocks.
pub(super) fn write_founding(cluster: &Cluster) -> Result<(), Error> {
    let Some(first) = cluster.sites().first() else { return Ok(()) };
    let path = cluster.config_path(first);
    let config = Config::load_with(Some(&path), &[], []).map_err(|source| Error::Config { path, source })?;
    Ok(founding::write(&config.founding_file(), config.cluster.id)?)
}

fn authority(cluster: &Cluster) -> Result<Authority, Error> {
    let dir = cluster.dir().join("ca");
    if dir.join(ca::CA_CERTIFICATE).exists() {
        return Ok(Authority::load(&dir)?);
    }
    // A key without its certificate is what an interrupted attempt leaves; nothing was signed with it.
    let key = dir.join(ca::CA_KEY);
    match std::fs::remove_file(&key) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::File { path: key, source }),
        _ => {}
    }
    Ok(Authority::create(&dir, cluster.id().parse()?, SystemTime::now())?)
}

fn install_certificates(authority: &Authority, site: &Site, tls: &Path) -> Result<(), Error> {
    for role in Role::ALL {
        if tls.join(ca::certificate_file(role)).exists() {
            continue;
        }
        let identity = Identity { cluster: authority.cluster(), site: site.name.clone(), role };
        let issued = authority.issue(&identity, Validity::lasting(SystemTime::now(), Validity::LEAF))?;
        ca::install(tls, role, authority.cert_pem(), &issued)?;
    }
    Ok(())
}

fn config_text(cluster: &Cluster, site: &Site) -> Result<String, Error> {
    let quoted = |path: &Path| {
        let text = path.to_str().ok_or_else(|| Error::NotUtf8(path.to_owned()))?;
        Ok::<_, Error>(toml::Value::from(text).to_string())
    };
    let p = site.ports;
    let here = cluster.sites().iter().position(|other| other.id == site.id).unwrap_or_default();
    let mut text = format!(
        "# Written by `cfs dev up`; it is not written again, so changes stay. Peers are dialled through the fault proxy.\n\
         [site]\nname = \"{}\"\nid = {}\n{}\n[cluster]\nid = \"{}\"\n\n\
         [paths]\nstate = {}\nrun = {}\n\n\
         [listen]\npeer = \"127.0.0.1:{}\"\ncontrol = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n\
         shipper_http = \"127.0.0.1:{}\"\nproducer = \"127.0.0.1:{}\"\n",
        site.name,
        site.id,
        kind(site),
        cluster.id(),
        quoted(&cluster.site_dir(site).join("state"))?,
        quoted(&site.run)?,
        p.peer,
        p.control,
        p.http,
        p.shipper_http,
        p.producer,
    );
    for (index, peer) in cluster.sites().iter().enumerate().filter(|(index, _)| *index != here) {
        let proxied = cluster.record.proxied(here, index);
        text.push_str(&format!("\n[[peers]]\nname = \"{}\"\nid = {}\n{}", peer.name, peer.id, kind(peer)));
        text.push_str(&format!("control = \"127.0.0.1:{}\"\n", proxied.control));
        if !peer.witness {
            let producer = peer.ports.producer;
            text.push_str(&format!("peer = \"127.0.0.1:{}\"\nproducer = \"127.0.0.1:{producer}\"\n", proxied.peer));
        }
    }
    Ok(text)
}

/// The line that says what a site is.
const fn kind(site: &Site) -> &'static str {
    if site.witness { "kind = \"witness\"\n" } else { "" }
}
