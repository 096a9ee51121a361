//! `cfs admin tls`: the cluster's authority and its certificates.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_rpc::ca::{self, Authority, Validity};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::v1::CertificatesAnswer;
use cfs_rpc::{private_file, renewal};

use super::replication::refusal::Refusal;
use crate::Context;

mod deliver;
pub mod init;
pub mod install;
pub mod issue;
pub mod renew;
pub mod rotate_ca;
pub mod status;

/// Verbs of `cfs admin tls`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the cluster: its authority, its id, this site's certificates, and the file that founds it
    Init(init::Args),
    /// Issue certificates for another site
    Issue(issue::Args),
    /// Install certificates that were issued for this site
    Install(install::Args),
    /// Make new keys and certificates for every site, and put them to use without a restart
    RenewCertificates(renew::Args),
    /// Replace the authority, with an overlap
    RotateCa(rotate_ca::Args),
    /// Show every site's certificates as served; exits with 0 OK, 1 WARNING, 2 CRITICAL
    Status(status::Args),
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let outcome = match self {
            Self::Init(args) => init::run(context, args),
            Self::Issue(args) => issue::run(context, args),
            Self::Install(args) => install::run(context, &args),
            Self::RenewCertificates(args) => renew::run(context, args).await,
            Self::RotateCa(args) => rotate_ca::run(context, args).await,
            Self::Status(args) => status::run(context, args).await,
        };
        // A refusal has its own form on standard error.
        match outcome {
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => Ok(refusal.report()),
                None => Err(error),
            },
            done => done,
        }
    }
}

/// Where the authority is unless said otherwise: beside the configuration.
fn authority_dir(context: &Context, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| context.config_path().with_file_name("ca"))
}

/// A directory next to the authority's: `ca.next` beside `ca`.
fn beside(ca_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = ca_dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    ca_dir.with_file_name(name)
}

/// What sites trust while one authority replaces another: both, else the one (PEM). Blocks.
fn trusted_with(ca_dir: &Path, authority: &Authority) -> anyhow::Result<String> {
    let mut parts = vec![authority.cert_pem().to_owned()];
    for suffix in ["previous", "next"] {
        match std::fs::read_to_string(beside(ca_dir, suffix).join(ca::CA_CERTIFICATE)) {
            Ok(pem) => parts.push(pem),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(renewal::joined(&parts.iter().map(String::as_str).collect::<Vec<_>>())?)
}

/// The authority with its key, or where it may be found. Blocks.
fn held_authority(ca_dir: &Path, what: &str, survey: Option<&CertificatesAnswer>) -> anyhow::Result<Authority> {
    match Authority::load(ca_dir) {
        Err(ca::Error::File { path, source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let holders: Vec<&str> =
                survey.map(|seen| &seen.signers[..]).unwrap_or_default().iter().map(String::as_str).collect();
            let next = match holders.first() {
                Some(site) => format!("run it on {site}, which has the key"),
                None => "run it where `cfs admin tls init` was run, or name the directory of its copy: --ca-dir DIR"
                    .to_owned(),
            };
            let why =
                format!("the authority's key is not here: {} does not exist; nothing was changed", path.display());
            Err(Refusal::new("CFS-E120", what, why, next).into())
        }
        loaded => Ok(loaded?),
    }
}

/// Refuses an authority that this site does not trust: it is retired, or another cluster's, and no site would take what it signs.
/// Blocks.
fn check_trusted_here(config: &Config, authority: &Authority, ca_dir: &Path, what: &str) -> anyhow::Result<()> {
    let path = config.tls_dir().join(ca::CA_CERTIFICATE);
    let trusted = private_file::read(&path)
        .with_context(|| format!("cannot {what}: cannot read {}; nothing was changed", path.display()))?;
    if authority.is_among(&trusted) {
        return Ok(());
    }
    let why = format!(
        "the authority in {} is none of those that {} trusts ({}): it is retired, or another cluster's; nothing was changed",
        ca_dir.display(),
        config.site.name,
        path.display()
    );
    Err(Refusal::new(
        "CFS-E123",
        what,
        why,
        "name the directory of the cluster's authority, or of its copy: --ca-dir DIR",
    )
    .into())
}

/// Issues certificates of a site and puts them into a directory, with what is to be trusted; existing ones are replaced. Blocks.
fn issue_to(
    authority: &Authority,
    authorities: &str,
    site: &cfs_model::SiteName,
    roles: &[Role],
    dir: &Path,
) -> Result<(), ca::Error> {
    for role in roles {
        let identity = Identity { cluster: authority.cluster(), site: site.clone(), role: *role };
        let issued = authority.issue(&identity, Validity::lasting(std::time::SystemTime::now(), Validity::LEAF))?;
        ca::install(dir, *role, authorities, &issued)?;
    }
    Ok(())
}
