//! `cfs admin tls status`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use cfs_config::Config;
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::Role;
use cfs_rpc::net::RealNet;
use cfs_rpc::survey::{self, Target};
use cfs_rpc::tls::Material;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{CertificatesAnswer, CertificatesQuery, ServedCertificate};

use super::super::replication::ask;
use crate::Context;
use crate::output;

mod view;

pub(in crate::commands) use view::{Certificates, Level, Line};

/// Arguments of `cfs admin tls status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Warn of certificates that last for fewer days
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=36_500), allow_negative_numbers = true)]
    warn_days: u32,
}

/// Runs the command. Exits with 0 when all is well, 1 for a warning, 2 when a certificate is or is about to be of no use. Answers
/// within three seconds, also while no process runs.
///
/// # Errors
/// When the configuration cannot be read.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let seen = certificates(context, &config, args.warn_days).await?;
    output::print(context.format(), &seen)?;
    Ok(ExitCode::from(seen.level() as u8))
}

/// Every certificate that can be seen, as served if somebody serves it.
///
/// # Errors
/// Only when this program is about to end.
pub(in crate::commands) async fn certificates(
    context: &Context,
    config: &Config,
    warn_days: u32,
) -> anyhow::Result<Certificates> {
    let (answer, by) = survey(context, config).await?;
    Ok(Certificates::of(&answer, by, config.cluster.id, config.site.witness, warn_days))
}

/// What can be found out, and by whom.
async fn survey(context: &Context, config: &Config) -> anyhow::Result<(CertificatesAnswer, String)> {
    let why = match ask::query::<CertificatesAnswer>(context, Kind::Certificates(CertificatesQuery {})).await {
        Ok(answer) => return Ok((answer.body, format!("the control process of {}", answer.by))),
        Err(error) => format!("{error:#}").lines().next().unwrap_or_default().to_owned(),
    };
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let (dir, for_files) = (config.tls_dir().to_owned(), clock.clone());
    let looked = tokio::task::spawn_blocking(move || (survey::files(&dir, &for_files), any_key(&dir, &for_files)));
    let (files, material) = looked.await?;
    let targets = targets(config);
    let served = match material {
        Some(material) => survey::served(&RealNet::shared(), &material, clock.wall(), &targets).await,
        None => targets.iter().map(not_asked).collect(),
    };
    let site = config.site.name.to_string();
    let at = survey::unix_s(clock.wall());
    Ok((CertificatesAnswer { site, served, files, at, signers: Vec::new() }, format!("this command, because {why}")))
}

/// What can be shown to others in order to look at them: whichever role this program may read. Blocks.
pub(in crate::commands) fn any_key(dir: &Path, clock: &Arc<dyn Clock>) -> Option<Material> {
    let roles = [Role::Control, Role::Shipper, Role::Operator, Role::Producer];
    roles.into_iter().find_map(|role| Material::load(dir, role, clock).ok())
}

/// Every port of the configuration.
fn targets(config: &Config) -> Vec<Target> {
    let own = &config.site.name;
    let mut targets = vec![Target::here(own, Role::Control, &config.listen.control)];
    if !config.site.witness {
        targets.push(Target::here(own, Role::Shipper, &config.listen.peer));
    }
    let of = |site: &cfs_model::SiteName, role, address: &String| Target {
        site: site.clone(),
        role,
        address: address.clone(),
    };
    targets.extend(config.peers.iter().map(|peer| of(&peer.name, Role::Control, &peer.control)));
    targets.extend(config.data_peers().map(|peer| of(&peer.name, Role::Shipper, &peer.peer)));
    targets.sort_by(|a, b| (&a.site, a.role).cmp(&(&b.site, b.role)));
    targets
}

fn not_asked(target: &Target) -> ServedCertificate {
    ServedCertificate {
        site: target.site.to_string(),
        role: target.role.to_string(),
        address: target.address.clone(),
        error: "not asked: no key in paths.tls can be used here, and the control process does not answer".to_owned(),
        ..ServedCertificate::default()
    }
}
