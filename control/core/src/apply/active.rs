//! Active-active: every data site appends in one epoch, and one of them coordinates.

use cfs_model::{Epoch, SiteId};

use super::{Applied, Outcome};
use crate::command::{Change, Command};
use crate::state::{Finished, State};

impl State {
    /// While every data site appends, the epoch ends when that is switched off, or for a newer generation.
    pub(super) fn fits_mode(&self, change: Change) -> Result<(), String> {
        let newer = self.epoch.generation() < self.generation;
        match (self.is_shared(), change) {
            (true, Change::Mode { shared: true, .. }) => Err("active-active is on already".into()),
            (false, Change::Mode { shared: false, .. }) => Err("active-active is off already".into()),
            (true, Change::Switchover { .. }) => {
                Err("active-active is on: every data site takes appends, and only coordination moves".into())
            }
            (true, Change::Failover { .. }) if !newer => {
                Err("active-active is on: the loss of a site ends no epoch".into())
            }
            _ => Ok(()),
        }
    }

    /// Another site coordinates; the epoch, its leases and its rules stay.
    pub(super) fn coordinate(
        &mut self,
        command: &Command,
        epoch: Epoch,
        site: SiteId,
        reason: &str,
        evidence: &str,
    ) -> Applied {
        if epoch != self.epoch || !self.is_shared() {
            return Err(format!("epoch {epoch} is over, or one site alone appends in it"));
        }
        if let Some(running) = &self.operation {
            return Err(format!("operation {} is under way", running.op));
        }
        let name = self.member_name(site)?;
        if !self.may_append(site) {
            return Err(format!("{name} takes no part in epoch {epoch}"));
        }
        if self.primary == Some(site) {
            return Err(format!("{name} coordinates already"));
        }
        if !self.rules.iter().all(|rule| rule.members.contains(&site)) {
            return Err(format!("{name} does not hold yet what epoch {epoch} began with"));
        }
        let from = self.primary.replace(site);
        self.vote_home = Some(site);
        self.last_op += 1;
        self.changes.push_back(Finished {
            op: self.last_op,
            kind: "coordination".into(),
            from,
            to: Some(site),
            before: epoch,
            after: epoch,
            outcome: "opened".into(),
            by: command.by.clone(),
            reason: reason.to_owned(),
            evidence: evidence.to_owned(),
            began_at_ms: command.at_ms,
            ended_at_ms: command.at_ms,
            phases: Vec::new(),
            counted: Vec::new(),
        });
        self.note(command, "coordinate", site, format!("{name} coordinates epoch {epoch}: {reason}"), evidence);
        Ok(Outcome::Done)
    }
}
