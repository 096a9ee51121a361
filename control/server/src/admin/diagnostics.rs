//! What both processes of a site know, for a bundle: asked of this site, or forwarded to another one.

use std::sync::Arc;
use std::time::Duration;

use cfs_model::SiteName;
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::inspect_client::InspectClient;

use super::{Out, config, failure, forward, history};
use crate::control::{Control, blocking};
use crate::{metrics, status};

/// Most changes and events that are told.
const HISTORY: u32 = 1000;
/// Everything that the shipper is asked is answered within this, or missing.
const SHIPPER_LIMIT: Duration = Duration::from_millis(1500);
const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;
const WHAT: &str = "tell what the site knows";

pub(super) async fn show(control: &Arc<Control>, request: &v1::AdminRequest, query: &v1::DiagnosticsQuery, out: &Out) {
    if query.site.is_empty() || query.site == control.site().as_str() {
        out.send(Reply::Diagnostics(answer(control).await)).await;
        return out.done(v1::Done::default()).await;
    }
    let asked = match SiteName::new(&query.site) {
        Ok(site) => forward(control, &site, request, out).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = asked {
        out.failed(failure("UNREACHABLE", WHAT, why, "cfs admin replication status --detailed")).await;
    }
}

async fn answer(control: &Arc<Control>) -> v1::DiagnosticsAnswer {
    let mut missing = Vec::new();
    let mut note = |part: &str, why: String| missing.push(v1::MissingPart { part: part.to_owned(), why });
    let (told, shipper) = tokio::join!(status::answer(control, false), shipper(control));
    let raft = match control.node() {
        None => Err(format!("this site is no member of a group: {}", control.waiting())),
        Some(node) => node.kept().await.map_err(|error| error.to_string()),
    };
    let raft = raft.map_err(|why| note("raft", why)).ok();
    let of_metrics = control.clone();
    let page = blocking(move || metrics::text(&of_metrics)).await;
    let page = page.and_then(|page| page.map_err(anyhow::Error::from));
    let page = page.map_err(|error| note("control_metrics", error.to_string())).unwrap_or_default();
    let shipper = match shipper {
        Some(Ok(shipper)) => shipper,
        Some(Err(why)) => {
            for part in ["journal", "bootstrap", "shipper_metrics"] {
                note(part, why.clone());
            }
            Shipper::default()
        }
        None => Shipper::default(),
    };
    v1::DiagnosticsAnswer {
        site: control.site().to_string(),
        witness: control.config.site.witness,
        status: Some(told.0),
        history: Some(history::answer(control, &v1::HistoryQuery { limit: HISTORY, events: true })),
        settings: Some(config::answer(control)),
        raft,
        journal: shipper.journal,
        bootstrap: shipper.bootstrap,
        control_metrics: page,
        shipper_metrics: shipper.metrics,
        missing,
    }
}

/// What the shipper alone knows.
#[derive(Default)]
struct Shipper {
    journal: Option<v1::JournalReply>,
    bootstrap: Option<v1::BootstrapReply>,
    metrics: String,
}

/// `None`: a witness has none.
async fn shipper(control: &Control) -> Option<Result<Shipper, String>> {
    if control.config.site.witness {
        return None;
    }
    let asking = async {
        let channel = cfs_rpc::unix::connect(&control.config.shipper_socket()).await.map_err(|e| e.to_string())?;
        let client = InspectClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
        let (mut for_journal, mut for_bootstrap, mut for_metrics) = (client.clone(), client.clone(), client);
        let (journal, bootstrap, metrics) = tokio::try_join!(
            for_journal.journal(v1::JournalRequest {}),
            for_bootstrap.bootstrap(v1::BootstrapRequest {}),
            for_metrics.metrics(v1::MetricsRequest {}),
        )
        .map_err(|status| status.message().to_owned())?;
        let (journal, bootstrap) = (Some(journal.into_inner()), Some(bootstrap.into_inner()));
        Ok(Shipper { journal, bootstrap, metrics: metrics.into_inner().text })
    };
    let slow = || Err(format!("the shipper did not answer within {} ms", SHIPPER_LIMIT.as_millis()));
    Some(tokio::time::timeout(SHIPPER_LIMIT, asking).await.unwrap_or_else(|_| slow()))
}
