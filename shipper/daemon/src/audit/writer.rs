//! The thread that writes the trail. Each round records what waits with one fsync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cfs_audit::known::Known;
use cfs_audit::{Error, Event, Kind, Options, Severity, Trail};
use cfs_config::Config;

use super::derive::{self, Derived};
use super::{Audit, now, retention};
use crate::fatal::fatal;
use crate::node::Node;
use crate::settings::Settings;

/// Without news it looks after checkpoints and retention so often; without room it tries again so often.
const TICK: Duration = Duration::from_secs(1);
/// Retention is looked at so often.
const PRUNE_EVERY_MS: u64 = 60_000;
/// Events of one write.
const GROUP: usize = 1024;

/// Opens the trail of this site, or begins it; `None` when there is no room for that yet. Blocks.
///
/// # Errors
/// Those of the disk other than a lack of room.
pub(crate) fn open(config: &Config, settings: &Settings) -> anyhow::Result<Option<Trail>> {
    let (retention_s, retention_bytes) = retention(settings);
    let options = Options { site: config.site.name.to_string(), retention_s, retention_bytes };
    let dir = config.audit_dir();
    match Trail::open(dir, options, jiff::Timestamp::now()) {
        Ok(opened) => {
            for event in &opened.found {
                if event.severity == Severity::Error {
                    tracing::error!("{}", event.text);
                }
            }
            Ok(Some(opened.trail))
        }
        Err(Error::Full) => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("the audit trail in {} (paths.audit) does not open", dir.display()))
        }
    }
}

/// Runs for as long as the process lives. Blocks: give it a thread of its own.
pub(crate) async fn write(node: Arc<Node>) {
    let mut writer = Writer { node, derived: None, late: None, full: false, checked_ms: 0, pruned_ms: 0 };
    loop {
        writer.round();
        let waits = {
            let queue = writer.node.audit.queue();
            writer.full || queue.events.is_empty()
        };
        if waits {
            let node = writer.node.clone();
            let news = node.audit.news.notified();
            // Without room, news do not help.
            let full = writer.full;
            tokio::select! {
                () = news, if !full => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }
}

struct Writer {
    node: Arc<Node>,
    /// What was derived from the store, until everything that waited meanwhile is recorded.
    derived: Option<Derived>,
    /// Late entries that are in the trail; `None` before there was one.
    late: Option<Known>,
    /// The last write found no room.
    full: bool,
    checked_ms: u64,
    pruned_ms: u64,
}

impl Writer {
    fn round(&mut self) {
        let outcome = self.try_round();
        let full = matches!(outcome, Err(Error::Full));
        if full && !self.full {
            self.node.metrics.error("audit_full");
            tracing::error!("no space is left for the audit trail; what happens is recorded when there is some again");
        }
        if self.full && !full {
            tracing::info!("the audit trail has room again");
        }
        self.full = full;
        // Like the journal's: what the disk holds after a failed write is not known.
        if let Err(error @ (Error::Io(_) | Error::InUse(_))) = outcome {
            fatal("the audit trail cannot be written", &error);
        }
    }

    fn try_round(&mut self) -> Result<(), Error> {
        let node = self.node.clone();
        let audit = &node.audit;
        if audit.trail().is_none() {
            match open(&node.config, &node.settings) {
                Ok(Some(trail)) => *audit.trail() = Some(trail),
                Ok(None) => return Err(Error::Full),
                Err(error) => return Err(Error::Io(std::io::Error::other(format!("{error:#}")))),
            }
        }
        if std::mem::take(&mut audit.queue().behind) {
            match derive::from_store(&node) {
                Ok(derived) => self.derived = Some(derived),
                Err(error) => {
                    audit.queue().behind = true;
                    return Err(error);
                }
            }
        }
        self.record_waiting(audit)?;
        self.look_back(audit)?;
        self.look_after(audit)
    }

    /// Records what waits, in groups; what is not recorded waits on.
    fn record_waiting(&mut self, audit: &Audit) -> Result<(), Error> {
        loop {
            let (mut group, left): (VecDeque<Event>, u64) = {
                let mut queue = audit.queue();
                let count = queue.events.len().min(GROUP);
                (queue.events.drain(..count).collect(), queue.left)
            };
            let taken = group.len();
            if let Some(derived) = &self.derived {
                let mut number = left;
                group.retain(|event| {
                    number += 1;
                    derived.is_new(number, &event.event)
                });
            }
            // Whatever fails here ends the process.
            let mut group = VecDeque::from(self.fresh(audit, group.into())?);
            let dropped = audit.queue().dropped;
            if dropped > 0 {
                let text = format!("ERROR: {dropped} events were not recorded: there was no room for them");
                group.push_front(Event::new(Kind::Trail, Severity::Error, text).with("missing", dropped));
            }
            let recorded = self.append(audit, group.make_contiguous());
            if recorded.is_ok() {
                self.recorded(group.make_contiguous());
            }
            let mut queue = audit.queue();
            match recorded {
                Ok(()) => {
                    queue.dropped -= dropped;
                    queue.left += taken as u64;
                    queue.bytes = queue.events.iter().map(Event::weight).sum();
                    if self.derived.as_ref().is_some_and(|derived| derived.until <= queue.left) {
                        self.derived = None;
                    }
                }
                Err(error) => {
                    if dropped > 0 {
                        group.pop_front();
                    }
                    // Those that were known are not needed again.
                    queue.left += (taken - group.len()) as u64;
                    for event in group.into_iter().rev() {
                        queue.events.push_front(event);
                    }
                    return Err(error);
                }
            }
            if queue.events.is_empty() {
                return Ok(());
            }
        }
    }

    /// Looks for what came late before the epochs began that began since the last look, or before the start.
    fn look_back(&mut self, audit: &Audit) -> Result<(), Error> {
        loop {
            let Some(epoch) = audit.queue().began.first().copied() else { return Ok(()) };
            let node = self.node.clone();
            audit.epochs.before(&node, epoch, &mut |late| {
                let fresh = self.fresh(audit, late)?;
                self.append(audit, &fresh)?;
                self.recorded(&fresh);
                Ok(())
            })?;
            audit.queue().began.remove(&epoch);
        }
    }

    /// Without the late entries that are in the trail. Reads the trail when there is the first one.
    fn fresh(&mut self, audit: &Audit, mut events: Vec<Event>) -> Result<Vec<Event>, Error> {
        if !events.iter().any(|event| event.kind == Kind::Late) {
            return Ok(events);
        }
        let known = match &mut self.late {
            Some(known) => known,
            none => none.insert(Known::load_those(&audit.dir, "late-")?),
        };
        let mut here = Known::default();
        events.retain(|event| event.kind != Kind::Late || (!known.contains(&event.event) && here.insert(&event.event)));
        Ok(events)
    }

    /// These are in the trail.
    fn recorded(&mut self, events: &[Event]) {
        if let Some(known) = &mut self.late {
            for event in events.iter().filter(|event| event.kind == Kind::Late) {
                known.insert(&event.event);
            }
        }
    }

    fn append(&self, audit: &Audit, events: &[Event]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let mut trail = audit.trail();
        let Some(trail) = trail.as_mut() else { return Err(Error::Full) };
        trail.append(events, now(&self.node))?;
        trail.sync()?;
        audit.grew.bump();
        Ok(())
    }

    /// Checkpoints once a second while the trail grows, retention once a minute.
    fn look_after(&mut self, audit: &Audit) -> Result<(), Error> {
        let now_ms = self.node.boot_ms();
        if now_ms.saturating_sub(self.checked_ms) >= 1000 {
            self.checked_ms = now_ms;
            if let Some(trail) = audit.trail().as_mut() {
                trail.checkpoint(now(&self.node))?;
            }
        }
        // While a long check of the trail goes on, nothing is removed, and nothing waits for it.
        let free = audit.pruning.try_lock().is_ok();
        if free && now_ms.saturating_sub(self.pruned_ms) >= PRUNE_EVERY_MS {
            self.pruned_ms = now_ms;
            prune(&self.node)?;
        }
        Ok(())
    }
}

/// Removes what is beyond the retention that is in force. Blocks.
///
/// # Errors
/// Those of the trail; [`Error::Full`] when it is not open.
pub(super) fn prune(node: &Node) -> Result<cfs_audit::Pruned, Error> {
    let (seconds, bytes) = retention(&node.settings);
    let _here = node.audit.keep_segments();
    let mut trail = node.audit.trail();
    let Some(trail) = trail.as_mut() else { return Err(Error::Full) };
    trail.retain(seconds, bytes);
    let pruned = trail.prune(now(node))?;
    if pruned.segments > 0 {
        tracing::info!(
            records = pruned.records,
            bytes = pruned.bytes,
            "audit records beyond the retention were removed"
        );
        node.audit.grew.bump();
    }
    Ok(pruned)
}

impl Audit {
    /// Makes everything durable that waits, with a checkpoint, when the process ends. Blocks.
    pub(crate) fn close(&self, node: &Node) -> Result<(), Error> {
        // Lost writes are derived at the next start, which knows which of them are recorded.
        let events: Vec<Event> = self.queue().events.drain(..).filter(|event| event.event.is_empty()).collect();
        let mut trail = self.trail();
        let Some(trail) = trail.as_mut() else { return Err(Error::Full) };
        trail.append(&events, now(node))?;
        trail.checkpoint(now(node)).map(drop)
    }

    /// Removes what is beyond the retention now; with how much is left, in bytes. Blocks.
    pub(crate) fn prune(&self, node: &Node) -> Result<(cfs_audit::Pruned, u64), Error> {
        let pruned = prune(node)?;
        let files = std::fs::read_dir(&self.dir)?.filter_map(|entry| entry.ok()?.metadata().ok());
        Ok((pruned, files.filter(std::fs::Metadata::is_file).map(|meta| meta.len()).sum()))
    }
}
