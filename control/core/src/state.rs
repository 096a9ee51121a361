//! What every member of the group knows alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cfs_model::{ClusterId, Epoch, Incarnation, Level, SiteId, SiteName, Vector};
use serde::{Deserialize, Serialize};

use crate::apply::Invitation;
use crate::caps;
use crate::command::Change;

mod majority;

/// Number of a member in one group. Never used twice, not even by the same site after its state was lost.
pub type NodeId = u64;

/// A member as the Raft library knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Its site.
    pub site: SiteId,
    /// The site's name, which its certificate holds.
    pub name: String,
    /// Where its control process listens, `HOST:PORT`.
    pub control: String,
}

/// An enrolled site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its number.
    pub id: SiteId,
    /// Its name.
    pub name: SiteName,
    /// Whether it only votes.
    pub witness: bool,
    /// Its number in the group.
    pub node: NodeId,
    /// Where its shipper listens for other shippers.
    pub peer: String,
    /// Where its shipper listens for producers; empty: nowhere.
    pub producer: String,
    /// Where its control process listens.
    pub control: String,
    /// Where its control process serves HTTP; empty: nowhere.
    pub http: String,
    /// Among equally complete sites the highest is chosen as primary.
    pub priority: u8,
}

impl Site {
    /// The same for the Raft library.
    pub fn member(&self) -> Member {
        Member { site: self.id, name: self.name.to_string(), control: self.control.clone() }
    }
}

/// Settings of the cluster. In a command `None` leaves one as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Length of a lease.
    pub lease_ms: Option<u64>,
    /// Copies beside the primary's own before an append is acknowledged.
    pub copies: Option<u8>,
    /// Whether a returning primary rejoins by itself.
    pub auto_rejoin: Option<bool>,
    /// Whether the primary role moves by itself.
    pub auto_failover: Option<bool>,
    /// Whether a site that is cut off goes on taking appends while active-active is on.
    #[serde(default)]
    pub goes_on_alone: Option<bool>,
}

/// Who counts: the primary and `copies` of the other members must hold an entry before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Counts up.
    pub id: u64,
    /// Copies beside the primary's own.
    pub copies: u8,
    /// The sites, the primary included.
    pub members: BTreeSet<SiteId>,
}

/// What a sealed site had made durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The site.
    pub site: SiteId,
    /// Its durable cursors when it was sealed: causally closed.
    pub durable: Vector,
}

/// A change of primary that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number.
    pub op: u64,
    /// What kind.
    pub change: Change,
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What the leader saw.
    pub evidence: String,
    /// The proposer's wall clock.
    pub began_at_ms: u64,
}

/// The primary role's move between two sites without a witness: the vote goes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where to.
    pub to: SiteId,
    /// Of the switchover that follows.
    pub timeout_ms: u64,
    /// Who wanted it.
    pub by: String,
    /// The proposer's wall clock.
    pub began_at_ms: u64,
}

/// A change of primary that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Its number; 0: a founding.
    pub op: u64,
    /// `failover`, `switchover`, `force` or `founding`.
    pub kind: String,
    /// Who was primary.
    pub from: Option<SiteId>,
    /// Who is; of one that was aborted, who was to be.
    pub to: Option<SiteId>,
    /// The epoch before.
    pub before: Epoch,
    /// The epoch after.
    pub after: Epoch,
    /// `opened` or `aborted`.
    pub outcome: String,
    /// Who wanted it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What the leader saw.
    pub evidence: String,
    /// Proposers' wall clocks.
    pub began_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: u64,
    /// How long each phase took, in milliseconds.
    pub phases: Vec<(String, u64)>,
    /// Sites whose seals counted.
    pub counted: Vec<SiteId>,
}

/// Something an operator may want to read later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up.
    pub index: u64,
    /// The proposer's wall clock.
    pub at_ms: u64,
    /// A word for it.
    pub what: String,
    /// Which site; 0: none.
    pub site: SiteId,
    /// The epoch then.
    pub epoch: Epoch,
    /// What.
    pub text: String,
    /// How it is known.
    pub evidence: String,
    /// Who wanted it.
    pub by: String,
}

/// Another group acts, or acted, for the same cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The other group.
    pub group: u64,
    /// Its highest epoch that is known.
    pub epoch: Epoch,
    /// How this is known.
    pub evidence: String,
    /// Since when, by the proposer's wall clock.
    pub since_ms: u64,
    /// When it was resolved.
    pub resolved_ms: Option<u64>,
}

/// What every member of the group knows alike. Changes in [`State::apply`] alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group; 0: not founded.
    pub group: u64,
    /// Forced recoveries before this group.
    pub generation: u16,
    /// Who forced the last one.
    pub forced_by: SiteId,
    /// The members.
    pub sites: BTreeMap<SiteId, Site>,
    /// Sites that were removed, by name.
    pub removed: BTreeMap<SiteId, SiteName>,
    /// The node id that is allotted next.
    pub next_node: NodeId,
    /// The epoch opened last.
    pub epoch: Epoch,
    /// Whose it is; while every data site appends in it, who coordinates.
    pub primary: Option<SiteId>,
    /// What its site had applied by then.
    pub cut: Vector,
    /// What the survivor held when a group was founded by force, the first time if it was more than once: whatever else there
    /// is of older epochs was written on the other side of the split. Empty once every data site is back in one group.
    #[serde(default)]
    pub forked_at: Vector,
    /// Every epoch that was opened; of [`SiteId::EVERY`] if every data site appends in it.
    pub opened: BTreeMap<Epoch, SiteId>,
    /// A change of primary that was begun.
    pub operation: Option<Operation>,
    /// The number of the one begun last.
    pub last_op: u64,
    /// The number of the one aborted last; 0: none.
    pub aborted_op: u64,
    /// The primary role's move in a cluster of two.
    pub moving: Option<Move>,
    /// Where the vote of a cluster of two is.
    pub vote_home: Option<SiteId>,
    /// The incarnation allotted last to each site's stream.
    pub incarnations: BTreeMap<SiteId, Incarnation>,
    /// Length of a lease.
    pub lease_ms: u64,
    /// The longer length that leases may still have from before the last change.
    pub lease_before_ms: Option<u64>,
    /// Copies that the cluster wants beside the primary's own.
    pub copies: u8,
    /// Whether a returning primary rejoins by itself.
    pub auto_rejoin: bool,
    /// Whether the primary role moves by itself.
    pub auto_failover: bool,
    /// Whether a site that is cut off goes on taking appends while active-active is on.
    #[serde(default)]
    pub goes_on_alone: bool,
    /// What every member knows.
    #[serde(default)]
    pub level: Level,
    /// What operators set for the whole cluster, by name; what a newer version knows is among it, unread.
    #[serde(default)]
    pub settings: cfs_config::cluster::Values,
    /// How often that was changed.
    #[serde(default)]
    pub settings_version: u64,
    /// The rules in force, oldest first; all apply.
    pub rules: Vec<Rule>,
    /// The id given last.
    pub last_rule: u64,
    /// The smallest number of copies above 0 that a producer of this epoch was promised; 0: none.
    pub promised: u8,
    /// Closed streams and where they end.
    pub closed: Vector,
    /// Sites with which no streams are exchanged.
    pub held: BTreeSet<SiteId>,
    /// Sites that may ask for certificates, by the hash of their token's secret.
    #[serde(default)]
    pub invitations: BTreeMap<String, Invitation>,
    /// Another group.
    pub split: Option<Split>,
    /// Changes of primary, oldest first.
    pub changes: VecDeque<Finished>,
    /// Audit events, oldest first.
    pub events: VecDeque<Event>,
    /// The index given last.
    pub last_event: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            cluster: ClusterId([0; 16]),
            group: 0,
            generation: 0,
            forced_by: SiteId(0),
            sites: BTreeMap::new(),
            removed: BTreeMap::new(),
            next_node: 1,
            epoch: Epoch(0),
            primary: None,
            cut: Vector::new(),
            forked_at: Vector::new(),
            opened: BTreeMap::new(),
            operation: None,
            last_op: 0,
            aborted_op: 0,
            moving: None,
            vote_home: None,
            incarnations: BTreeMap::new(),
            lease_ms: caps::DEFAULT_LEASE_MS,
            lease_before_ms: None,
            copies: 0,
            auto_rejoin: true,
            auto_failover: true,
            goes_on_alone: false,
            settings: BTreeMap::new(),
            level: Level::FIRST,
            settings_version: 0,
            rules: Vec::new(),
            last_rule: 0,
            promised: 0,
            closed: Vector::new(),
            held: BTreeSet::new(),
            invitations: BTreeMap::new(),
            split: None,
            changes: VecDeque::new(),
            events: VecDeque::new(),
            last_event: 0,
        }
    }
}

impl State {
    /// The epoch that opens next.
    pub fn next_epoch(&self) -> Epoch {
        if (self.epoch.generation(), self.epoch.forced_by()) == (self.generation, self.forced_by) {
            Epoch::new(self.generation, self.forced_by, self.epoch.counter() + 1)
        } else {
            Epoch::new(self.generation, self.forced_by, 1)
        }
    }

    /// The incarnation that a site's stream gets next.
    pub fn next_incarnation(&self, site: SiteId) -> Incarnation {
        let last = self.incarnations.get(&site).copied().unwrap_or_default();
        Incarnation::new(self.generation, self.forced_by, last.counter() + 1)
    }

    /// A member by number.
    pub fn site(&self, id: SiteId) -> Option<&Site> {
        self.sites.get(&id)
    }

    /// A member by name.
    pub fn named(&self, name: &str) -> Option<&Site> {
        self.sites.values().find(|site| site.name.as_str() == name)
    }

    /// A member by node id.
    pub fn with_node(&self, node: NodeId) -> Option<&Site> {
        self.sites.values().find(|site| site.node == node)
    }

    /// Name of a site, its number if it is unknown.
    pub fn name_of(&self, id: SiteId) -> String {
        let name = self.sites.get(&id).map(|site| &site.name).or_else(|| self.removed.get(&id));
        name.map_or_else(|| format!("site number {id}"), ToString::to_string)
    }

    /// Members that hold data.
    pub fn data_sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values().filter(|site| !site.witness)
    }

    /// The split that nobody has resolved yet.
    pub fn open_split(&self) -> Option<&Split> {
        self.split.as_ref().filter(|split| split.resolved_ms.is_none())
    }

    /// Whether every data site appends in the present epoch: active-active.
    pub fn is_shared(&self) -> bool {
        self.opened.get(&self.epoch) == Some(&SiteId::EVERY)
    }

    /// Whether a site may hold a lease of the present epoch.
    pub fn may_append(&self, id: SiteId) -> bool {
        let takes_part = |site: &Site| !site.witness && site.node != 0 && !self.held.contains(&id);
        self.primary == Some(id) || self.is_shared() && self.sites.get(&id).is_some_and(takes_part)
    }

    /// Every site that may hold a lease of the present epoch.
    pub fn appenders(&self) -> impl Iterator<Item = SiteId> {
        self.sites.keys().copied().filter(|id| self.may_append(*id))
    }

    /// The longest that a lease granted by anybody may still last.
    pub fn longest_lease_ms(&self) -> u64 {
        self.lease_ms.max(self.lease_before_ms.unwrap_or(0))
    }

    /// Added to a lease before anybody acts against it: clocks may run at rates that differ by a percent, and a tick is
    /// late by some milliseconds.
    pub fn margin_ms(&self) -> u64 {
        30 + self.longest_lease_ms() / 50
    }
}
