//! A token for certificates: what `enroll --token` does before it enrols.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cfs_config::Config;
use cfs_model::SiteName;
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::join::{self, Token};
use cfs_rpc::net::RealNet;
use cfs_rpc::renewal::{self, Delivery};
use cfs_rpc::tls::Material;
use cfs_rpc::v1::RedeemRequest;

use super::refusal::Refusal;
use crate::Context;

/// A control process that is started again and again by its service manager is there within this.
const STARTED: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);
const WHAT: &str = "use the token";

/// Makes this site's keys, has the cluster that invited it sign, and installs what comes. Returns once the control process answers.
///
/// # Errors
/// [`Refusal`]; this site is as it was before, unless certificates were installed and nothing but the process is missing.
pub(super) async fn redeem(context: &Context, text: &str, enroll: &str) -> anyhow::Result<()> {
    let config = context.config()?;
    let again = format!("on an enrolled site: cfs admin replication invite {}", config.site.name);
    let token: Token =
        text.parse().map_err(|error: join::NoToken| Refusal::new("CFS-E130", WHAT, error.to_string(), &again))?;
    check(&config, &token, &again)?;
    let dir = config.tls_dir().to_owned();
    let own = Identity { cluster: config.cluster.id, site: config.site.name.clone(), role: Role::Control };
    let roles = if config.site.witness { vec![Role::Control] } else { Role::ALL.to_vec() };
    let (for_keys, holder, wanted) = (dir.clone(), own.clone(), roles.clone());
    let requests = tokio::task::spawn_blocking(move || {
        if let Some(role) = usable(&for_keys) {
            let why = format!("{} holds a {role} certificate that can be used", for_keys.display());
            return Err(Refusal::new("CFS-E132", WHAT, why, "enrol without --token").into());
        }
        Ok::<_, anyhow::Error>(renewal::prepare(&for_keys, &holder, &wanted)?)
    });
    let requests = requests.await??;
    let asked = ask(&config, &token, requests).await;
    let reply = match asked {
        Ok(reply) => reply,
        Err(error) => {
            tokio::task::spawn_blocking(move || drop_keys(&dir, &roles)).await?;
            let code = if matches!(error, join::Error::Refused(_)) { "CFS-E131" } else { "CFS-E133" };
            return Err(Refusal::new(code, WHAT, error.to_string(), again).into());
        }
    };
    let certificates = renewal::issued(&reply.certificates)?;
    let delivery = Delivery { certificates, authorities: reply.authorities, endorsement: Vec::new() };
    tokio::task::spawn_blocking(move || renewal::install_first(&dir, &own, &delivery, SystemTime::now())).await??;
    anstream::eprintln!("certificates of {} are installed in {}", config.site.name, config.tls_dir().display());
    until_answers(&config, enroll).await
}

/// Without certificates nothing can be asked of anybody.
///
/// # Errors
/// [`Refusal`] that names `invite`: there are none, and no process that was started with them.
pub(super) async fn check_certificates(context: &Context, primary: &SiteName) -> anyhow::Result<()> {
    let config = context.config()?;
    let dir = config.tls_dir().to_owned();
    let missing = tokio::task::spawn_blocking(move || renewal::roles(&dir).is_empty()).await?;
    if missing && cfs_rpc::unix::connect(&config.control_socket()).await.is_err() {
        let site = &config.site.name;
        let why = format!("{} holds no certificates", config.tls_dir().display());
        let next = format!(
            "on {primary}: cfs admin replication invite {site}; then here: cfs admin replication enroll --primary {primary} --token TOKEN"
        );
        return Err(Refusal::new("CFS-E135", format!("enrol {site}"), why, next).into());
    }
    Ok(())
}

fn check(config: &Config, token: &Token, again: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new("CFS-E131", WHAT, why, again));
    if token.cluster != config.cluster.id.to_string() {
        return refuse(format!("it is of cluster {}, the configuration says {}", token.cluster, config.cluster.id));
    }
    if token.site != config.site.name.as_str() {
        return refuse(format!("it is for {}, this is {}", token.site, config.site.name));
    }
    Ok(())
}

/// A role that has everything already. Blocks.
fn usable(dir: &Path) -> Option<Role> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let lasts = |role: &Role| {
        Material::load(dir, *role, &clock).is_ok_and(|material| !material.expiry().left(clock.wall()).is_zero())
    };
    [Role::Control, Role::Shipper].into_iter().find(lasts)
}

async fn ask(
    config: &Config,
    token: &Token,
    requests: Vec<renewal::Request>,
) -> Result<cfs_rpc::v1::RedeemReply, join::Error> {
    let configured = config.peers.iter().find(|peer| peer.name.as_str() == token.via).map(|peer| peer.control.clone());
    let addr = configured.unwrap_or_else(|| token.address.clone());
    let request = RedeemRequest {
        cluster: token.cluster.clone(),
        site: token.site.clone(),
        secret: token.secret_bytes().unwrap_or_default().into(),
        requests: requests.into_iter().map(Into::into).collect(),
    };
    join::redeem(RealNet::shared(), token, &addr, request, SystemTime::now()).await
}

/// The keys were of no use. Blocks.
fn drop_keys(dir: &Path, roles: &[Role]) {
    for role in roles {
        // What is left is replaced by the next attempt.
        let _ = std::fs::remove_file(dir.join(renewal::next_key_file(*role)));
    }
}

/// The control process could not run without certificates; its service manager starts it again.
async fn until_answers(config: &Config, enroll: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut told = false;
    while cfs_rpc::unix::connect(&config.control_socket()).await.is_err() {
        if began.elapsed() > STARTED {
            let why = "its certificates are installed, and its control process does not answer";
            let next = format!("systemctl start claudefs-repl; then: {enroll}");
            return Err(Refusal::new("CFS-E134", "enrol this site", why, next).into());
        }
        if !told {
            anstream::eprintln!("waiting for claudefs-control to start");
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
