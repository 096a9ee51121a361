//! The fault proxy: between every two sites of a cluster on one machine, so that links can be cut, slowed and healed.
//!
//! Each site's configuration names the proxy's ports for its peers. For every ordered pair the proxy listens for
//! connections that the first site dials. A rule concerns bytes from one site to another, whoever dialled. Bytes that a
//! rule holds up arrive later, in order; a connection that ends is passed on like its bytes. A new connection over a cut
//! link waits until it is healed.

mod carry;
mod flow;
mod link;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_model::SiteName;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::carry::carry;
use self::link::Link;
use super::faults::{self, Faults};
use super::ports::Route;
use super::record::Record;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 2048;
/// How often the rules are looked at.
const POLL: Duration = Duration::from_millis(20);
const THREADS: usize = 2;

type Links = BTreeMap<(SiteName, SiteName), Arc<Link>>;

/// Runs the proxy of the cluster in `dir` until it is ended or the cluster's record is gone. Blocks.
///
/// # Errors
/// When the record or the rules do not read at the start, or a port cannot be had.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let record = Record::read(dir)?.with_context(|| format!("{} holds no cluster", dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let outcome = runtime.block_on(serve(dir, &record));
    runtime.shutdown_background();
    outcome
}

async fn serve(dir: &Path, record: &Record) -> anyhow::Result<()> {
    let names: Vec<&SiteName> = record.sites.iter().map(|site| &site.name).collect();
    let pairs = names.iter().flat_map(|from| names.iter().map(|to| ((*from).clone(), (*to).clone())));
    let links: Links = pairs.filter(|(from, to)| from != to).map(|pair| (pair, Arc::new(Link::new()))).collect();
    // In force before anybody can connect.
    let mut stamp = faults::stamp(dir);
    let mut faults = Faults::read(dir)?;
    apply(&links, &faults);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for route in record.routes() {
        let (from, to) = (&record.sites[route.from].name, &record.sites[route.to].name);
        let link = |from: &SiteName, to: &SiteName| links.get(&(from.clone(), to.clone())).cloned();
        let (Some(there), Some(back)) = (link(from, to), link(to, from)) else { continue };
        listen(route, there, back, connections.clone()).await?;
    }
    tracing::info!(sites = names.len(), "the fault proxy runs");
    let pid = std::process::id();
    loop {
        if let Err(error) = faults::mark_applied(dir, pid, faults.generation()) {
            tracing::warn!(%error, "it cannot be said that the rules are in force");
        }
        stamp = changed(dir, stamp).await;
        if Record::is_gone(dir) {
            tracing::info!("the cluster is gone");
            return Ok(());
        }
        match Faults::read(dir) {
            Ok(read) => faults = read,
            Err(error) => {
                tracing::warn!(%error, "the rules stay as they were");
                continue;
            }
        }
        apply(&links, &faults);
        tracing::info!(rules = ?faults.rules(), "the rules changed");
    }
}

/// Waits until the file with the rules is another one, or the cluster is gone.
async fn changed(dir: &Path, stamp: Option<(u64, i64, i64)>) -> Option<(u64, i64, i64)> {
    loop {
        tokio::time::sleep(POLL).await;
        let now = faults::stamp(dir);
        if now != stamp || Record::is_gone(dir) {
            return now;
        }
    }
}

fn apply(links: &Links, faults: &Faults) {
    for ((from, to), link) in links {
        link.set(faults.of(from, to));
    }
}

async fn listen(route: Route, there: Arc<Link>, back: Arc<Link>, connections: Arc<Semaphore>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, route.listen)).await;
    let listener = listener.with_context(|| format!("cannot listen on port {}", route.listen))?;
    tokio::spawn(async move {
        loop {
            // The semaphore is never closed.
            let Ok(connection) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((dialled, _)) => {
                    let (there, back) = (there.clone(), back.clone());
                    tokio::spawn(async move {
                        carry(dialled, route.target, &there, &back).await;
                        drop(connection);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, port = route.listen, "cannot accept, trying again");
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
