//! Two groups act for one cluster: who is fenced, what each side has alone, and what settles it.

use std::collections::BTreeMap;

use cfs_model::{Epoch, Lsn, SiteId, Vector};

use crate::command::Kind;
use crate::state::State;

/// What is known of one side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Side {
    /// Its group; 0: not enrolled.
    pub group: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// The highest epoch that its sites have seen, whoever opened it. A shipper's floor is part of it, so that it may lie
    /// above what its group has ever opened.
    pub highest: Epoch,
    /// The generation that its group has committed: above that of its epoch until it has opened one in it.
    pub generation: u16,
    /// What it opened.
    pub opened: BTreeMap<Epoch, SiteId>,
    /// What its sites hold.
    pub durable: Vector,
    /// Where it was forced, and the other side has not come back since; empty: it was not.
    pub forked_at: Vector,
}

impl Side {
    /// How far its group has come, as far as it told.
    pub fn standing(&self) -> Standing {
        Standing { generation: self.generation.max(self.epoch.generation()), epoch: self.epoch }
    }
}

/// How far a group has come: the generation that it has committed, and its epoch. Of two the later one acts for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Standing {
    /// Above that of the epoch until one is opened in it.
    pub generation: u16,
    /// The epoch that it opened last.
    pub epoch: Epoch,
}

impl Standing {
    /// Of a group whose replicated state this is.
    pub fn of(state: &State) -> Self {
        Self { generation: state.generation.max(state.epoch.generation()), epoch: state.epoch }
    }
}

/// How two sides stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// One group, or one of the two is not enrolled.
    None,
    /// The other side acts for a later epoch: this one is fenced, and joins that once its operator says so.
    HereFenced,
    /// This side acts for a later epoch: the other one is fenced.
    ThereFenced,
    /// The split was resolved in this group's favour: the other side is to rejoin, nothing else is left.
    Resolved,
}

/// Compares this side, whose replicated state is `state`, with another. Groups never share an epoch: a forced generation
/// carries its site's number. Only what a group has opened or committed counts: a site that is sealed, or whose shipper
/// met the other side's, has seen epochs that its own group does not act for.
pub fn compare(state: &State, here: &Side, there: &Side) -> Verdict {
    if here.group == there.group || here.group == 0 || there.group == 0 {
        return Verdict::None;
    }
    if here.standing() < there.standing() {
        return Verdict::HereFenced;
    }
    let resolved = state.split.as_ref().is_some_and(|split| split.group == there.group && split.resolved_ms.is_some());
    if resolved { Verdict::Resolved } else { Verdict::ThereFenced }
}

/// What another data site holds, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// What it held when it was last heard; `None`: its shipper was not heard yet, so that it may hold anything.
    pub durable: Option<Vector>,
}

/// How many entries of its own streams the site of this number, which holds `own`, has that none of `others` is known to hold.
/// What it received was written elsewhere: it is not its own.
///
/// Another one that was not heard since the cluster parted at `fork` holds what there was then. What shippers exchange after
/// they met again is shared from then on.
///
/// # Errors
/// Why it cannot be known.
pub fn unshared(site: SiteId, own: Option<&Vector>, fork: &Vector, others: &[Other]) -> Result<u64, String> {
    let own = own.ok_or("its shipper has not said yet what it holds")?;
    let mine: Vector = own.iter().filter(|(stream, _)| stream.site == site).collect();
    let parted = Some(fork).filter(|fork| !fork.is_empty());
    let known = others.iter().filter_map(|other| other.durable.as_ref().or(parted));
    let shared = known.fold(Vector::new(), |all, one| all.max(one));
    let unshared = mine.beyond(&shared);
    match others.iter().find(|other| other.durable.is_none() && parted.is_none()) {
        Some(silent) if unshared > 0 => {
            Err(format!("what {} holds is not known: its shipper was not heard yet", silent.name))
        }
        _ => Ok(unshared),
    }
}

/// Those of `others`, each with its group, with whom the entries of a site in `group` are not shared: the other side while
/// there are two, else everybody else. 0: a group that is not known.
pub fn other_side(group: u64, others: Vec<(u64, Other)>) -> Vec<Other> {
    let elsewhere = |other: u64| other != 0 && other != group;
    let split = group != 0 && others.iter().any(|(other, _)| elsewhere(*other));
    others.into_iter().filter(|(other, _)| !split || *other != group).map(|(_, other)| other).collect()
}

/// What a site holds that reported `durable`, in a cluster with these `closed` streams: of one that every site has, nobody
/// keeps a journal, and none speaks.
pub fn holds(mut durable: Vector, closed: &Vector) -> Vector {
    if !durable.is_empty() {
        let gone: Vec<_> = closed.iter().filter(|(stream, _)| durable.get(*stream) == Lsn::ZERO).collect();
        for (stream, end) in gone {
            durable.set(stream, end);
        }
    }
    durable
}

/// The command that resolves the split in favour of the group that commits it.
pub fn resolve(here: &Side, there: &Side) -> Kind {
    let above = [here.epoch, here.highest, there.epoch, there.highest].into_iter().fold(Epoch(0), Epoch::max);
    let opened = there.opened.iter().filter(|opened| !here.opened.contains_key(opened.0));
    let mut incarnations: BTreeMap<SiteId, cfs_model::Incarnation> = BTreeMap::new();
    for (stream, _) in there.durable.iter() {
        let known = incarnations.entry(stream.site).or_default();
        *known = (*known).max(stream.incarnation);
    }
    Kind::Resolve {
        above,
        opened: opened.map(|(epoch, site)| (*epoch, *site)).collect(),
        incarnations: incarnations.into_iter().collect(),
        forked_at: first_fork(&here.forked_at, &there.forked_at),
    }
}

/// Where two sides parted first.
pub fn first_fork(one: &Vector, other: &Vector) -> Vector {
    match (one.is_empty(), other.is_empty()) {
        (true, _) => other.clone(),
        (_, true) => one.clone(),
        _ => one.min(other),
    }
}
