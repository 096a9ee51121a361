//! The one door through which the replicated state changes.

use cfs_model::{Epoch, SiteId, Vector};
use serde::{Deserialize, Serialize};

use crate::caps;
use crate::command::{Change, Command, Kind};
use crate::state::{Event, Finished, Move, NodeId, Operation, Rule, Split, State};

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done, and this node id was allotted.
    Allotted(NodeId),
    /// It changed nothing, because of this.
    Refused(String),
}

mod active;
mod invitation;
mod level;
mod membership;

pub use invitation::Invitation;
mod settings;

type Applied = Result<Outcome, String>;

impl State {
    /// Applies a command. One that is refused changes nothing. The same on every member: nothing but the state and the
    /// command is looked at.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let mut next = self.clone();
        match next.change(command) {
            Ok(outcome) => {
                next.bound();
                *self = next;
                outcome
            }
            Err(why) => Outcome::Refused(why),
        }
    }

    fn change(&mut self, command: &Command) -> Applied {
        if self.group == 0 && !matches!(command.kind, Kind::Found(_)) {
            return Err("the group is not founded yet".into());
        }
        match &command.kind {
            Kind::Found(founding) => self.found(command, founding),
            Kind::Enrol { site } => self.enrol(command, site),
            Kind::Remove { site, forced } => self.remove(command, *site, *forced),
            Kind::Begin { op, epoch, change, reason, evidence } => {
                self.begin(command, *op, *epoch, *change, reason, evidence)
            }
            Kind::Open { .. } => self.open(command),
            Kind::Abort { op, why, phases } => self.abort(command, *op, why, phases),
            Kind::Coordinate { epoch, site, reason, evidence } => {
                self.coordinate(command, *epoch, *site, reason, evidence)
            }
            Kind::Allot { site, after, why } => {
                let last = self.incarnations.get(site).copied().unwrap_or_default();
                if last != *after {
                    return Err(format!("incarnation {last} was allotted meanwhile"));
                }
                let name = self.member_name(*site)?;
                let next = self.next_incarnation(*site);
                self.incarnations.insert(*site, next);
                self.note(command, "incarnation", *site, format!("{name} gets incarnation {next}"), why);
                Ok(Outcome::Done)
            }
            Kind::SetRule { copies, members } => self.set_rule(command, *copies, members),
            Kind::Settle { rule } => {
                if !self.rules.iter().any(|known| known.id == *rule) {
                    return Err(format!("rule {rule} is not in force"));
                }
                self.rules.retain(|known| known.id >= *rule);
                Ok(Outcome::Done)
            }
            Kind::Promise { epoch, copies } => {
                if *epoch != self.epoch || *copies == 0 {
                    return Err(format!("epoch {epoch} is not the current one"));
                }
                self.promised = if self.promised == 0 { *copies } else { self.promised.min(*copies) };
                Ok(Outcome::Done)
            }
            Kind::Set(settings) => self.set(command, settings),
            Kind::Configure { level, values } => self.configure_cluster(command, *level, values),
            Kind::Raise { level, nodes } => self.raise(command, *level, nodes),
            Kind::LeaseSettled => {
                self.lease_before_ms = None;
                Ok(Outcome::Done)
            }
            Kind::Close { stream, last, forced } => {
                if self.closed.get(*stream) != cfs_model::Lsn::ZERO {
                    return Err(format!("stream {stream} is closed already"));
                }
                self.closed.set(*stream, *last);
                let how = if *forced { ", without having heard every site" } else { "" };
                self.note(command, "close", stream.site, format!("stream {stream} ends at {last}{how}"), "");
                Ok(Outcome::Done)
            }
            Kind::MoveVote { to, timeout_ms } => self.move_vote(command, *to, *timeout_ms),
            Kind::Hold { site, held, why } => {
                let name = self.member_name(*site)?;
                let changed = if *held { self.held.insert(*site) } else { self.held.remove(site) };
                if changed {
                    let what = if *held { "is held apart" } else { "takes part again" };
                    self.note(command, "hold", *site, format!("{name} {what}"), why);
                }
                Ok(Outcome::Done)
            }
            Kind::Split { group, epoch, evidence } => self.split(command, *group, *epoch, evidence),
            Kind::Resolve { above, opened, incarnations, forked_at } => {
                let ours = self.opened.clone();
                for (epoch, site) in opened {
                    if ours.get(epoch).is_some_and(|known| known != site) {
                        return Err(format!("epoch {epoch} was opened for different sites on both sides"));
                    }
                    self.opened.insert(*epoch, *site);
                }
                for (site, incarnation) in incarnations {
                    let known = self.incarnations.entry(*site).or_default();
                    *known = (*known).max(*incarnation);
                }
                self.generation = above.generation().max(self.generation).saturating_add(1);
                self.forced_by = self.primary.unwrap_or(self.forced_by);
                if let Some(split) = &mut self.split {
                    split.resolved_ms = Some(command.at_ms);
                }
                // Whoever is on the other side has still to come back, and may be the one that is kept after all.
                if self.forked_at.is_empty() {
                    self.forked_at.clone_from(forked_at);
                }
                let text = format!("the split is resolved: the next epoch is {}", self.next_epoch());
                self.note(command, "resolve", SiteId(0), text, &format!("highest epoch seen: {above}"));
                Ok(Outcome::Done)
            }
            Kind::Invite { hash, site, now_ms, until_ms } => self.invite(command, hash, site, *now_ms, *until_ms),
            Kind::Redeem { hash, site, now_ms, what } => self.redeem(command, hash, site, *now_ms, what),
            Kind::Note { what, site, text, evidence } => {
                self.note(command, what, *site, text.clone(), evidence);
                Ok(Outcome::Done)
            }
        }
    }

    fn begin(
        &mut self,
        command: &Command,
        op: u64,
        epoch: Epoch,
        change: Change,
        reason: &str,
        evidence: &str,
    ) -> Applied {
        if let Some(running) = &self.operation {
            return Err(format!("operation {} is under way", running.op));
        }
        if op != self.last_op + 1 {
            return Err(format!("operation {} was begun meanwhile", self.last_op));
        }
        if epoch != self.epoch {
            return Err(format!("epoch {} was opened meanwhile", self.epoch));
        }
        self.fits_mode(change)?;
        if let Change::Switchover { to, .. } | Change::Mode { to, .. } | Change::Failover { to: Some(to) } = change {
            let name = self.member_name(to)?;
            if self.sites.get(&to).is_some_and(|site| site.witness) {
                return Err(format!("{name} is a witness: it holds no data"));
            }
        }
        self.last_op = op;
        self.operation = Some(Operation {
            op,
            change,
            by: command.by.clone(),
            reason: reason.to_owned(),
            evidence: evidence.to_owned(),
            began_at_ms: command.at_ms,
        });
        let text = format!("{} {op} begins: {reason}", change.word());
        self.note(command, "begin", self.primary.unwrap_or_default(), text, evidence);
        Ok(Outcome::Done)
    }

    fn open(&mut self, command: &Command) -> Applied {
        let Kind::Open { op, epoch, site, cut, counted, phases } = &command.kind else {
            return Err("not an open".into());
        };
        let running = self.operation.take().filter(|running| running.op == *op);
        let running = running.ok_or_else(|| format!("operation {op} is over"))?;
        if *epoch != self.next_epoch() || *epoch <= self.epoch {
            return Err(format!("epoch {epoch} does not follow {}", self.epoch));
        }
        let name = self.member_name(*site)?;
        if !cut.covers(&self.cut) {
            return Err(format!("the cut {cut} does not cover {}, the cut of epoch {}", self.cut, self.epoch));
        }
        let from = self.primary;
        let shared = match running.change {
            Change::Mode { shared, .. } => shared,
            Change::Failover { .. } | Change::Switchover { .. } => self.is_shared(),
        };
        let before = std::mem::replace(&mut self.epoch, *epoch);
        self.primary = Some(*site);
        self.vote_home = Some(*site);
        self.moving = None;
        self.cut = cut.clone();
        self.opened.insert(*epoch, if shared { SiteId::EVERY } else { *site });
        let covering = counted.iter().filter(|seal| seal.durable.covers(cut)).map(|seal| seal.site);
        let members = covering.chain([*site]).filter(|id| self.sites.contains_key(id)).collect();
        self.last_rule += 1;
        self.rules = vec![Rule { id: self.last_rule, copies: self.copies, members }];
        self.promised = 0;
        if !self.auto_rejoin && running.change.is_failover() {
            self.held.extend(from.filter(|from| from != site && self.sites.contains_key(from)));
        }
        self.held.remove(site);
        let evidence = running.evidence.clone();
        let whom = if shared { format!("every data site, {name} coordinates") } else { name };
        let text = format!("epoch {epoch} opens for {whom}, cut {cut}");
        self.finish(command, running, before, from, Some(*site), "opened", phases, counted.iter().map(|s| s.site));
        self.note(command, "open", *site, text, &evidence);
        Ok(Outcome::Done)
    }

    fn abort(&mut self, command: &Command, op: u64, why: &str, phases: &[(String, u64)]) -> Applied {
        match &self.operation {
            Some(running) if running.op == op && !running.change.is_failover() => {}
            Some(running) if running.op == op => {
                return Err("a failover ends by opening an epoch, never by aborting".into());
            }
            _ => return Err(format!("operation {op} is over")),
        }
        let Some(running) = self.operation.take() else { return Err(format!("operation {op} is over")) };
        let word = running.change.word();
        self.aborted_op = op;
        self.moving = None;
        self.vote_home = self.primary;
        let primary = self.primary;
        let target = running.change.target();
        self.finish(command, running, self.epoch, primary, target, "aborted", phases, []);
        let text = format!("{word} {op} is aborted: {why}");
        self.note(command, "abort", primary.unwrap_or_default(), text, "");
        Ok(Outcome::Done)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one record, named where it is made")]
    fn finish(
        &mut self,
        command: &Command,
        running: Operation,
        before: Epoch,
        from: Option<SiteId>,
        to: Option<SiteId>,
        outcome: &str,
        phases: &[(String, u64)],
        counted: impl IntoIterator<Item = SiteId>,
    ) {
        self.changes.push_back(Finished {
            op: running.op,
            kind: running.change.word().into(),
            from,
            to,
            before,
            after: self.epoch,
            outcome: outcome.into(),
            by: running.by,
            reason: running.reason,
            evidence: running.evidence,
            began_at_ms: running.began_at_ms,
            ended_at_ms: command.at_ms,
            phases: phases.to_vec(),
            counted: counted.into_iter().collect(),
        });
    }

    fn move_vote(&mut self, command: &Command, to: SiteId, timeout_ms: u64) -> Applied {
        let name = self.member_name(to)?;
        if self.operation.is_some() {
            return Err("a change of primary is under way".into());
        }
        if self.is_shared() {
            return Err("active-active is on: the vote moves with whoever coordinates".into());
        }
        self.vote_home = Some(to);
        self.moving = (Some(to) != self.primary).then(|| Move {
            to,
            timeout_ms,
            by: command.by.clone(),
            began_at_ms: command.at_ms,
        });
        self.note(command, "move", to, format!("the vote moves to {name}"), "");
        Ok(Outcome::Done)
    }

    fn split(&mut self, command: &Command, group: u64, epoch: Epoch, evidence: &str) -> Applied {
        match &mut self.split {
            Some(split) if split.group == group && split.resolved_ms.is_none() => {
                split.epoch = split.epoch.max(epoch);
                return Ok(Outcome::Done);
            }
            _ => {}
        }
        self.split =
            Some(Split { group, epoch, evidence: evidence.to_owned(), since_ms: command.at_ms, resolved_ms: None });
        let text = format!("split-brain: group {group:016x} acts for this cluster too, in epoch {epoch}");
        self.note(command, "split_brain", SiteId(0), text, evidence);
        Ok(Outcome::Done)
    }

    fn member_name(&self, site: SiteId) -> Result<String, String> {
        let site = self.sites.get(&site).ok_or_else(|| format!("{} is not enrolled", self.name_of(site)))?;
        Ok(site.name.to_string())
    }

    fn note(&mut self, command: &Command, what: &str, site: SiteId, text: String, evidence: &str) {
        self.last_event += 1;
        self.events.push_back(Event {
            index: self.last_event,
            at_ms: command.at_ms,
            what: what.to_owned(),
            site,
            epoch: self.epoch,
            text: shortened(&text),
            evidence: shortened(evidence),
            by: shortened(&command.by),
        });
    }

    fn bound(&mut self) {
        while self.events.len() > caps::MAX_EVENTS {
            self.events.pop_front();
        }
        while self.changes.len() > caps::MAX_CHANGES {
            self.changes.pop_front();
        }
        while self.opened.len() > caps::MAX_OPENED_EPOCHS {
            self.opened.pop_first();
        }
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=caps::MAX_TEXT_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

/// The largest position in each stream within these seals. Each is causally closed, so their union is too.
pub fn cut_of<'a>(seals: impl IntoIterator<Item = &'a Vector>) -> Vector {
    seals.into_iter().fold(Vector::new(), |cut, durable| cut.max(durable))
}
