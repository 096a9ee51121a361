//! Hands out what a control process would: epoch 1, the primary role, incarnations.

use cfs_model::Epoch;
use cfs_rpc::v1::governor_client::GovernorClient;
use cfs_rpc::v1::{Directive, GovernorState, GovernorStateRequest, Opened};
use tonic::Status;
use tonic::transport::Channel;

use super::cluster::Site;

/// The only epoch of a cluster without a control plane.
const EPOCH: Epoch = Epoch(1);
/// A lease without an end: nobody else could take over.
const NO_END: u64 = u64::MAX;

/// What a site is told: `primary` is the first site, for good. An `incarnation` of 0 leaves the stream as it is.
pub(super) fn directive(site: &Site, primary: &Site, incarnation: u64) -> Directive {
    Directive {
        epoch: EPOCH.0,
        primary: site.id == primary.id,
        primary_site: primary.name.to_string(),
        primary_address: format!("127.0.0.1:{}", primary.ports.producer),
        lease_deadline_boot_ns: NO_END,
        floor: 0,
        opened: vec![Opened { epoch: EPOCH.0, site: u32::from(primary.id.0) }],
        incarnation,
    }
}

/// Hands a directive over; it is persisted at the site on return.
pub(super) async fn hand_over(channel: &Channel, directive: Directive) -> Result<GovernorState, Status> {
    Ok(GovernorClient::new(channel.clone()).govern(directive).await?.into_inner())
}

/// What the site makes of what it was told.
pub(super) async fn state(channel: &Channel) -> Result<GovernorState, Status> {
    Ok(GovernorClient::new(channel.clone()).state(GovernorStateRequest {}).await?.into_inner())
}

/// Whether the site must be told: it is new, or was started since.
pub(super) fn is_told(state: &GovernorState, site: &Site, primary: &Site) -> bool {
    state.epoch == EPOCH.0 && state.incarnation != 0 && state.primary == (site.id == primary.id)
}
