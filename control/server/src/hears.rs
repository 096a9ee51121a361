//! Who hears the primary: before a leader that does not would act against it, one that does takes the leadership over.

use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::State;
use cfs_model::{SiteId, SiteName};
use cfs_rpc::v1;

use crate::contact;
use crate::control::Control;
use crate::lead::Lead;

/// A site that hears another has an answer from it within this and two of its round trips.
const ANSWER: Duration = Duration::from_millis(200);
/// Asking again makes sense after this.
const AGAIN_MS: u64 = 1_000;
/// What a site said of hearing another is true for so long: it asks everybody every two and a half seconds.
const HEARD_MS: u64 = 5_000;

fn limit(control: &Control, site: &SiteName) -> Duration {
    ANSWER + 2 * Duration::from_millis(control.peers.round_trip_ms(site.as_str()).unwrap_or(0))
}

/// Whether this site gets an answer from another now.
pub(crate) async fn from_here(control: &Arc<Control>, site: &str) -> bool {
    let Ok(site) = SiteName::new(site) else { return false };
    tokio::time::timeout(limit(control, &site), contact::ask(control, &site)).await.is_ok_and(|answer| answer.is_ok())
}

/// Whether `site` said lately that it hears `primary`.
pub(crate) fn said(lead: &Lead, site: SiteId, primary: SiteId) -> bool {
    let heard = lead.controls();
    let primary = u32::from(primary.0);
    heard.get(&site).into_iter().flatten().any(|peer| peer.site == primary && peer.age_ms < HEARD_MS)
}

/// Watches whether the primary is heard. When it has been silent for half a lease and its process is not known to be gone,
/// the other voters are asked; one that hears it is given the leadership. Runs for as long as this process leads.
pub(crate) async fn watch(lead: &Lead, control: &Arc<Control>) {
    let mut asked_ms = 0;
    loop {
        let state = control.state();
        tokio::time::sleep(Duration::from_millis((state.lease_ms / 8).max(20))).await;
        let now_ms = control.boot_ms();
        let Some(primary) = silent_primary(lead, control, &state, now_ms) else { continue };
        if now_ms.saturating_sub(asked_ms) < AGAIN_MS {
            continue;
        }
        asked_ms = now_ms;
        if let Some(site) = somebody_hears(lead, control, &state, &primary).await {
            match lead.node().move_leadership(&site).await {
                Ok(()) => tracing::info!(%site, %primary, "the leadership moved to a site that hears the primary"),
                Err(error) => tracing::info!(%site, %primary, %error, "a site hears the primary and cannot lead"),
            }
        }
    }
}

/// The primary, if it is another site, and has been silent for half a lease, or for a quarter of one since this leader was elected.
fn silent_primary(lead: &Lead, control: &Control, state: &State, now_ms: u64) -> Option<SiteName> {
    let primary = state.primary.filter(|primary| *primary != control.id())?;
    let name = state.site(primary)?.name.clone();
    let at_ms = lead.coordinator().report_of(primary).map(|(_, at_ms)| at_ms);
    let silent = match at_ms {
        Some(at_ms) => now_ms.saturating_sub(at_ms) > state.lease_ms / 2,
        // A leader that was just elected gives it the time to report, and has none to lose.
        None => now_ms.saturating_sub(lead.began_ms()) > state.lease_ms / 4,
    };
    (silent && state.operation.is_none() && !control.peers.link(name.as_str()).gone).then_some(name)
}

async fn somebody_hears(lead: &Lead, control: &Arc<Control>, state: &State, primary: &SiteName) -> Option<SiteName> {
    let voters = lead.node().voters().unwrap_or_default();
    let names = voters.iter().filter(|id| **id != control.id()).filter_map(|id| Some(state.site(*id)?.name.clone()));
    let asked = names.filter(|name| name != primary).map(|name| async move {
        let request = v1::ContactRequest { hears: primary.to_string(), ..contact::request(control) };
        let asking = async {
            let mut client = control.peers.client(name.as_str()).ok()?;
            Some(client.contact(request).await.ok()?.into_inner().hears)
        };
        let limit = limit(control, &name) + ANSWER;
        let hears = tokio::time::timeout(limit, asking).await.ok().flatten().unwrap_or(false);
        hears.then_some(name)
    });
    futures::future::join_all(asked).await.into_iter().flatten().next()
}
