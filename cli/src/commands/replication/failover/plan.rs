//! What a change of primary would do, what is at risk and what is in the way.

use std::fmt::Write as _;
use std::io::{self, Write};

use cfs_model::Epoch;
use cfs_rpc::v1::{Blocker, FailoverPlan};
use serde::Serialize;

use crate::commands::replication::ask::Answer;
use crate::commands::replication::gather::NEVER;
use crate::commands::replication::refusal::Refusal;
use crate::output::{Document, good_or_bad};

/// A plan of the server's.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    from: String,
    to: String,
    kind: String,
    pub(super) already: bool,
    /// Whether it would be refused, with the flags given.
    blocked: bool,
    pub(super) epoch_before: u64,
    epoch_after: u64,
    steps: Vec<String>,
    /// Null: not known, or not all of them.
    entries_at_risk: Option<u64>,
    bytes_at_risk: Option<u64>,
    /// What is known of them when the old primary may have taken more; null: what is at risk is known exactly, or not at all.
    at_least: Option<AtLeast>,
    /// Of these the acknowledged ones; null: not known.
    acknowledged_at_risk: Option<u64>,
    /// Registers whose values would lose the merge to the other side of a split; null: not known.
    values_at_risk: Option<u64>,
    /// Of these the first 20.
    losing: Vec<RegisterView>,
    /// Null: not known.
    entries_to_apply: Option<u64>,
    /// Null: not known.
    predicted_gap_ms: Option<u64>,
    #[serde(skip)]
    apply_not_known: String,
    #[serde(skip)]
    gap_not_known: String,
    #[serde(skip)]
    values_not_known: String,
    blockers: Vec<BlockerView>,
    warnings: Vec<String>,
    pub(super) answered_by: String,
    pub(super) unreachable: Vec<String>,
}

/// What the old primary was known to have alone, when it was last heard.
#[derive(Debug, Serialize)]
struct AtLeast {
    entries: u64,
    /// At most; null: not known.
    bytes: Option<u64>,
    /// So long ago; null: not known.
    age_ms: Option<u64>,
}

/// A register that both sides wrote.
#[derive(Debug, Serialize)]
struct RegisterView {
    /// Empty: no path leads there.
    path: String,
    inode: u64,
    register: String,
}

impl RegisterView {
    fn text(&self) -> String {
        if self.path.is_empty() {
            format!("inode {}: {}", self.inode, self.register)
        } else {
            format!("{}: {}", self.path, self.register)
        }
    }
}

#[derive(Debug, Serialize)]
struct BlockerView {
    code: String,
    why: String,
    next: String,
    forceable: bool,
    overridden: bool,
}

impl BlockerView {
    fn of(blocker: Blocker, force: bool) -> Self {
        let overridden = blocker.forceable && force;
        Self { code: blocker.code, why: blocker.why, next: blocker.next, forceable: blocker.forceable, overridden }
    }

    fn text(&self) -> String {
        let how = match (self.overridden, self.forceable) {
            (true, _) => " (overridden by --force)",
            (_, true) => " (--force overrides it)",
            _ => "",
        };
        let next = if self.next.is_empty() { String::new() } else { format!("\n    next: {}", self.next) };
        format!("[{}] {}{how}{next}", self.code, self.why)
    }
}

impl Plan {
    pub(super) fn of(answer: Answer<FailoverPlan>, force: bool) -> Self {
        let plan = answer.body;
        let blockers: Vec<BlockerView> = plan.blockers.into_iter().map(|b| BlockerView::of(b, force)).collect();
        let exact = plan.risk_known && !plan.risk_at_least;
        let bytes = plan.bytes_known.then_some(plan.bytes_at_risk);
        let none = plan.acknowledged_is_safe || (exact && plan.entries_at_risk == 0);
        Self {
            blocked: !plan.already && blockers.iter().any(|blocker| !blocker.overridden),
            from: plan.from,
            to: plan.to,
            kind: plan.kind,
            already: plan.already,
            epoch_before: plan.epoch_before,
            epoch_after: plan.epoch_after,
            steps: plan.steps,
            entries_at_risk: exact.then_some(plan.entries_at_risk),
            bytes_at_risk: bytes.filter(|_| exact),
            at_least: (plan.risk_known && plan.risk_at_least).then(|| AtLeast {
                entries: plan.entries_at_risk,
                bytes,
                age_ms: (plan.risk_age_ms != NEVER).then_some(plan.risk_age_ms),
            }),
            acknowledged_at_risk: none.then_some(0),
            values_at_risk: plan.values_not_known.is_empty().then_some(plan.values_at_risk),
            losing: plan
                .losing
                .into_iter()
                .map(|r| RegisterView { path: r.path, inode: r.inode, register: r.register })
                .collect(),
            entries_to_apply: plan.apply_not_known.is_empty().then_some(plan.entries_to_apply),
            apply_not_known: plan.apply_not_known,
            predicted_gap_ms: plan.gap_not_known.is_empty().then_some(plan.predicted_gap_ms),
            gap_not_known: plan.gap_not_known,
            values_not_known: plan.values_not_known,
            blockers,
            warnings: plan.warnings,
            answered_by: answer.by,
            unreachable: answer.unreachable,
        }
    }

    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Why it cannot go on; `None` when it can.
    pub(super) fn refusal(&self, command: &str) -> Option<Refusal> {
        let standing: Vec<&BlockerView> = self.blockers.iter().filter(|blocker| !blocker.overridden).collect();
        let first = standing.first().filter(|_| self.blocked)?;
        let whys: Vec<&str> = standing.iter().map(|blocker| blocker.why.as_str()).collect();
        let own_next = if first.next.is_empty() { format!("{command} --dry-run") } else { first.next.clone() };
        let forceable = standing.iter().all(|blocker| blocker.forceable);
        let next = if forceable { format!("{own_next}; --force overrides it") } else { own_next };
        Some(Refusal::new(&first.code, format!("{} was not made primary", self.to), whys.join("; "), next))
    }

    fn risk_text(&self) -> String {
        let text = match (&self.at_least, self.entries_at_risk) {
            (Some(known), _) => self.at_least_text(known),
            (None, Some(0)) => return "0 entries, 0 bytes".to_owned(),
            (None, Some(entries)) => format!("{entries} entries{}", size_text(entries, self.bytes_at_risk)),
            (None, None) => "not known".to_owned(),
        };
        match self.acknowledged_at_risk {
            Some(_) => format!("{text}; none that was acknowledged: a site that is heard had to hold it first"),
            None => text,
        }
    }

    fn at_least_text(&self, known: &AtLeast) -> String {
        let from = if self.from.is_empty() { "the old primary" } else { &self.from };
        let ago = known.age_ms.map_or_else(String::new, |ms| format!(", {}.{} s ago", ms / 1000, ms % 1000 / 100));
        let size = size_text(known.entries, known.bytes);
        format!(
            "at least {} entries{size}, by the last word of {from}{ago}; what it took since is not known",
            known.entries
        )
    }

    fn gap_text(&self) -> String {
        self.predicted_gap_ms.map_or_else(|| format!("not known: {}", self.gap_not_known), |ms| format!("{ms}ms"))
    }

    fn apply_text(&self) -> String {
        let not_known = || format!("not known: {}", self.apply_not_known);
        self.entries_to_apply.map_or_else(not_known, |entries| entries.to_string())
    }

    /// What would lose the merge, one line each; none if nothing would.
    fn losing_text(&self) -> Vec<String> {
        let again = format!("--prefer {} writes the values of {} again", self.to, self.to);
        match self.values_at_risk {
            Some(0) => Vec::new(),
            None => vec![format!("Registers that would lose the merge: not known: {}; {again}", self.values_not_known)],
            Some(count) => {
                let mut lines = vec![format!("Registers that would lose the merge: {count}; {again}")];
                lines.extend(self.losing.iter().map(|register| format!("  {}", register.text())));
                let more = count.saturating_sub(self.losing.len() as u64);
                lines.extend((more > 0 && !self.losing.is_empty()).then(|| format!("  and {more} more")));
                lines
            }
        }
    }

    /// What an operator is shown before being asked.
    pub(super) fn before_and_after(&self) -> String {
        let from = if self.from.is_empty() { "nobody" } else { &self.from };
        let (role_of_old, role_before) = match self.kind.as_str() {
            "switchover" => ("REPLICA", "REPLICA"),
            "coordination" => ("ACTIVE", "ACTIVE"),
            _ => ("REPLICA, fenced until it comes back", "REPLICA"),
        };
        let mut text = format!("{}\n", self.headline());
        let mut line = |content: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "  {content}");
        };
        line(format_args!("before: primary {from}, epoch {}", Epoch(self.epoch_before)));
        match self.kind.as_str() {
            // No epoch opens by this.
            "seal" => {
                line(format_args!("after:  {} alone takes appends, once it is primary there", self.to));
                line(format_args!("{}: sealed", self.answered_by));
            }
            "none" => {
                line(format_args!("after:  primary {}, epoch {}", self.to, Epoch(self.epoch_after)));
                line(format_args!("{}: PRIMARY, goes on in this epoch", self.to));
            }
            _ => {
                line(format_args!("after:  primary {}, epoch {}", self.to, Epoch(self.epoch_after)));
                if !self.from.is_empty() && self.from != self.to {
                    line(format_args!("{}: PRIMARY -> {role_of_old}", self.from));
                }
                if self.from == self.to {
                    line(format_args!("{}: PRIMARY, in a new epoch", self.to));
                } else {
                    line(format_args!("{}: {role_before} -> PRIMARY", self.to));
                }
            }
        }
        line(format_args!("at risk: {}", self.risk_text()));
        line(format_args!("predicted write gap: {}", self.gap_text()));
        for losing in self.losing_text() {
            line(format_args!("{losing}"));
        }
        for blocker in &self.blockers {
            line(format_args!("overridden by --force: [{}] {}", blocker.code, blocker.why));
        }
        for warning in &self.warnings {
            line(format_args!("warning: {warning}"));
        }
        text
    }

    fn headline(&self) -> String {
        let from = if self.from.is_empty() { "nobody" } else { &self.from };
        if self.kind == "seal" {
            return format!("Seal of {}, for {}", self.answered_by, self.to);
        }
        if self.kind == "none" {
            return format!("No change of primary: {} is and remains it", self.to);
        }
        format!("Change of primary ({}): {from} -> {}", self.kind, self.to)
    }
}

fn size_text(entries: u64, bytes: Option<u64>) -> String {
    match bytes {
        _ if entries == 0 => String::new(),
        Some(bytes) => format!(", at most {bytes} bytes"),
        None => ", of a size that is not known".to_owned(),
    }
}

impl Document for Plan {
    const SCHEMA: &'static str = "cfs.failover-plan/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.already {
            writeln!(out, "{} is primary already: nothing to do", self.to)?;
            return writeln!(out, "Answered by: {}", self.answered_by);
        }
        writeln!(out, "{}", self.headline())?;
        match self.epoch_before == self.epoch_after {
            true => writeln!(out, "Epoch: {}, and no other opens by this", Epoch(self.epoch_before))?,
            false => writeln!(out, "Epoch: {} -> {}", Epoch(self.epoch_before), Epoch(self.epoch_after))?,
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(out, "Step {}: {step}", number + 1)?;
        }
        writeln!(out, "Entries to apply first: {}", self.apply_text())?;
        writeln!(out, "At risk: {}", self.risk_text())?;
        for line in self.losing_text() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "Predicted write gap: {}", self.gap_text())?;
        for warning in &self.warnings {
            writeln!(out, "Warning: {warning}")?;
        }
        for blocker in &self.blockers {
            writeln!(out, "Blocker: {}", blocker.text())?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}", self.answered_by)?;
        let verdict = if self.blocked { "BLOCKED; nothing was changed" } else { "possible; nothing was changed" };
        writeln!(out, "Dry run: {}", good_or_bad(verdict, !self.blocked))
    }
}
