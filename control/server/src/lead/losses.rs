//! Processes that are gone, as the leader's connections show it.

use std::collections::BTreeSet;

use super::Lead;

impl Lead {
    /// Tells the decisions, once each, of processes that are gone: their connection broke, and nobody answers there any
    /// more. One that is back reports before it is dialled again.
    pub(super) async fn losses(&self) {
        let mut links = self.control.peers.changes();
        let mut gone = BTreeSet::new();
        loop {
            let state = self.state();
            for site in state.sites.values().filter(|site| site.id != self.control.id()) {
                let link = self.control.peers.link(site.name.as_str());
                let Some(broke_at) = link.broke_at.filter(|_| link.gone) else {
                    gone.remove(&site.id);
                    continue;
                };
                if gone.insert(site.id) {
                    let ago = u64::try_from(broke_at.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.coordinator().lost(site.id, self.control.boot_ms().saturating_sub(ago));
                    self.wake();
                }
            }
            if links.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
