//! Taking a site out of the cluster: what stands against it.

use cfs_model::{SiteId, Vector};

use crate::coordinator::Coordinator;
use crate::plan::{Blocker, Refused};
use crate::state::{Site, State};

/// What a removal would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which site.
    pub site: SiteId,
    /// Entries of its streams that no other site that is heard holds, as far as it told; `None`: it was not heard.
    pub only_there: Option<u64>,
    /// What stands against it.
    pub blockers: Vec<Blocker>,
    /// What to know before.
    pub warnings: Vec<String>,
}

/// Who can be primary instead of `site`: rather one that is heard.
fn successor<'a>(state: &'a State, leader: &Coordinator, site: SiteId, now_ms: u64) -> Option<&'a Site> {
    let others = state.data_sites().filter(|other| other.id != site && !state.held.contains(&other.id));
    others.min_by_key(|other| {
        (!leader.is_fresh(state, other.id, now_ms) || leader.shipper_of(other.id).is_none(), other.id)
    })
}

/// Looks at the removal of the site of this name; `fenced` is why that site says itself that it takes part in nothing, if it
/// does: one that acts for another group reports to no leader here. Changes nothing.
///
/// # Errors
/// When it cannot be removed at all.
pub fn plan(
    state: &State,
    leader: &Coordinator,
    name: &str,
    fenced: Option<&str>,
    now_ms: u64,
) -> Result<Removal, Refused> {
    let refuse = |code, why: String, next: &str| Err(Refused { code, why, next: next.to_owned() });
    let Some(site) = state.named(name) else {
        return refuse("UNKNOWN_SITE", format!("{name} is not enrolled"), "cfs admin replication status");
    };
    if !site.witness && state.data_sites().count() == 1 {
        return refuse("LAST", format!("{name} is the last data site"), "cfs admin replication status");
    }
    if state.primary == Some(site.id) && state.is_shared() {
        let why = format!("active-active is on, and {name} takes appends");
        return refuse(
            "ACTIVE_ACTIVE",
            why,
            "cfs admin replication config --active-active-mode off, and repeat the command",
        );
    }
    if state.primary == Some(site.id) {
        let to = successor(state, leader, site.id, now_ms).map_or("SITE", |site| site.name.as_str());
        let next = format!("cfs admin replication failover --to {to}");
        return refuse("PRIMARY", format!("{name} is primary: move the role first"), &next);
    }
    let mut removal = Removal { site: site.id, only_there: Some(0), blockers: Vec::new(), warnings: Vec::new() };
    if let Some(running) = &state.operation {
        removal.blockers.push(Blocker {
            code: "BUSY",
            why: format!("operation {} ({}) is under way", running.op, running.change.word()),
            next: format!("cfs admin replication history --follow {}", running.op),
            forceable: false,
        });
    }
    if site.witness {
        if state.data_sites().count() == 2 {
            removal.warnings.push("two data sites stay, without a witness: failover will not be automatic".into());
        }
        return Ok(removal);
    }
    let shipper = |id: SiteId| {
        let (report, _) = leader.report_of(id).filter(|_| leader.is_fresh(state, id, now_ms))?;
        report.shipper.as_ref()
    };
    if state.may_append(site.id) && shipper(site.id).is_some() {
        // What it took until it hears of its removal would be refused by the others.
        removal.blockers.push(Blocker {
            code: "ACTIVE_ACTIVE",
            why: format!("active-active is on, and {name} takes appends"),
            next: "cfs admin replication config --active-active-mode off, and repeat the command".into(),
            forceable: false,
        });
    }
    let others: Vec<_> = state.data_sites().filter(|other| other.id != site.id).collect();
    let held = others.iter().filter_map(|other| shipper(other.id));
    let held = held.fold(Vector::new(), |held, shipper| held.max(&shipper.durable));
    removal.only_there = shipper(site.id).map(|shipper| {
        let own: Vector = shipper.durable.iter().filter(|(stream, _)| stream.site == site.id).collect();
        own.beyond(&held)
    });
    match removal.only_there {
        Some(0) => {}
        Some(n) => removal.blockers.push(Blocker {
            code: "UNSHARED",
            why: format!("{name} holds {n} entries of its own that no other site has"),
            next: format!("wait: cfs admin replication lag --watch; or cfs admin replication remove {name} --force"),
            forceable: true,
        }),
        // A site that never was primary has appended nothing of which it could hold more than the others.
        None if !state.opened.values().any(|owner| [site.id, SiteId::EVERY].contains(owner)) => {}
        None if fenced.is_some() => {
            let primary = state.primary.map_or_else(|| "SITE".to_owned(), |id| state.name_of(id));
            removal.blockers.push(Blocker {
                code: "FENCED",
                why: format!(
                    "{name} is fenced and may hold entries that the others lack ({}): once it is removed they are refused, and \
                     can only be exported",
                    fenced.unwrap_or_default()
                ),
                next: format!(
                    "on {name}: cfs admin replication rejoin --primary {primary}, then repeat the command; or \
                     cfs admin replication remove {name} --force"
                ),
                forceable: true,
            });
        }
        None => removal.blockers.push(Blocker {
            code: "NOT_HEARD",
            why: format!(
                "{name} is not heard and may hold entries that the others lack: once it is removed they are refused, \
                 and can only be exported"
            ),
            next: format!("bring it up first, or cfs admin replication remove {name} --force"),
            forceable: true,
        }),
    }
    let silent: Vec<&str> =
        others.iter().filter(|other| shipper(other.id).is_none()).map(|other| other.name.as_str()).collect();
    if !silent.is_empty() {
        removal.warnings.push(format!(
            "{} may hold more of the streams of {name}: they stay open until all remaining data sites were heard",
            silent.join(", ")
        ));
    }
    if others.len() == 2 && !state.sites.values().any(|site| site.witness) {
        removal.warnings.push("two data sites stay, without a witness: failover will not be automatic".into());
    }
    Ok(removal)
}
