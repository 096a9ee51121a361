//! What every member knows, and so what the group may do.

use cfs_model::{Level, SiteId};

use super::{Applied, Outcome};
use crate::command::Command;
use crate::state::{NodeId, State};

impl State {
    /// Members are exactly those that were asked: one that came since may know less.
    pub(super) fn raise(&mut self, command: &Command, level: Level, nodes: &[NodeId]) -> Applied {
        if level <= self.level {
            return Err(format!("the cluster works at level {} already", self.level));
        }
        if !self.sites.values().map(|site| site.node).eq(nodes.iter().copied()) {
            return Err("the members changed meanwhile".into());
        }
        let text = format!("every site knows level {level}: the cluster leaves level {}", self.level);
        self.level = level;
        self.note(command, "level", SiteId(0), text, "");
        Ok(Outcome::Done)
    }
}
