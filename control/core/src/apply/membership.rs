//! Foundings, members, and who counts.

use std::collections::BTreeSet;

use cfs_model::{SiteId, Vector};

use super::{Applied, Outcome};
use crate::caps;
use crate::command::{Command, Founding};
use crate::state::{Finished, Rule, Site, State};

impl State {
    pub(super) fn found(&mut self, command: &Command, founding: &Founding) -> Applied {
        if self.group != 0 {
            return Err("the group is founded already".into());
        }
        let site = &founding.site;
        if site.witness {
            return Err(format!("{} is a witness: it holds no data and cannot found a group", site.name));
        }
        if founding.parent.as_ref().is_some_and(|parent| parent.state.cluster != founding.cluster) {
            return Err("the state to go on from is another cluster's".into());
        }
        let (kind, evidence) = match &founding.parent {
            Some(parent) => {
                let before = self.clone_members_of(&parent.state);
                *self = before;
                self.generation = parent.highest.generation().max(parent.state.generation).saturating_add(1);
                self.forced_by = site.id;
                self.cut.clone_from(&parent.cut);
                // Forced again before the other side came back: what it lacks is what was written since the first time.
                if self.forked_at.is_empty() {
                    self.forked_at.clone_from(&parent.cut);
                }
                ("force", parent.evidence.as_str())
            }
            None => ("founding", ""),
        };
        let (from, before, shared) = (self.primary, self.epoch, self.is_shared());
        self.cluster = founding.cluster;
        self.group = founding.group;
        self.next_node = site.node + 1;
        self.sites.insert(site.id, site.clone());
        self.removed.remove(&site.id);
        self.level = self.level.max(founding.level);
        self.configure(&founding.settings)?;
        self.epoch = self.next_epoch();
        self.primary = Some(site.id);
        self.vote_home = Some(site.id);
        self.opened.insert(self.epoch, if shared { SiteId::EVERY } else { site.id });
        self.rules = vec![Rule { id: self.last_rule + 1, copies: self.copies, members: [site.id].into() }];
        self.last_rule += 1;
        self.promised = 0;
        if founding.parent.is_none() {
            self.incarnations.insert(site.id, self.next_incarnation(site.id));
        }
        self.changes.push_back(Finished {
            op: 0,
            kind: kind.into(),
            from,
            to: Some(site.id),
            before,
            after: self.epoch,
            outcome: "opened".into(),
            by: command.by.clone(),
            reason: if kind == "force" { "forced by an operator".into() } else { "the cluster was founded".into() },
            evidence: evidence.to_owned(),
            began_at_ms: command.at_ms,
            ended_at_ms: command.at_ms,
            phases: Vec::new(),
            counted: vec![site.id],
        });
        let text = format!("{} founds group {:016x} and opens epoch {}", site.name, founding.group, self.epoch);
        self.note(command, kind, site.id, text, evidence);
        Ok(Outcome::Done)
    }

    /// What a forced group takes over from the survivor's state: everything but what was under way.
    fn clone_members_of(&self, parent: &Self) -> Self {
        let mut state = parent.clone();
        state.group = 0;
        state.operation = None;
        state.moving = None;
        state.lease_before_ms = None;
        state.split = None;
        // Absent sites stay enrolled; their node ids belonged to the old group.
        for site in state.sites.values_mut() {
            site.node = 0;
        }
        state
    }

    pub(super) fn enrol(&mut self, command: &Command, site: &Site) -> Applied {
        if let Some(other) = self.sites.values().find(|known| (known.id == site.id) != (known.name == site.name)) {
            return Err(if other.id == site.id {
                format!(
                    "site number {} belongs to {}: give {} another number in its configuration",
                    site.id, other.name, site.name
                )
            } else {
                format!(
                    "the name {} belongs to site number {}: its configuration says {}",
                    site.name, other.id, site.id
                )
            });
        }
        let known = self.sites.get(&site.id);
        if known.is_some_and(|known| known.witness != site.witness) {
            return Err(format!("{} is enrolled with another kind: remove it first", site.name));
        }
        if site.witness && known.is_none() && self.sites.values().any(|other| other.witness) {
            return Err("there is a witness already: a second one would add no safety; remove the first".into());
        }
        if known.is_none() && self.sites.len() >= caps::MAX_SITES {
            return Err(format!("a cluster has at most {} sites", caps::MAX_SITES));
        }
        if self.primary == Some(site.id) && self.group_has(site.id) {
            return Err(format!(
                "{} is primary: under a new node id it would be one that may have lost what it held. Move the role first, \
                 `cfs admin replication failover --to SITE`",
                site.name
            ));
        }
        let again = if known.is_some() { "again " } else { "" };
        let node = self.next_node;
        self.next_node += 1;
        self.uncount(site.id, true);
        let kind = if site.witness { " as a witness" } else { "" };
        let voters_before = self.wanted_voters();
        self.sites.insert(site.id, Site { node, ..site.clone() });
        self.removed.remove(&site.id);
        self.settle_fork();
        let text = format!("{} is enrolled {again}under node id {node}{kind}", site.name);
        self.note(command, "enrol", site.id, text, "");
        self.note_voters(command, &voters_before);
        Ok(Outcome::Allotted(node))
    }

    pub(super) fn remove(&mut self, command: &Command, site: SiteId, forced: bool) -> Applied {
        let name = self.member_name(site)?;
        if self.primary == Some(site) {
            return Err(format!("{name} is primary: move the role first, `cfs admin replication failover --to SITE`"));
        }
        if self.data_sites().count() == 1 && self.sites.get(&site).is_some_and(|site| !site.witness) {
            return Err(format!("{name} is the last data site"));
        }
        let voters_before = self.wanted_voters();
        if let Some(gone) = self.sites.remove(&site) {
            self.removed.insert(site, gone.name);
        }
        self.held.remove(&site);
        self.uncount(site, false);
        self.settle_fork();
        let how = if forced { "by force" } else { "" };
        self.note(command, "remove", site, format!("{name} is removed {how}").trim().to_owned(), "");
        self.note_voters(command, &voters_before);
        Ok(Outcome::Done)
    }

    /// A site's copies do not count any more. What was acknowledged because of them is known to be elsewhere only once the
    /// primary confirms the rule without it: until then the old rule stays, and a failover counts the copies as missing.
    fn uncount(&mut self, site: SiteId, wiped: bool) {
        let counted = self.rules.iter().any(|rule| rule.members.contains(&site));
        let Some(newest) = self.rules.last().filter(|_| counted).cloned() else { return };
        let mut members = newest.members;
        members.remove(&site);
        self.rules.truncate(1);
        if wiped && let Some(oldest) = self.rules.first_mut() {
            // The site will be heard again, without what it held.
            oldest.members.remove(&site);
            let gone =
                (0..=u8::MAX).rev().map(SiteId).find(|id| !self.sites.contains_key(id) && !oldest.members.contains(id));
            oldest.members.extend(gone);
        }
        self.last_rule += 1;
        self.rules.push(Rule { id: self.last_rule, copies: newest.copies, members });
    }

    pub(super) fn set_rule(&mut self, command: &Command, copies: u8, members: &[SiteId]) -> Applied {
        let members: BTreeSet<SiteId> = members.iter().copied().collect();
        if !self.primary.is_some_and(|primary| members.contains(&primary)) {
            return Err("the primary always counts".into());
        }
        for member in &members {
            self.member_name(*member)?;
        }
        self.last_rule += 1;
        let text = format!(
            "remote({copies}) among {}",
            members.iter().map(|id| self.name_of(*id)).collect::<Vec<_>>().join(", ")
        );
        // A rule that was never settled promised nothing that the oldest does not: it may be one that nobody can meet.
        self.rules.truncate(1);
        self.rules.push(Rule { id: self.last_rule, copies, members });
        self.note(command, "rule", SiteId(0), text, "");
        Ok(Outcome::Done)
    }

    /// Once nobody is missing from a group that was forced, there is no other side any more.
    fn settle_fork(&mut self) {
        if self.sites.values().filter(|site| !site.witness).all(|site| self.group_has(site.id)) {
            self.forked_at = Vector::new();
        }
    }

    /// Whether a site takes part in this group, and is not only known from one before.
    fn group_has(&self, site: SiteId) -> bool {
        self.sites.get(&site).is_some_and(|site| site.node != 0)
    }

    pub(super) fn note_voters(&mut self, command: &Command, before: &BTreeSet<SiteId>) {
        let now = self.wanted_voters();
        if now == *before {
            return;
        }
        let names = |ids: &BTreeSet<SiteId>| ids.iter().map(|id| self.name_of(*id)).collect::<Vec<_>>().join(", ");
        let learners: Vec<String> =
            self.sites.keys().filter(|id| !now.contains(id)).map(|id| self.name_of(*id)).collect();
        let learners = if learners.is_empty() { String::new() } else { format!("; learners: {}", learners.join(", ")) };
        let text = format!("voters: {}{learners}", names(&now));
        let was = format!("before: {}", names(before));
        self.note(command, "voters", SiteId(0), text, &was);
    }
}
