//! `cfs admin tls status`: the certificates of every site as served, and the files of this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use cfs_model::SiteName;
use cfs_rpc::identity::Role;
use cfs_rpc::survey::{self, Target};
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::Out;
use crate::control::{Control, blocking};

/// Answers within three seconds: every port is tried at the same time.
pub(super) async fn show(control: &Arc<Control>, out: &Out) {
    let now = control.clock.wall();
    let targets = targets(control);
    let served = survey::served(&control.peers.net(), &control.tls.current(), now, &targets).await;
    let (dir, clock) = (control.config.tls_dir().to_owned(), control.clock.clone());
    let files = blocking(move || survey::files(&dir, &clock)).await.unwrap_or_default();
    let unreachable = served.iter().filter(|seen| !seen.reached).map(|seen| seen.site.clone());
    let unreachable: std::collections::BTreeSet<String> = unreachable.collect();
    let signers = super::invitation::signers(control);
    let (site, at) = (control.site().to_string(), survey::unix_s(now));
    let answer = v1::CertificatesAnswer { site, served, files, at, signers };
    out.send_with(Reply::Certificates(answer), unreachable.into_iter().collect()).await;
    out.done(v1::Done::default()).await;
}

/// Every port between sites, of those enrolled and those configured, by name of the site.
fn targets(control: &Control) -> Vec<Target> {
    let state = control.state();
    let listen = &control.config.listen;
    let own = control.site().clone();
    let mut shippers: BTreeMap<SiteName, String> = BTreeMap::new();
    shippers.extend(state.sites.values().map(|site| (site.name.clone(), site.peer.clone())));
    shippers.extend(control.config.peers.iter().map(|peer| (peer.name.clone(), peer.peer.clone())));
    let others = control.others();
    shippers.retain(|site, address| others.contains_key(site) && !address.is_empty());
    let mut targets: Vec<Target> = others
        .into_iter()
        .map(|(site, address)| Target { site, role: Role::Control, address })
        .chain(shippers.into_iter().map(|(site, address)| Target { site, role: Role::Shipper, address }))
        .collect();
    targets.push(Target::here(&own, Role::Control, &listen.control));
    if !control.config.site.witness {
        targets.push(Target::here(&own, Role::Shipper, &listen.peer));
    }
    targets.sort_by(|a, b| (&a.site, a.role).cmp(&(&b.site, b.role)));
    targets
}
