//! What every site says about who takes appends, and a warm connection to each.
//!
//! One task for each site holds a connection and a watch of the role, whether or not there is a session. So a new
//! primary is known as soon as it says so, and a session there needs no handshake. What a site said last stands until
//! its connection is known to be broken: a site that hangs is left because another one accepts in a later epoch.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::{ClusterId, Epoch, SiteName};
use cfs_rpc::connect::Dial;
use cfs_rpc::v1::RoleState;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::scout::Scout;

/// Sites that are watched at the same time; a cluster has fewer.
const MAX_SITES: usize = 32;
/// Addresses of one site: the one that was given, and those that other sites name.
const MAX_ADDRESSES: usize = 4;

/// A connection on which a site spoke.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    /// Counts the site's connections.
    pub(crate) number: u64,
}

/// What is known of one site.
pub(crate) struct Site {
    pub(crate) name: SiteName,
    pub(crate) addresses: Vec<String>,
    pub(crate) connection: Option<Connection>,
    /// What it last said on that connection.
    pub(crate) role: Option<RoleState>,
    /// Counts changes of what it says.
    pub(crate) version: u64,
    /// Why there is no connection.
    pub(crate) error: String,
    /// It will never take this producer.
    pub(crate) rejected: bool,
}

/// All sites.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) sites: Vec<Site>,
    /// The latest epoch in which any site said that it accepts.
    pub(crate) highest: u64,
}

impl Table {
    /// A site that accepts in the latest epoch of all; nobody, if that one is only known to have been. Where several do,
    /// a producer stays with the site that it was at, and otherwise goes to the first in the order given.
    fn accepting(&self, last: Last) -> Option<usize> {
        let accepts = |site: &Site| {
            site.connection.is_some() && site.role.as_ref().is_some_and(|r| r.accepting && r.epoch == self.highest)
        };
        let all = || self.sites.iter().enumerate().filter(|(_, site)| accepts(site)).map(|(index, _)| index);
        match last {
            Last::Keep(index) if all().any(|one| one == index) => Some(index),
            Last::Avoid(index) => all().find(|one| *one != index).or_else(|| all().next()),
            Last::Keep(_) | Last::Nowhere => all().next(),
        }
    }

    fn place(&self, index: usize) -> Option<Place> {
        let site = &self.sites[index];
        let (role, connection) = (site.role.as_ref()?, site.connection.clone()?);
        Some(Place { index, version: site.version, epoch: Epoch(role.epoch), connection })
    }

    /// Takes note of what a site said.
    pub(crate) fn heard(&mut self, index: usize, connection: &Connection, role: RoleState) {
        if role.accepting {
            self.highest = self.highest.max(role.epoch);
        }
        let site = &mut self.sites[index];
        let same_connection = site.connection.as_ref().is_some_and(|held| held.number == connection.number);
        let key = |r: &RoleState| (r.accepting, r.epoch, r.primary.clone());
        if !same_connection || site.role.as_ref().map(key) != Some(key(&role)) {
            site.version += 1;
        }
        site.connection = Some(connection.clone());
        site.role = Some(role);
        site.rejected = false;
        site.error.clear();
    }

    /// Takes note that a site cannot be asked.
    pub(crate) fn lost(&mut self, index: usize, error: String, rejected: bool) {
        let site = &mut self.sites[index];
        (site.connection, site.role, site.error, site.rejected) = (None, None, error, rejected);
    }

    /// Who says what, for people.
    fn describe(&self) -> String {
        let one = |site: &Site| match &site.role {
            Some(role) if role.accepting => format!("{} accepts in epoch {}", site.name, Epoch(role.epoch)),
            Some(role) if !role.waiting_for.is_empty() => format!("{} waits for {}", site.name, role.waiting_for),
            Some(role) if role.primary.is_empty() => format!("{} knows no primary", site.name),
            Some(role) => format!("{} says that {} is primary", site.name, role.primary),
            None if site.error.is_empty() => format!("{} has not answered yet", site.name),
            None => site.error.clone(),
        };
        self.sites.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

/// Where a producer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Nowhere,
    /// There, and it goes on there if it can: elsewhere its own latest entries may not have arrived.
    Keep(usize),
    /// There, to no avail although the site says that it accepts.
    Avoid(usize),
}

/// Where a session can begin.
pub(crate) struct Place {
    pub(crate) index: usize,
    /// Of what the site says.
    pub(crate) version: u64,
    pub(crate) epoch: Epoch,
    pub(crate) connection: Connection,
}

/// Why there is no place for a session.
pub(crate) enum Nowhere {
    /// No site accepts, for now.
    Yet(String),
    /// Every site refuses this producer for good.
    Rejected(String),
}

/// Watches the sites for as long as it lives.
pub(crate) struct Sites {
    dial: Arc<dyn Dial>,
    cluster: ClusterId,
    table: watch::Sender<Table>,
    news: watch::Receiver<Table>,
    /// Since when a primary is missed; `None`: appends go on.
    missed: watch::Sender<Option<Instant>>,
    max_pause: Duration,
    scouts: JoinSet<()>,
}

impl Sites {
    /// Begins to watch. Must be called within a tokio runtime.
    pub(crate) fn new(
        dial: Arc<dyn Dial>,
        cluster: ClusterId,
        sites: Vec<(SiteName, String)>,
        max_pause: Duration,
    ) -> Self {
        let (table, news) = watch::channel(Table::default());
        let missed = watch::channel(Some(Instant::now())).0;
        let mut watched = Self { dial, cluster, table, news, missed, max_pause, scouts: JoinSet::new() };
        for (name, address) in sites {
            watched.learn(name, address);
        }
        watched
    }

    /// Also watches this site, at this address too.
    fn learn(&mut self, name: SiteName, address: String) {
        let mut added = None;
        self.table.send_if_modified(|table| {
            let full = table.sites.len() >= MAX_SITES;
            match table.sites.iter_mut().find(|site| site.name == name) {
                Some(site) if address.is_empty() || site.addresses.contains(&address) => {}
                Some(site) => {
                    // The one that was given stays; of those that were heard the oldest goes.
                    if site.addresses.len() == MAX_ADDRESSES {
                        site.addresses.remove(1);
                    }
                    site.addresses.push(address.clone());
                }
                None if address.is_empty() || full => {}
                None => {
                    added = Some(table.sites.len());
                    table.sites.push(Site {
                        name: name.clone(),
                        addresses: vec![address.clone()],
                        connection: None,
                        role: None,
                        version: 0,
                        error: String::new(),
                        rejected: false,
                    });
                }
            }
            false
        });
        if let Some(index) = added {
            let scout = Scout {
                dial: self.dial.clone(),
                cluster: self.cluster,
                name,
                index,
                table: self.table.clone(),
                missed: self.missed.subscribe(),
                max_pause: self.max_pause,
            };
            self.scouts.spawn(scout.run());
        }
    }

    /// Takes note that a refusal named this site.
    pub(crate) fn named(&mut self, site: &str, address: &str) {
        if let Ok(name) = SiteName::new(site) {
            self.learn(name, address.to_owned());
        }
    }

    /// Follows hints of sites to others.
    fn learn_named(&mut self) {
        let named: Vec<(SiteName, String)> = {
            let table = self.news.borrow_and_update();
            let roles = table.sites.iter().filter_map(|site| site.role.as_ref());
            let named = roles.filter(|role| !role.primary.is_empty() && !role.address.is_empty());
            named.filter_map(|role| Some((SiteName::new(&role.primary).ok()?, role.address.clone()))).collect()
        };
        for (name, address) in named {
            self.learn(name, address);
        }
    }

    /// Says whether a primary is missed: then sites are looked for and asked more often.
    pub(crate) fn set_missed(&self, missed: bool) {
        self.missed.send_if_modified(|since| {
            let changes = since.is_some() != missed;
            if changes {
                *since = missed.then(Instant::now);
            }
            changes
        });
    }

    /// Waits for a site that accepts in the latest epoch, `limit` at most. It may be asked again at once.
    pub(crate) async fn accepting(&mut self, limit: Duration, last: Last) -> Result<Place, Nowhere> {
        let found = tokio::time::timeout(
            limit,
            self.find(|table| {
                if let Some(place) = table.accepting(last).and_then(|index| table.place(index)) {
                    return Some(Ok(place));
                }
                let rejected = !table.sites.is_empty() && table.sites.iter().all(|site| site.rejected);
                rejected.then(|| Err(Nowhere::Rejected(table.describe())))
            }),
        );
        match found.await {
            Ok(found) => found,
            Err(_) => Err(Nowhere::Yet(self.describe())),
        }
    }

    /// Waits for a reason to leave a session: another site accepts in a later epoch, or in the same one while this one does
    /// not answer, or the same site answers on a new connection because it did not on the session's.
    pub(crate) async fn better(&mut self, index: usize, epoch: Epoch, connection: u64) -> String {
        self.find(|table| {
            let site = &table.sites[table.accepting(Last::Keep(index))?];
            let role = site.role.as_ref()?;
            let own = &table.sites[index];
            if role.epoch > epoch.0 || site.name != own.name && own.connection.is_none() {
                return Some(format!("{} accepts in epoch {}", site.name, Epoch(role.epoch)));
            }
            let fresh = own.connection.as_ref().is_some_and(|held| held.number > connection);
            (site.name == own.name && fresh).then(|| format!("{} answers on a new connection only", own.name))
        })
        .await
    }

    /// Waits for a place other than the one that just failed, or until that site says something new.
    pub(crate) async fn other(&mut self, failed: Option<(usize, u64)>, last: Last) {
        self.find(|table| {
            let index = table.accepting(last)?;
            (Some((index, table.sites[index].version)) != failed).then_some(())
        })
        .await;
    }

    async fn find<T>(&mut self, look: impl Fn(&Table) -> Option<T>) -> T {
        loop {
            self.learn_named();
            if let Some(found) = look(&self.news.borrow_and_update()) {
                return found;
            }
            if self.news.changed().await.is_err() {
                // The table lives as long as this does.
                return std::future::pending().await;
            }
        }
    }

    /// Who says what.
    pub(crate) fn describe(&self) -> String {
        format!("no site takes appends: {}", self.news.borrow().describe())
    }

    /// A site's name, for messages.
    pub(crate) fn name(&self, index: usize) -> String {
        self.news.borrow().sites.get(index).map(|site| site.name.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "sites_tests.rs"]
mod tests;
