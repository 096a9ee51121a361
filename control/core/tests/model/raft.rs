//! The replicated log reduced to terms and majorities: what is on a majority in the leader's term is committed, and a
//! leader is elected by a majority whose logs are not newer. Replication takes no time; links must work both ways.

use std::collections::BTreeSet;
use std::rc::Rc;

use cfs_control_core::{Command, Outcome};
use cfs_model::SiteId;

use super::World;

#[derive(Debug)]
pub enum What {
    Noop,
    Voters(BTreeSet<SiteId>),
    Command(Command),
}

#[derive(Debug)]
pub struct Entry {
    pub term: u64,
    pub at_ms: u64,
    pub what: What,
}

pub type Log = Vec<Rc<Entry>>;

/// Whether a log is the beginning of the leader's.
fn begins(log: &Log, leaders: &Log) -> bool {
    log.len() <= leaders.len() && log.last().is_none_or(|entry| Rc::ptr_eq(entry, &leaders[log.len() - 1]))
}

impl World {
    /// Who votes, by this site's own log.
    pub fn voters(&self, site: SiteId) -> BTreeSet<SiteId> {
        let log = &self.nodes[&site].log;
        let last = log.iter().rev().find_map(|entry| match &entry.what {
            What::Voters(voters) => Some(voters.clone()),
            _ => None,
        });
        last.unwrap_or_default()
    }

    fn set_log(&mut self, site: SiteId, log: Log) {
        self.nodes.get_mut(&site).unwrap().log = log;
        let voters = self.voters(site);
        self.nodes.get_mut(&site).unwrap().voters = voters;
    }

    /// Whether a majority of the voters can be asked, and none of them knows a newer term.
    pub fn has_quorum(&self, leader: SiteId) -> bool {
        let node = &self.nodes[&leader];
        let reached =
            node.voters.iter().filter(|voter| self.talks(leader, **voter) && self.nodes[voter].term <= node.term);
        reached.count() * 2 > node.voters.len()
    }

    /// Tries to make a site leader; says why not.
    pub fn elect(&mut self, site: SiteId) -> Result<(), String> {
        if !self.lives(site) {
            return Err("it does not run".into());
        }
        let newest = |log: &Log| (log.last().map_or(0, |entry| entry.term), log.len());
        let mine = newest(&self.nodes[&site].log);
        let voters = self.nodes[&site].voters.clone();
        if !voters.contains(&site) {
            return Err("it has no vote".into());
        }
        let term = self.nodes.values().map(|node| node.term).max().unwrap_or(0) + 1;
        let votes: Vec<SiteId> = voters
            .iter()
            .copied()
            .filter(|voter| self.talks(site, *voter) && newest(&self.nodes[voter].log) <= mine)
            .collect();
        if votes.len() * 2 <= voters.len() {
            return Err(format!("{} of {} votes", votes.len(), voters.len()));
        }
        for voter in votes {
            self.nodes.get_mut(&voter).unwrap().term = term;
            if self.leads(voter) {
                self.step_down(voter);
            }
        }
        self.nodes.get_mut(&site).unwrap().term = term;
        self.append(site, What::Noop);
        self.lead(site, term);
        self.say(format!("{} leads in term {term}", self.name(site)));
        self.replicate(site);
        Ok(())
    }

    /// A site that has not heard a leader for long stands, once a majority has not heard one either.
    pub fn elect_if_silent(&mut self, site: SiteId, after_ms: u64) {
        let silent = |world: &Self, id: &SiteId| {
            !world.leads(*id) && world.now_ms.saturating_sub(world.nodes[id].heard_leader_ms) > after_ms
        };
        let voters = self.nodes[&site].voters.clone();
        let agree = voters.iter().filter(|id| self.talks(site, **id) && silent(self, id)).count();
        if self.lives(site) && voters.contains(&site) && agree * 2 > voters.len() {
            let _ = self.elect(site);
        }
    }

    /// Appends to the leader's log. Returns the index.
    pub fn append(&mut self, leader: SiteId, what: What) -> usize {
        let at_ms = self.now_ms;
        let node = self.nodes.get_mut(&leader).unwrap();
        let term = node.term;
        if let What::Voters(voters) = &what {
            node.voters.clone_from(voters);
        }
        node.log.push(Rc::new(Entry { term, at_ms, what }));
        node.log.len()
    }

    /// One round from the leader to everybody it reaches.
    pub fn replicate(&mut self, leader: SiteId) {
        let (term, log) = (self.nodes[&leader].term, self.nodes[&leader].log.clone());
        let everybody: Vec<SiteId> = self.nodes.keys().copied().collect();
        let member = |world: &Self, id: &SiteId| {
            let node = &world.nodes[&leader];
            node.voters.contains(id) || node.state.site(*id).is_some_and(|site| site.node != 0)
        };
        let reached: Vec<SiteId> = everybody
            .into_iter()
            .filter(|id| member(self, id) && self.talks(leader, *id) && !self.wiped(*id))
            .collect();
        if reached.iter().any(|id| self.nodes[id].term > term) {
            self.say(format!("{} finds a newer term and steps down", self.name(leader)));
            self.step_down(leader);
            return;
        }
        // Entries take their time, heartbeats and the rounds before an answer do not.
        let since_ms = self.now_ms.saturating_sub(self.log_delay_ms);
        let arrived = log.iter().rposition(|entry| entry.at_ms <= since_ms).map_or(0, |at| at + 1);
        for id in &reached {
            if self.nodes[id].term < term {
                self.nodes.get_mut(id).unwrap().term = term;
                if self.leads(*id) {
                    self.step_down(*id);
                }
            }
            let theirs = &self.nodes[id].log;
            if *id != leader && (!begins(theirs, &log) || theirs.len() < arrived) {
                self.set_log(*id, log[..arrived].to_vec());
            }
            self.nodes.get_mut(id).unwrap().heard_leader_ms = self.now_ms;
        }
        let node = &self.nodes[&leader];
        let mut lengths: Vec<usize> = node
            .voters
            .iter()
            .map(|voter| if reached.contains(voter) { self.nodes[voter].log.len() } else { 0 })
            .collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let length = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
        if length > 0 && log[length - 1].term == term {
            let node = self.nodes.get_mut(&leader).unwrap();
            node.commit = node.commit.max(length);
        }
        let commit = self.nodes[&leader].commit;
        for id in reached {
            let node = self.nodes.get_mut(&id).unwrap();
            node.commit = node.commit.max(commit.min(node.log.len()));
            self.apply_committed(id);
        }
    }

    /// Applies what is committed and tells what became of it, the first time.
    pub fn apply_committed(&mut self, site: SiteId) {
        loop {
            let node = self.nodes.get_mut(&site).unwrap();
            if node.apply_held || node.applied >= node.commit {
                return;
            }
            let entry = node.log[node.applied].clone();
            node.applied += 1;
            let index = node.applied;
            let first = self.first_time(site, index, &entry);
            let What::Command(command) = &entry.what else {
                if let What::Voters(voters) = &entry.what
                    && first
                {
                    let names: Vec<String> = voters.iter().map(|id| self.name(*id)).collect();
                    self.say(format!("committed: voters {}", names.join(", ")));
                }
                continue;
            };
            let outcome = self.nodes.get_mut(&site).unwrap().state.apply(command);
            if first {
                self.committed(site, command, &outcome);
            }
        }
    }

    fn first_time(&mut self, site: SiteId, index: usize, entry: &Rc<Entry>) -> bool {
        let group = self.nodes[&site].state.group;
        let history = self.history.entry(group).or_default();
        if let Some(known) = history.get(index - 1) {
            assert!(
                Rc::ptr_eq(known, entry),
                "the model's Raft is broken: two committed entries at {index}: {known:?} and {entry:?}"
            );
            return false;
        }
        history.push(entry.clone());
        true
    }

    fn committed(&mut self, site: SiteId, command: &Command, outcome: &Outcome) {
        let state = self.nodes[&site].state.clone();
        self.saw_commit(&state, command, outcome);
        let what = super::world::told(&state, &command.kind);
        match outcome {
            Outcome::Refused(why) => self.say(format!("refused: {what}: {why}")),
            _ if what.is_empty() => {}
            _ => self.say(format!("committed: {what}")),
        }
    }
}
