//! What is proposed to the group. A command carries everything that applying it needs, its proposer's time included.

use std::collections::BTreeMap;

use cfs_model::{ClusterId, Epoch, Incarnation, Level, Lsn, SiteId, SiteName, StreamId, Vector};
use serde::{Deserialize, Serialize};

use crate::state::{NodeId, Seal, Settings, Site, State};

/// One entry of the group's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The proposer's wall clock, in milliseconds since the Unix epoch: for people, nothing is decided by it.
    pub at_ms: u64,
    /// Who wanted it: `site-a`, or `operator@host`.
    pub by: String,
    /// What.
    pub kind: Kind,
}

/// What kind of change of primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The primary is lost, or has given up its lease.
    Failover {
        /// Who is to open; `None`: whoever holds most.
        to: Option<SiteId>,
    },
    /// Planned: the primary drains first.
    Switchover {
        /// Who is to be primary.
        to: SiteId,
        /// After so long, counted by the leader, it is aborted.
        timeout_ms: u64,
    },
    /// Active-active is switched on or off: whoever takes appends drains first.
    Mode {
        /// Whether every data site takes appends in the epoch that opens.
        shared: bool,
        /// Who is to be primary in it: with `shared` the one that coordinates.
        to: SiteId,
        /// After so long, counted by the leader, it is aborted.
        timeout_ms: u64,
    },
}

impl Change {
    /// Who is to be primary, if that is said beforehand.
    pub const fn target(self) -> Option<SiteId> {
        match self {
            Self::Failover { to } => to,
            Self::Switchover { to, .. } | Self::Mode { to, .. } => Some(to),
        }
    }

    /// Whether it seals, and so ends by opening an epoch.
    pub const fn is_failover(self) -> bool {
        matches!(self, Self::Failover { .. })
    }

    /// A word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failover { .. } => "failover",
            Self::Switchover { .. } => "switchover",
            Self::Mode { shared: true, .. } => "active-active-on",
            Self::Mode { shared: false, .. } => "active-active-off",
        }
    }
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The group's first command.
    Found(Box<Founding>),
    /// A site becomes a member, or comes back under a fresh node id, which applying allots.
    Enrol {
        /// The site; its `node` is ignored.
        site: Site,
    },
    /// A site is a member no more.
    Remove {
        /// Which.
        site: SiteId,
        /// Although it may hold more of its streams than the others.
        forced: bool,
    },
    /// A change of primary begins: from now on the epoch's lease is renewed not at all, or only for draining.
    Begin {
        /// Its number: one more than the last.
        op: u64,
        /// The epoch that it ends.
        epoch: Epoch,
        /// What kind.
        change: Change,
        /// Why, for people.
        reason: String,
        /// What the leader saw.
        evidence: String,
    },
    /// An epoch opens.
    Open {
        /// The operation that leads here.
        op: u64,
        /// The epoch: the next one.
        epoch: Epoch,
        /// For whom.
        site: SiteId,
        /// What it had applied by then, and whoever is to be primary later must have.
        cut: Vector,
        /// The seals that the cut rests on.
        counted: Vec<Seal>,
        /// How long each phase took, in milliseconds.
        phases: Vec<(String, u64)>,
    },
    /// A switchover did not come about: the old primary goes on in the same epoch.
    Abort {
        /// The operation.
        op: u64,
        /// Why.
        why: String,
        /// How long each phase took, in milliseconds.
        phases: Vec<(String, u64)>,
    },
    /// While every data site takes appends, another one coordinates; the epoch stays.
    Coordinate {
        /// The epoch.
        epoch: Epoch,
        /// Who is to.
        site: SiteId,
        /// Why, for people.
        reason: String,
        /// What the leader saw.
        evidence: String,
    },
    /// A site's stream gets a new incarnation.
    Allot {
        /// Whose.
        site: SiteId,
        /// The one it replaces; 0: none.
        after: Incarnation,
        /// Why.
        why: String,
    },
    /// Acknowledgements and seals are counted by another rule, besides the old one until that is settled.
    SetRule {
        /// Copies beside the primary's own.
        copies: u8,
        /// Sites that count, the primary included.
        members: Vec<SiteId>,
    },
    /// Everything ever acknowledged meets this rule: earlier ones are over.
    Settle {
        /// The rule.
        rule: u64,
    },
    /// A producer of this epoch may be promised so many copies, and failover must count on it.
    Promise {
        /// The epoch.
        epoch: Epoch,
        /// Copies, at least 1.
        copies: u8,
    },
    /// Other settings; `None` leaves one as it is.
    Set(Settings),
    /// Settings that an operator changes for the whole cluster, all of them or none.
    Configure {
        /// What the proposer knew: a member that knows less keeps what it cannot check.
        level: Level,
        /// New values by name; `None`: each site's own holds again.
        values: BTreeMap<String, Option<String>>,
    },
    /// Leases of the length before the last change have run out.
    LeaseSettled,
    /// A closed stream ends here.
    Close {
        /// Which.
        stream: StreamId,
        /// Its last entry.
        last: Lsn,
        /// Without having heard every site.
        forced: bool,
    },
    /// The vote of a cluster of two moves to this site, and the primary role after it.
    MoveVote {
        /// Where to; the present primary's site takes a move back.
        to: SiteId,
        /// The timeout of the switchover that follows, in milliseconds.
        timeout_ms: u64,
    },
    /// No streams are exchanged with a site, or again.
    Hold {
        /// Which.
        site: SiteId,
        /// Whether.
        held: bool,
        /// Why.
        why: String,
    },
    /// Another group acts for the same cluster.
    Split {
        /// That group.
        group: u64,
        /// Its highest epoch.
        epoch: Epoch,
        /// How this is known.
        evidence: String,
    },
    /// The split is over, in this group's favour: its next epoch is above all that either side saw.
    Resolve {
        /// The highest epoch that either side saw.
        above: Epoch,
        /// What the other side opened.
        opened: Vec<(Epoch, SiteId)>,
        /// Incarnations that the other side allotted.
        incarnations: Vec<(SiteId, Incarnation)>,
        /// Where the two sides parted, while the other side has still to come back.
        #[serde(default)]
        forked_at: Vector,
    },
    /// A site that has no certificates may ask for them once.
    Invite {
        /// SHA-256 of the secret in the token, in hexadecimal digits.
        hash: String,
        /// Who may.
        site: SiteName,
        /// The leader's wall clock.
        now_ms: u64,
        /// Until when, by the same.
        until_ms: u64,
    },
    /// An invitation is used.
    Redeem {
        /// As above.
        hash: String,
        /// By whom.
        site: SiteName,
        /// The leader's wall clock.
        now_ms: u64,
        /// For what: a digest of the requests that are to be signed.
        what: String,
    },
    /// Every member knows this level from now on, and who knows less is not let in any more.
    Raise {
        /// The level.
        level: Level,
        /// The members that were asked, by their node ids.
        nodes: Vec<NodeId>,
    },
    /// Something happened that an operator may want to read later.
    Note {
        /// A word for it.
        what: String,
        /// Which site it concerns; 0: none.
        site: SiteId,
        /// What.
        text: String,
        /// How it is known.
        evidence: String,
    },
}

impl Kind {
    /// A word for it: some carry what belongs into no log, as the hash of a token.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::Enrol { .. } => "enrol",
            Self::Remove { .. } => "remove",
            Self::Begin { .. } => "begin",
            Self::Open { .. } => "open",
            Self::Abort { .. } => "abort",
            Self::Coordinate { .. } => "coordinate",
            Self::Allot { .. } => "allot",
            Self::SetRule { .. } => "set rule",
            Self::Settle { .. } => "settle",
            Self::Promise { .. } => "promise",
            Self::Set(_) => "set",
            Self::Configure { .. } => "configure",
            Self::LeaseSettled => "lease settled",
            Self::Raise { .. } => "raise",
            Self::Close { .. } => "close",
            Self::MoveVote { .. } => "move vote",
            Self::Hold { .. } => "hold",
            Self::Split { .. } => "split",
            Self::Resolve { .. } => "resolve",
            Self::Invite { .. } => "invite",
            Self::Redeem { .. } => "redeem",
            Self::Note { .. } => "note",
        }
    }
}

/// The founding of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group's id, never 0; drawn at random.
    pub group: u64,
    /// The founding site, with the node id that it founds under.
    pub site: Site,
    /// Settings of a new cluster.
    pub settings: Settings,
    /// What the members of a new cluster know.
    #[serde(default)]
    pub level: Level,
    /// A forced recovery: what the survivor knew.
    pub parent: Option<Parent>,
}

/// What a forced recovery goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The state that the survivor had, its log's tail included.
    pub state: State,
    /// The highest epoch that anybody reachable had seen.
    pub highest: Epoch,
    /// The survivor's durable cursors.
    pub cut: Vector,
    /// Who could be asked, and what was known of the rest.
    pub evidence: String,
}
