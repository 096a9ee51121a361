//! What stands against switching active-active on or off.

use cfs_model::Level;

use crate::coordinator::Coordinator;
use crate::plan::{self, Refused};
use crate::state::{Site, State};

/// What every site must know.
const NEEDED: Level = Level::ACTIVE_ACTIVE;

/// Looks at whether active-active can be switched on (`shared`) or off. Changes nothing.
///
/// # Errors
/// Why it cannot, and what to do.
pub fn check(state: &State, leader: &Coordinator, shared: bool, now_ms: u64) -> Result<(), Refused> {
    if let Some(running) = &state.operation {
        let why = format!("operation {} ({}) is under way", running.op, running.change.word());
        return refused("BUSY", why, format!("cfs admin replication history --follow {}", running.op));
    }
    if state.moving.is_some() {
        return refused("BUSY", "a switchover is under way".into(), "cfs admin replication history");
    }
    if shared { check_on(state, leader, now_ms) } else { check_off(state, leader, now_ms) }
}

fn refused(code: &'static str, why: String, next: impl Into<String>) -> Result<(), Refused> {
    Err(Refused { code, why, next: next.into() })
}

/// Everybody must know what a shared epoch is before there is one, and the primary has to drain.
fn check_on(state: &State, leader: &Coordinator, now_ms: u64) -> Result<(), Refused> {
    if state.data_sites().count() < 2 {
        let next = "enrol another one: cfs admin replication enroll --primary SITE, on it";
        return refused("ONE_SITE", "there is only one data site".into(), next);
    }
    if state.open_split().is_some() {
        let why = "another group acts for this cluster".to_owned();
        return refused("SPLIT", why, "cfs admin replication split-brain status");
    }
    for site in state.sites.values() {
        if site.node == 0 {
            let why = format!("{} has not rejoined since the forced recovery", site.name);
            let primary = state.primary.map_or_else(|| "SITE".to_owned(), |id| state.name_of(id));
            let rejoin = format!("on {}: cfs admin replication rejoin --primary {primary}", site.name);
            let next = format!("{rejoin}. Only if it does not come back: cfs admin replication remove {}", site.name);
            return refused("DOWN", why, next);
        }
        heard(state, leader, site, now_ms, "every site must be heard, so that all know what is switched on")?;
        let report = leader.report_of(site.id).map(|(report, _)| report);
        if let Some(level) = report.and_then(|report| report.level(site.witness)).filter(|level| *level < NEEDED) {
            let why = format!("{} acts as level {level}, and active-active is known from level {NEEDED} on", site.name);
            let next = format!(
                "upgrade {0}, or take cluster.level out of its configuration, and repeat the command",
                site.name
            );
            return refused("VERSION", why, next);
        }
    }
    if state.level < NEEDED {
        let why = format!("not every site was heard to know level {NEEDED} yet");
        return refused("VERSION", why, "repeat the command; cfs admin replication status --detailed shows the levels");
    }
    let accepts = |id| {
        let shipper = leader.shipper_of(id);
        shipper.is_some_and(|shipper| shipper.accepting && shipper.epoch == state.epoch)
    };
    if !state.primary.is_some_and(accepts) {
        return refused("NO_PRIMARY", "no primary takes appends".into(), "cfs admin replication status --detailed");
    }
    Ok(())
}

/// What any site took must be in the cut with which the next epoch begins.
fn check_off(state: &State, leader: &Coordinator, now_ms: u64) -> Result<(), Refused> {
    for site in state.appenders().filter_map(|id| state.site(id)) {
        heard(state, leader, site, now_ms, "every site that takes appends must drain first")?;
    }
    Ok(())
}

fn heard(state: &State, leader: &Coordinator, site: &Site, now_ms: u64, what_for: &str) -> Result<(), Refused> {
    let name = &site.name;
    let shipper = leader.shipper_of(site.id);
    let (code, why, mend) = if !leader.is_fresh(state, site.id, now_ms) {
        ("DOWN", format!("{name} is not heard"), "systemctl start claudefs-control")
    } else if site.witness {
        return Ok(());
    } else {
        match shipper {
            None => {
                ("NO_SHIPPER", format!("the shipper of {name} does not answer"), "systemctl start claudefs-shipper")
            }
            Some(shipper) if shipper.hangs() => ("NO_SHIPPER", plan::hangs(name.as_str()), plan::UNHANG),
            Some(_) => return Ok(()),
        }
    };
    let next = format!(
        "wait some seconds, or on {name}: {mend}; then repeat the command. Only if {name} does not come back: \
         cfs admin replication remove {name}"
    );
    refused(code, format!("{why}, and {what_for}"), next)
}
