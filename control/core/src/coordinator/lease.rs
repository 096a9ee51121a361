//! Reports, leases, and when none can be in force any more.

use cfs_model::SiteId;

use super::{Coordinator, Granted, Lease, Resigned, SILENT_EXTRA_MS, Seen};
use crate::report::{Report, Shipper};
use crate::state::State;

impl Coordinator {
    /// Whether a site said last that it takes part in nothing.
    pub(crate) fn is_fenced(&self, site: SiteId) -> bool {
        self.shipper_of(site).is_some_and(|shipper| shipper.fenced)
    }

    /// What a site's shipper said of itself, in the site's last report; `None`: nothing.
    pub fn shipper_of(&self, site: SiteId) -> Option<&Shipper> {
        self.sites.get(&site)?.report.shipper.as_ref()
    }

    /// Takes note of a report. Call it when one arrives, before the round that precedes its answer.
    pub fn heard(&mut self, state: &State, report: Report, now_ms: u64) {
        let member = state.site(report.site).is_some_and(|site| site.node != 0 && site.node == report.node);
        if !member {
            return;
        }
        let lease_over_at_ms = self.lease_over_at_ms(state);
        let seen = self.sites.entry(report.site).or_default();
        if seen.report.node != report.node {
            // Enrolled anew: what it held before says nothing of it now.
            *seen = Seen::default();
        }
        let same = seen.report.instance == report.instance;
        if same && report.sequence <= seen.report.sequence {
            return;
        }
        // Said by a process before the one that was granted a lease since, it proves nothing and came late.
        let holder = self.granted.get(&report.site).copied().filter(|granted| granted.epoch == state.epoch);
        let timely = holder.is_none_or(|holder| holder.instance == report.instance) || now_ms >= lease_over_at_ms;
        if timely && report.resigned > self.resigned.get(&report.site).copied().unwrap_or_default().epoch {
            let resigned = Resigned { epoch: report.resigned, instance: report.instance };
            self.resigned.insert(report.site, resigned);
        }
        if let Some(shipper) = &report.shipper {
            // A deadline of another epoch may lie behind all of this one's.
            if let Some(granted) = self.granted.get_mut(&report.site)
                && granted.epoch == state.epoch
                && shipper.epoch == state.epoch
            {
                if seen.report.shipper.as_ref().is_none_or(|before| before.instance != shipper.instance) {
                    // Its machine may have been booted: its clock may have begun anew.
                    granted.echo_ns = 0;
                }
                if shipper.lease_deadline_ns > granted.echo_ns {
                    granted.echo_ns = shipper.lease_deadline_ns;
                    granted.unanswered_since_ms = None;
                }
            }
            if shipper.durable.covers(&seen.furthest) {
                seen.furthest = shipper.durable.clone();
            }
            seen.highest_floor = seen.highest_floor.max(shipper.floor);
        }
        seen.report = report;
        seen.at_ms = now_ms;
        seen.gone = false;
    }

    /// The answer to a report, once the round that started after its arrival is complete and everything up to it is
    /// applied in `state`.
    pub fn answer(&mut self, state: &State, report: &Report, now_ms: u64) -> Lease {
        match self.may_grant(state, report, now_ms) {
            Err(why) => Lease::None(why),
            Ok(drain_op) => {
                let epoch = state.epoch;
                let instance = report.instance;
                let fresh = Granted { epoch, instance, last_ms: now_ms, echo_ns: 0, unanswered_since_ms: None };
                let granted = self.granted.entry(report.site).or_insert(fresh);
                if granted.epoch != epoch {
                    *granted = fresh;
                }
                (granted.last_ms, granted.instance) = (now_ms, instance);
                granted.unanswered_since_ms.get_or_insert(now_ms);
                Lease::Granted { epoch, lease_ms: state.lease_ms, drain_op }
            }
        }
    }

    fn may_grant(&self, state: &State, report: &Report, now_ms: u64) -> Result<u64, String> {
        if !state.may_append(report.site) {
            return Err("it is not primary".into());
        }
        if state.site(report.site).is_none_or(|site| site.node != report.node) {
            return Err("it reports under a node id that is not its own any more".into());
        }
        let resigned = self.resigned.get(&report.site).copied().unwrap_or_default().epoch.max(report.resigned);
        if resigned >= state.epoch {
            return Err(format!("the lease of epoch {} was given up", state.epoch));
        }
        let drain_op = match &state.operation {
            None => 0,
            Some(running) if running.change.is_failover() => {
                return Err(format!("failover {} is under way", running.op));
            }
            Some(running) => running.op,
        };
        let Some(shipper) = &report.shipper else { return Err("its shipper is not reached".into()) };
        if shipper.append_path_age_ms > Self::health_limit_ms(state) {
            return Err(format!("its append path has not answered for {} ms", shipper.append_path_age_ms));
        }
        if shipper.floor > state.epoch {
            return Err(format!("its shipper has seen epoch {}, which this group has not opened", shipper.floor));
        }
        if state.is_shared() {
            // Nobody waits for the end of a lease that does not arrive; but it has to hold what the others hold.
            if shipper.partial || !shipper.enrolling.is_empty() {
                return Err("it does not hold yet what the others hold".into());
            }
        } else if self.is_deaf(state, report.site, now_ms) {
            return Err("the leases granted before did not reach its shipper".into());
        }
        Ok(drain_op)
    }

    /// What this leader granted to a site in the state's epoch.
    pub(super) fn granted_to(&self, state: &State, site: SiteId) -> Option<Granted> {
        self.granted.get(&site).copied().filter(|granted| granted.epoch == state.epoch)
    }

    /// Leases were granted for longer than one lasts, and none came back as held.
    fn is_deaf(&self, state: &State, site: SiteId, now_ms: u64) -> bool {
        let since = self.granted_to(state, site).and_then(|granted| granted.unanswered_since_ms);
        since.is_some_and(|since| now_ms.saturating_sub(since) > state.longest_lease_ms() + SILENT_EXTRA_MS)
    }

    /// Whether what is heard of the primary tells that it would not do better in a new epoch: leases do not reach its
    /// shipper, or its append path hangs.
    pub(crate) fn is_unwell(&self, state: &State, primary: SiteId, now_ms: u64) -> bool {
        let shipper = self.sites.get(&primary).and_then(|seen| seen.report.shipper.as_ref());
        let hangs = shipper.is_none_or(|shipper| shipper.append_path_age_ms > Self::health_limit_ms(state));
        state.primary == Some(primary) && (hangs || self.is_deaf(state, primary, now_ms))
    }

    /// When no lease can be in force any more, granted by this leader or by one before it: then somebody else may be
    /// made primary.
    pub fn lease_over_at_ms(&self, state: &State) -> u64 {
        state.appenders().map(|site| self.lease_over_of_ms(state, site)).max().unwrap_or(0)
    }

    /// When no lease of this site's can be in force any more, unless it outlasts a partition.
    pub fn lease_over_of_ms(&self, state: &State, site: SiteId) -> u64 {
        let granted = self.granted_to(state, site).map_or(0, |granted| granted.last_ms);
        // Who may append in an epoch just opened gets the time to ask for its first lease.
        granted.max(self.since_ms).max(self.epoch.1) + state.longest_lease_ms() + state.margin_ms()
    }

    /// Whether nobody holds a lease of the state's epoch: it ran out, or was given up by the very process that held it.
    pub(crate) fn lease_is_over(&self, state: &State, now_ms: u64) -> bool {
        let holder = state.primary.and_then(|primary| self.granted_to(state, primary)).map(|granted| granted.instance);
        let given_up = state.primary.and_then(|primary| self.resigned.get(&primary)).is_some_and(|resigned| {
            // Of an epoch in which this leader granted nothing, others may have granted something later.
            resigned.epoch >= state.epoch && holder == Some(resigned.instance)
        });
        given_up || now_ms >= self.lease_over_at_ms(state)
    }
}
