//! What the side with the older epochs would lose if it were kept.

use std::time::Duration;

use cfs_model::op::StreamPosition;
use cfs_model::{Lsn, StreamId};
use cfs_rpc::v1;

use super::known::Known;
use crate::control::Control;

/// A plan is told within this.
const PLAN_LIMIT: Duration = Duration::from_millis(2000);
/// Comparing both sides may take so long, however long the rest took.
const CONTESTED_LEAST: Duration = Duration::from_millis(300);
/// Registers that are named to an operator.
const NAMED: u32 = 20;

/// Which registers of this site would lose the merge, asked of its shipper, which asks the newer side's.
pub(super) async fn ask(control: &Control, known: &Known, began: tokio::time::Instant) -> v1::ContestedReply {
    let span = |(stream, after, through): &(StreamId, Lsn, Lsn)| v1::Span {
        after: Some(StreamPosition::of(*stream, *after)),
        through: through.0,
    };
    let request = v1::ContestedRequest {
        spans: known.unshared.iter().map(span).collect(),
        sites: known.newer.clone(),
        list: NAMED,
    };
    let asking = async {
        if request.sites.is_empty() {
            return Err("no shipper of the other side is heard".to_owned());
        }
        let channel =
            cfs_rpc::unix::connect(&control.config.shipper_socket()).await.map_err(|error| error.to_string())?;
        let reply = v1::governor_client::GovernorClient::new(channel).contested(request).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let until = (began + PLAN_LIMIT).max(tokio::time::Instant::now() + CONTESTED_LEAST);
    let answer = tokio::time::timeout_at(until, asking).await;
    let answer = answer.unwrap_or_else(|_| Err("comparing both sides takes too long".into()));
    answer.unwrap_or_else(|not_known| v1::ContestedReply { not_known, ..v1::ContestedReply::default() })
}
