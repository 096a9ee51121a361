//! A site's control process: the shell around [`Local`] and [`Coordinator`] that the server has, reduced to the order of
//! its steps.

use std::collections::BTreeMap;

use cfs_control_core::local::Local;
use cfs_control_core::{Action, Answer, Command, Coordinator, Kind, Lease, Order, Report, report};
use cfs_model::{Epoch, Level, SiteId};

use super::World;
use super::raft::What;
use super::wire::Message;

/// An order that this site carries out.
#[derive(Debug, Clone)]
pub struct Task {
    pub leader: SiteId,
    pub instance: u64,
    pub op: u64,
    pub order: Order,
}

/// An order that was given and not answered.
#[derive(Debug, Clone)]
pub struct Given {
    pub op: u64,
    pub site: SiteId,
    pub order: Order,
    pub until_ms: u64,
}

#[derive(Debug)]
pub struct Leading {
    pub coordinator: Coordinator,
    pub term: u64,
    /// Its own term's entry: nothing is answered before it is applied.
    pub ready_at: usize,
    pub proposed: Option<usize>,
    pub given: Vec<Given>,
    /// Why each site got no lease last; empty: it did.
    pub refusals: BTreeMap<SiteId, String>,
    pub granted: BTreeMap<SiteId, Epoch>,
    pub waiting_for: String,
}

#[derive(Debug)]
pub struct Control {
    pub instance: u64,
    pub sequence: u64,
    pub local: Local,
    pub leading: Option<Leading>,
    pub report_at_ms: u64,
    pub tick_at_ms: u64,
    pub tasks: Vec<Task>,
    pub paused: bool,
    /// What the last report said of what a leader waits for.
    pub said: (u64, Epoch, u64, bool, u64, Epoch, bool),
}

const ORDER_MS: u64 = 1000;
const CATCH_UP_MS: u64 = 3000;

impl World {
    /// A site leads from now on.
    pub fn lead(&mut self, site: SiteId, term: u64) {
        let boot_ms = self.boot_ns(site) / 1_000_000;
        let ready_at = self.nodes[&site].log.len();
        let node = self.nodes.get_mut(&site).unwrap();
        if let Some(control) = &mut node.control {
            control.leading = Some(Leading {
                coordinator: Coordinator::new(site, boot_ms),
                term,
                ready_at,
                proposed: None,
                given: Vec::new(),
                refusals: BTreeMap::new(),
                granted: BTreeMap::new(),
                waiting_for: String::new(),
            });
        }
    }

    pub fn step_down(&mut self, site: SiteId) {
        if let Some(control) = &mut self.nodes.get_mut(&site).unwrap().control {
            control.leading = None;
        }
    }

    /// Everything that a control process does in one round.
    pub fn run_control(&mut self, site: SiteId) {
        self.govern(site);
        self.carry_out(site);
        self.report(site);
        if self.leads(site) {
            self.run_leader(site);
        }
    }

    /// Tells the shipper, and gives the lease up if its process is gone.
    fn govern(&mut self, site: SiteId) {
        let (boot_ns, now_ms) = (self.boot_ns(site), self.now_ms);
        let node = self.nodes.get_mut(&site).unwrap();
        let Some(control) = &mut node.control else { return };
        if node.shipper.is_none() {
            if !node.witness {
                control.local.shipper_died(boot_ns);
            }
        } else {
            control.local.shipper_lives();
        }
        if control.local.resign_if_due(&node.state, boot_ns) {
            let epoch = node.state.epoch;
            let name = self.name(site);
            self.say(format!("{name} gives up the lease of epoch {epoch}: its shipper is dead"));
            return;
        }
        let directive = control.local.directive(&node.state);
        if let Some(shipper) = &mut node.shipper
            && node.session
            && !shipper.hung
            && !shipper.paused
        {
            shipper.take(&mut node.disk, &directive);
            shipper.stale = Some(shipper.report(&node.disk, boot_ns, now_ms));
        }
    }

    /// What the shipper said last, if there is a session with it.
    fn shipper_report(&self, site: SiteId) -> Option<report::Shipper> {
        let node = &self.nodes[&site];
        let shipper = node.shipper.as_ref().filter(|_| node.session)?;
        let mut said = shipper.stale.clone()?;
        if shipper.hung || shipper.paused {
            said.append_path_age_ms = self.now_ms.saturating_sub(shipper.hung_since_ms);
        }
        Some(said)
    }

    fn report(&mut self, site: SiteId) {
        let (boot_ns, shipper) = (self.boot_ns(site), self.shipper_report(site));
        let every_ms = self.nodes[&site].state.lease_ms / 5;
        let node = self.nodes.get_mut(&site).unwrap();
        let Some(member) = node.state.site(site).filter(|member| member.node == node.id_in_group && member.node != 0)
        else {
            return;
        };
        let member_node = member.node;
        let Some(control) = &mut node.control else { return };
        let of = |s: &report::Shipper| {
            (s.instance, s.floor, s.drained_op, s.accepting, s.confirmed_rule, Epoch(0), s.needs_incarnation)
        };
        let mut said = shipper.as_ref().map(of).unwrap_or_default();
        said.5 = control.local.resigned();
        if self.now_ms < control.report_at_ms && said == control.said {
            return;
        }
        control.said = said;
        control.report_at_ms = self.now_ms + every_ms;
        control.sequence += 1;
        let report = Report {
            site,
            node: member_node,
            instance: control.instance,
            sequence: control.sequence,
            shipper,
            resigned: control.local.resigned(),
            level: Level::THIS,
        };
        self.saw_report(&report);
        let leaders: Vec<SiteId> = self.nodes.keys().copied().filter(|id| self.leads(*id)).collect();
        for leader in leaders {
            self.send(site, leader, Message::Report { report: report.clone(), sent_ns: boot_ns });
        }
    }

    /// Looks whether what this site was ordered to do is done.
    fn carry_out(&mut self, site: SiteId) {
        let node = self.nodes.get_mut(&site).unwrap();
        let Some(control) = &mut node.control else { return };
        let tasks = std::mem::take(&mut control.tasks);
        let mut left = Vec::new();
        for task in tasks {
            let answer = self.done(site, &task);
            match answer {
                None => left.push(task),
                Some(answer) => {
                    let Task { leader, instance, op, order } = task;
                    self.say_order(site, op, &order, &answer);
                    self.send(site, leader, Message::Answer { instance, op, order, answer });
                }
            }
        }
        if let Some(control) = &mut self.nodes.get_mut(&site).unwrap().control {
            control.tasks.extend(left);
        }
    }

    fn done(&self, site: SiteId, task: &Task) -> Option<Answer> {
        let node = &self.nodes[&site];
        let Some(said) = self.shipper_report(site) else {
            return Some(Answer::Failed("its shipper is not reached".into()));
        };
        let done = || Answer::Done { floor: said.floor, durable: said.durable.clone() };
        match &task.order {
            Order::Seal { floor } => (said.floor >= *floor).then(done),
            Order::Drain => (said.drained_op == task.op).then(done),
            Order::CatchUp { floor, cut, hook } => {
                if said.floor < *floor || !said.applied.covers(cut) {
                    return None;
                }
                if *hook && let Some(veto) = &node.veto {
                    return Some(Answer::Vetoed(veto.clone()));
                }
                Some(done())
            }
        }
    }

    fn say_order(&mut self, site: SiteId, op: u64, order: &Order, answer: &Answer) {
        let name = self.name(site);
        let what = match answer {
            Answer::Done { floor, durable } if matches!(order, Order::Seal { .. }) => {
                format!("done, floor {floor}, holds {}", self.vector(durable))
            }
            Answer::Done { durable, .. } => format!("done, holds {}", self.vector(durable)),
            Answer::Failed(why) => format!("failed: {why}"),
            Answer::Vetoed(why) => format!("vetoed: {why}"),
        };
        self.say(format!("{name} on operation {op}: {} {what}", order.word()));
    }

    /// A message arrived at a control process.
    pub fn receive(&mut self, from: SiteId, to: SiteId, message: Message) {
        match message {
            Message::Report { report, sent_ns } => self.receive_report(from, to, report, sent_ns),
            Message::Reply { instance, sent_ns, lease } => {
                let node = self.nodes.get_mut(&to).unwrap();
                if let (Some(control), Lease::Granted { epoch, lease_ms, drain_op }) = (&mut node.control, lease)
                    && control.instance == instance
                {
                    control.local.granted(&node.state, epoch, lease_ms, drain_op, sent_ns);
                }
            }
            Message::Order { instance, op, order } => {
                let node = self.nodes.get_mut(&to).unwrap();
                let Some(control) = &mut node.control else { return };
                match &order {
                    Order::Seal { floor } => control.local.seal(*floor),
                    Order::Drain => control.local.drain(&node.state, op),
                    Order::CatchUp { floor, cut, .. } => {
                        control.local.seal(*floor);
                        control.local.fetch(cut.clone());
                    }
                }
                control.tasks.push(Task { leader: from, instance, op, order });
            }
            Message::Answer { instance, op, order, answer } => {
                let boot_ms = self.boot_ns(to) / 1_000_000;
                let node = self.nodes.get_mut(&to).unwrap();
                let Some(control) = node.control.as_mut().filter(|control| control.instance == instance) else {
                    return;
                };
                if let Some(leading) = &mut control.leading {
                    leading.given.retain(|given| !(given.op == op && given.site == from && given.order == order));
                    leading.coordinator.answered(&node.state, op, from, &order, answer, boot_ms);
                }
            }
            Message::Ack { .. } => {}
        }
    }

    /// The leader's answer to a report: after a round that starts now, and with everything up to it applied.
    fn receive_report(&mut self, from: SiteId, to: SiteId, report: Report, sent_ns: u64) {
        let quorum = self.has_quorum(to);
        let (boot_ms, name, from_name) = (self.boot_ns(to) / 1_000_000, self.name(to), self.name(from));
        let node = self.nodes.get_mut(&to).unwrap();
        let (applied, commit) = (node.applied, node.commit);
        let Some(leading) = node.control.as_mut().and_then(|control| control.leading.as_mut()) else { return };
        leading.coordinator.heard(&node.state, report.clone(), boot_ms);
        let silent = if !quorum {
            Some("it reaches no majority")
        } else if applied < leading.ready_at.max(commit) {
            Some("it has not applied everything")
        } else {
            None
        };
        let appends = node.state.may_append(from);
        let refusal = leading.refusals.entry(from).or_default();
        if let Some(why) = silent {
            if appends && *refusal != why {
                *refusal = why.to_owned();
                self.say(format!("{name} does not answer {from_name}: {why}"));
            }
            return;
        }
        let lease = leading.coordinator.answer(&node.state, &report, boot_ms);
        let mut line = None;
        match &lease {
            Lease::Granted { epoch, lease_ms, drain_op } => {
                if leading.granted.get(&from) != Some(epoch) || !refusal.is_empty() {
                    let drain = if *drain_op > 0 { " for draining" } else { "" };
                    line = Some(format!("{name} grants {from_name} epoch {epoch} for {lease_ms} ms{drain}"));
                }
                refusal.clear();
                leading.granted.insert(from, *epoch);
            }
            Lease::None(why) => {
                // Ages in it change with every report.
                let same = refusal.split(char::is_numeric).next() == why.split(char::is_numeric).next();
                if appends && !same {
                    line = Some(format!("{name} grants {from_name} nothing: {why}"));
                    refusal.clone_from(why);
                }
            }
        }
        let instance = report.instance;
        if let Some(line) = line {
            self.say(line);
        }
        self.send(to, from, Message::Reply { instance, sent_ns, lease });
    }

    fn run_leader(&mut self, site: SiteId) {
        let boot_ms = self.boot_ns(site) / 1_000_000;
        self.finish_proposal(site);
        self.expire_orders(site, boot_ms);
        let settled = self.nodes[&site].commit == self.nodes[&site].log.len();
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(&site).unwrap();
        let voters = node.voters.clone();
        let Some(control) = &mut node.control else { return };
        let Some(leading) = &mut control.leading else { return };
        if node.applied < leading.ready_at || now_ms < control.tick_at_ms {
            return;
        }
        control.tick_at_ms = now_ms + 20;
        let actions = leading.coordinator.tick(&node.state, settled.then_some(&voters), boot_ms);
        let waiting = leading.coordinator.waiting_for().to_owned();
        let news = !waiting.is_empty() && waiting != leading.waiting_for;
        leading.waiting_for.clone_from(&waiting);
        if news {
            self.say(format!("{} waits: {waiting}", self.name(site)));
        }
        for action in actions {
            self.act(site, action);
        }
        self.reconcile_voters(site);
    }

    fn act(&mut self, site: SiteId, action: Action) {
        match action {
            Action::Propose(kind) => {
                let by = self.name(site);
                let index = self.propose(site, kind, &by);
                if let Some(leading) = self.nodes.get_mut(&site).unwrap().control.as_mut().unwrap().leading.as_mut() {
                    leading.proposed = Some(index);
                }
                self.finish_proposal(site);
            }
            Action::Order { op, site: to, order } => {
                let (name, to_name) = (self.name(site), self.name(to));
                let what = match &order {
                    Order::Seal { floor } => format!("seal at {floor}"),
                    Order::Drain => "drain".to_owned(),
                    Order::CatchUp { cut, .. } => format!("catch up to {}", self.vector(cut)),
                };
                self.say(format!("{name} orders {to_name}: {what}"));
                let for_ms = if matches!(order, Order::CatchUp { .. }) { CATCH_UP_MS } else { ORDER_MS };
                let until_ms = self.boot_ns(site) / 1_000_000 + for_ms;
                let control = self.nodes.get_mut(&site).unwrap().control.as_mut().unwrap();
                let instance = control.instance;
                if let Some(leading) = &mut control.leading {
                    leading.given.push(Given { op, site: to, order: order.clone(), until_ms });
                }
                self.send(site, to, Message::Order { instance, op, order });
            }
        }
    }

    /// Appends a command to a leader's log and tries to commit it. Returns its index.
    pub fn propose(&mut self, leader: SiteId, kind: Kind, by: &str) -> usize {
        let node = &self.nodes[&leader];
        let at_ms = (1_000_000_000_i64 + self.now_ms as i64 + node.wall_offset_ms).max(0) as u64;
        let what = super::world::told(&node.state, &kind);
        let index = self.append(leader, What::Command(Command { at_ms, by: by.to_owned(), kind }));
        self.replicate(leader);
        if self.nodes[&leader].commit < index && !what.is_empty() {
            self.say(format!("{} proposes, not committed yet: {what}", self.name(leader)));
        }
        index
    }

    fn finish_proposal(&mut self, site: SiteId) {
        let node = self.nodes.get_mut(&site).unwrap();
        let applied = node.applied;
        if let Some(leading) = node.control.as_mut().and_then(|control| control.leading.as_mut())
            && leading.proposed.is_some_and(|index| applied >= index)
        {
            leading.proposed = None;
            leading.coordinator.proposed();
        }
    }

    fn expire_orders(&mut self, site: SiteId, boot_ms: u64) {
        let node = self.nodes.get_mut(&site).unwrap();
        let Some(leading) = node.control.as_mut().and_then(|control| control.leading.as_mut()) else { return };
        let (over, left) = std::mem::take(&mut leading.given).into_iter().partition(|given| boot_ms >= given.until_ms);
        leading.given = left;
        let over: Vec<Given> = over;
        for Given { op, site: to, order, .. } in over {
            let answer = Answer::Failed("no answer".into());
            leading.coordinator.answered(&node.state, op, to, &order, answer, boot_ms);
        }
    }

    /// Brings the voters to what the state wants, one site at a time; a leader that is to go hands over first.
    fn reconcile_voters(&mut self, leader: SiteId) {
        if !self.leads(leader) {
            return;
        }
        let node = &self.nodes[&leader];
        if node.commit < node.log.len() || node.applied < node.commit {
            return;
        }
        let (wanted, voters) = (node.state.wanted_voters(), node.voters.clone());
        if let Some(new) = wanted.difference(&voters).copied().find(|id| self.talks(leader, *id) && !self.wiped(*id)) {
            self.append(leader, What::Voters(voters.iter().copied().chain([new]).collect()));
            self.replicate(leader);
        } else if wanted.is_subset(&voters) && wanted != voters {
            let others: Vec<SiteId> = voters.difference(&wanted).copied().filter(|id| *id != leader).collect();
            if let Some(old) = others.first() {
                self.append(leader, What::Voters(voters.iter().copied().filter(|id| id != old).collect()));
                self.replicate(leader);
            } else if let Some(heir) = wanted.iter().copied().find(|id| self.talks(leader, *id)) {
                let _ = self.elect(heir);
            }
        }
    }
}
