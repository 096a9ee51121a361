//! The state of a member of the group, for people and programs.

use std::io::{self, Write};

use cfs_rpc::v1::{LogPlace, RaftState};
use serde::Serialize;

use crate::output::{Document, Table};

/// What a member keeps, without anything that entries say.
#[derive(Debug, Serialize)]
pub(super) struct Raft {
    /// As in status.
    group: u64,
    node: u64,
    /// Null: read from files.
    role: Option<String>,
    leader: Option<String>,
    term: u64,
    voted_for: u64,
    vote_committed: bool,
    last_log: Option<Place>,
    applied: Option<Place>,
    purged: Option<Place>,
    snapshot: Option<Place>,
    members: Vec<Member>,
    members_since: Option<Place>,
    members_change: bool,
    failed: Option<String>,
}

#[derive(Debug, Serialize)]
struct Place {
    term: u64,
    node: u64,
    index: u64,
}

#[derive(Debug, Serialize)]
struct Member {
    node: u64,
    site: String,
    control: String,
    votes: bool,
}

impl Raft {
    pub(super) fn of(state: &RaftState) -> Self {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let place = |place: &Option<LogPlace>| {
            place.map(|place| Place { term: place.term, node: place.node, index: place.index })
        };
        let members = state.members.iter().map(|member| Member {
            node: member.node,
            site: member.site.clone(),
            control: member.control.clone(),
            votes: member.votes,
        });
        Self {
            group: state.group,
            node: state.node,
            role: some(&state.role),
            leader: some(&state.leader),
            term: state.term,
            voted_for: state.voted_for,
            vote_committed: state.vote_committed,
            last_log: place(&state.last_log),
            applied: place(&state.applied),
            purged: place(&state.purged),
            snapshot: place(&state.snapshot),
            members: members.collect(),
            members_since: place(&state.members_since),
            members_change: state.members_change,
            failed: some(&state.failed),
        }
    }
}

impl Document for Raft {
    const SCHEMA: &'static str = "cfs.raft/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let place = |place: &Option<Place>| {
            place.as_ref().map_or_else(
                || "-".to_owned(),
                |place| format!("index {} of term {} (node {})", place.index, place.term, place.node),
            )
        };
        writeln!(out, "Group:    {:016x}, node {}", self.group, self.node)?;
        writeln!(out, "Role:     {}", self.role.as_deref().unwrap_or("not running"))?;
        writeln!(out, "Leader:   {}", self.leader.as_deref().unwrap_or("-"))?;
        let won = if self.vote_committed { ", elected" } else { "" };
        writeln!(out, "Term:     {}, vote for node {}{won}", self.term, self.voted_for)?;
        writeln!(out, "Last log: {}", place(&self.last_log))?;
        writeln!(out, "Applied:  {}", place(&self.applied))?;
        writeln!(out, "Snapshot: {}", place(&self.snapshot))?;
        writeln!(out, "Purged:   {}", place(&self.purged))?;
        let changing = if self.members_change { "; two sets of voters hold" } else { "" };
        writeln!(out, "Members:  since {}{changing}", place(&self.members_since))?;
        if let Some(why) = &self.failed {
            writeln!(out, "Failed:   {why}")?;
        }
        let mut table = Table::new(&[">NODE", "SITE", "VOTES", "CONTROL"]);
        for member in &self.members {
            let votes = if member.votes { "yes" } else { "no" };
            table.row([member.node.to_string(), member.site.clone(), votes.into(), member.control.clone()]);
        }
        table.write(out)
    }
}
