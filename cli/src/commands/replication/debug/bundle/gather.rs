//! Asks this site for everything that it knows, and through it every other one.

use std::time::Duration;

use anyhow::anyhow;
use cfs_config::Config;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{
    BootstrapRequest, DiagnosticsAnswer, DiagnosticsQuery, JournalRequest, MetricsRequest, RaftState, StatusRequest,
};

use super::site::Known;
use crate::commands::replication::ask;
use crate::commands::replication::refusal::Refusal;
use crate::{Context, client};

/// The shipper, if it is asked without the control process, gets so long.
const SHIPPER_LIMIT: Duration = Duration::from_millis(2800);

/// What is known of every site, this one first. Returns within seven seconds.
pub(super) async fn sites(context: &Context, config: &Config) -> Vec<Known> {
    let own = config.site.name.to_string();
    let configured = config.peers.iter().map(|peer| peer.name.to_string());
    match of_control(context, String::new()).await {
        Ok(answer) => {
            let mut here = Known::from(answer);
            // An older control process leaves the name out.
            here.site.clone_from(&own);
            let mut others: Vec<String> = configured.chain(here.others().map(str::to_owned)).collect();
            others.retain(|site| *site != own);
            others.sort();
            others.dedup();
            let asked = others.iter().map(async |site| match of_control(context, site.clone()).await {
                Ok(answer) => Known { site: site.clone(), ..Known::from(answer) },
                Err(error) => Known::nothing(site, first_line(&error)),
            });
            let others = futures::future::join_all(asked).await;
            std::iter::once(here).chain(others).collect()
        }
        Err(error) => without_control(context, config, &first_line(&error), configured.collect()).await,
    }
}

async fn of_control(context: &Context, site: String) -> anyhow::Result<DiagnosticsAnswer> {
    Ok(ask::query::<DiagnosticsAnswer>(context, Kind::Diagnostics(DiagnosticsQuery { site })).await?.body)
}

/// The control process of this site is down, or too old: the shipper tells what it knows, also of others, and files tell the rest.
async fn without_control(context: &Context, config: &Config, why: &str, configured: Vec<String>) -> Vec<Known> {
    let mut here = Known { site: config.site.name.to_string(), witness: config.site.witness, ..Known::default() };
    here.lacks("control", why);
    let mut others: Vec<Known> = Vec::new();
    let asked = tokio::time::timeout(SHIPPER_LIMIT, ask_shipper(context, &mut here, &mut others));
    let asked = asked
        .await
        .unwrap_or_else(|_| Err(anyhow!("the shipper did not answer within {:.1} s", SHIPPER_LIMIT.as_secs_f64())));
    match asked {
        Ok(()) => here.by = "shipper",
        Err(_) if config.site.witness => here.by = "files",
        Err(error) => {
            here.by = "files";
            here.lacks("shipper", first_line(&error));
        }
    }
    match raft_files(config).await {
        Ok(Some(state)) => here.raft = Some(state),
        Ok(None) => here.lacks("raft", "this site is no member of a group: there is no state of one in paths.control"),
        Err(why) => here.lacks("raft", why),
    }
    for site in configured {
        if !others.iter().any(|known| known.site == site) {
            let why =
                "the control process of this site, through which others are asked, does not run; make a bundle there";
            others.push(Known::nothing(site, why));
        }
    }
    std::iter::once(here).chain(others).collect()
}

async fn ask_shipper(context: &Context, here: &mut Known, others: &mut Vec<Known>) -> anyhow::Result<()> {
    anyhow::ensure!(!here.witness, "a witness has no shipper");
    let mut shipper = client::inspect(context).await?;
    let status = shipper.status(StatusRequest { all_sites: true, cursors_only: false }).await;
    let mut status = status.map_err(client::failed("report its status"))?.into_inner();
    for other in std::mem::take(&mut status.others) {
        let why = "the control process of this site, which would ask that of the other one, does not run";
        let mut known = Known { site: other.site.clone(), by: "shipper", shipper: Some(other), ..Known::default() };
        known.lacks("control", why);
        others.push(known);
    }
    let unreachable = status.unreachable.iter();
    others.extend(unreachable.map(|site| Known::nothing(site, "its shipper did not answer this site's")));
    here.shipper = Some(status);
    // Each by itself: what one lacks the others have.
    match shipper.journal(JournalRequest {}).await {
        Ok(reply) => here.journal = Some(reply.into_inner()),
        Err(status) => here.lacks("journal", status.message()),
    }
    match shipper.bootstrap(BootstrapRequest {}).await {
        Ok(reply) => here.bootstrap = Some(reply.into_inner()),
        Err(status) => here.lacks("bootstrap", status.message()),
    }
    match shipper.metrics(MetricsRequest {}).await {
        Ok(reply) => here.shipper_metrics = reply.into_inner().text,
        Err(status) => here.lacks("shipper_metrics", status.message()),
    }
    Ok(())
}

/// The member's state by its files; `None`: this site is no member.
async fn raft_files(config: &Config) -> Result<Option<RaftState>, String> {
    let control = config.control_dir().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let scratch = tempfile::tempdir().map_err(|error| format!("no room for a copy: {error}"))?;
        cfs_control::raft::kept::from_files(&control, scratch.path()).map_err(|error| error.to_string())
    });
    read.await.map_err(|error| error.to_string())?
}

/// Of a refusal only why: what was asked is said beside it.
fn first_line(error: &anyhow::Error) -> String {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.why.clone();
    }
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
