//! This site's own certificates, as they lie on disk: nobody else tells of them while the control process does not answer.

use std::sync::Arc;

use cfs_config::Config;
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::survey;

/// Why others would take nothing from this site's processes. None: they would, or this user may not look. `shipper_runs`: it
/// has a certificate in use, which stays whatever becomes of the file.
pub(super) async fn useless(config: &Config, shipper_runs: bool) -> Vec<String> {
    let config = config.clone();
    // A task that does not end well says nothing.
    tokio::task::spawn_blocking(move || look(&config, shipper_runs)).await.unwrap_or_default()
}

fn look(config: &Config, shipper_runs: bool) -> Vec<String> {
    let dir = config.tls_dir();
    if std::fs::read_dir(dir).is_err() {
        return Vec::new();
    }
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let now = survey::unix_s(clock.wall());
    let roles: &[Role] = if config.site.witness { &[Role::Control] } else { &[Role::Control, Role::Shipper] };
    let of = |role: &Role| {
        let file = survey::role_file(dir, *role, &clock);
        let own = Identity { cluster: config.cluster.id, site: config.site.name.clone(), role: *role };
        let in_use = *role == Role::Shipper && shipper_runs;
        survey::useless(&file, &own, now).filter(|_| !in_use || survey::has_expired(&file, now))
    };
    roles.iter().filter_map(of).collect()
}
