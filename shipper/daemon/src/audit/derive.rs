//! Finding in the store what the trail should have and has not: after a crash between the store's commit and the trail's,
//! and after the queue had no room. Each lost write has one name, so it is recorded exactly once.

use cfs_audit::known::{self, Known};
use cfs_audit::{Error, Event};
use cfs_store::lost::LostKey;

use super::{events, now};
use crate::node::Node;

/// Lost writes read from the store at a time.
const PAGE: usize = 512;

/// What was found.
pub(super) struct Derived {
    /// Everything that is in the trail.
    known: Known,
    /// Events that were taken into the queue before it was finished, by number: they may be in the trail already.
    pub(super) until: u64,
}

impl Derived {
    /// Whether the event that was the `number`th in the queue is not in the trail.
    pub(super) fn is_new(&self, number: u64, event: &str) -> bool {
        number > self.until || event.is_empty() || !self.known.contains(event)
    }
}

/// Records every lost write of the store that the trail does not have. Blocks; appends to the journal and applying go on.
/// Reads the trail once if the store has any lost write; takes 16 bytes and a little for each record of one.
pub(super) fn from_store(node: &Node) -> Result<Derived, Error> {
    let audit = &node.audit;
    let read = |after: Option<&LostKey>| {
        let page = node.store.lost(after, PAGE);
        page.map_err(|error| Error::Io(std::io::Error::other(error)))
    };
    let mut page = read(None)?;
    let mut known = if page.is_empty() { Known::default() } else { Known::load(&audit.dir)? };
    let mut live = Known::default();
    let mut added = 0;
    while let Some(last) = page.last().map(|lost| lost.key.clone()) {
        let mut missing: Vec<Event> = Vec::new();
        for lost in &page {
            let mut want = vec![events::lost(node, lost)];
            if lost.superseded {
                want.push(events::superseded(node, lost));
            }
            for event in want {
                live.insert(&event.event);
                if known.insert(&event.event) {
                    missing.push(event);
                }
            }
        }
        added += missing.len();
        if !missing.is_empty() {
            let mut trail = audit.trail();
            let Some(trail) = trail.as_mut() else { return Err(Error::Full) };
            // On a lack of room all of it is done again.
            trail.append(&missing, now(node))?;
            trail.sync()?;
            audit.grew.bump();
        }
        page = read(Some(&last))?;
    }
    if added > 0 {
        tracing::info!(added, "lost writes that the audit trail did not have were recorded from the store");
    }
    known::compact(&audit.dir, &live).map_err(Error::from)?;
    let until = audit.queue().taken;
    Ok(Derived { known, until })
}
