//! The sites' clocks, as their reports show them.

use cfs_control_core::skew::{Clocks, Skew};
use cfs_model::SiteId;
use cfs_rpc::v1;

use super::{Lead, lock};

impl Lead {
    /// How far a site's clock is ahead; 0 while that is not known.
    pub(crate) fn skew_ms(&self, site: SiteId) -> i64 {
        lock(&self.skews).get(&site).and_then(|skew| skew.ms(self.control.boot_ms())).unwrap_or_default()
    }

    /// Reads the clocks of a report that came just now.
    pub(super) fn measure_skew(&self, site: SiteId, message: &v1::SiteReport) {
        let clocks = Clocks { instance: message.instance, boot_ms: message.boot_ms, wall_ms: message.wall_ms };
        let (now_ms, wall_ms) = (self.control.boot_ms(), i64::try_from(self.control.wall_ms()).unwrap_or(i64::MAX));
        let mut skews = lock(&self.skews);
        skews
            .entry(site)
            .and_modify(|skew| skew.heard(clocks, now_ms, wall_ms))
            .or_insert_with(|| Skew::new(clocks, now_ms));
    }
}
