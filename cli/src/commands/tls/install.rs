//! `cfs admin tls install`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use cfs_rpc::ca::{CA_CERTIFICATE, Issued, certificate_file, install, key_file};
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::identity::Role;
use cfs_rpc::tls::Material;
use cfs_rpc::v1::CertificateFile;
use cfs_rpc::{private_file, renewal, survey};
use serde::Serialize;

use crate::Context;
use crate::commands::replication::refusal::Refusal;
use crate::output::{self, Document};

/// Arguments of `cfs admin tls install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory that `issue` or `renew-certificates` wrote for this site
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// What was installed.
#[derive(Debug, Serialize)]
struct Installed {
    site: String,
    roles: Vec<String>,
    tls_dir: PathBuf,
}

impl Document for Installed {
    const SCHEMA: &'static str = "cfs.tls-install/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Installed at {}: {} in {}", self.site, self.roles.join(", "), self.tls_dir.display())
    }
}

/// Refuses authorities that are older than those trusted here and none of them: they were retired, and no site would take what they
/// signed. Those of a rotation that this site has missed are newer.
fn check_authorities(offered: &Path, installed: &Path, clock: &Arc<dyn Clock>) -> anyhow::Result<()> {
    let of = |dir: &Path| {
        let files = survey::files(dir, clock).into_iter();
        files.filter(|file| file.role == survey::AUTHORITY && file.error.is_empty()).collect::<Vec<_>>()
    };
    let (trusted, shown) = (of(installed), of(offered));
    let newest = |all: &[CertificateFile]| all.iter().map(|authority| authority.not_before).max();
    let known = |authority: &CertificateFile| trusted.iter().any(|one| one.serial == authority.serial);
    if trusted.is_empty() || shown.iter().any(known) || newest(&shown) > newest(&trusted) {
        return Ok(());
    }
    let why = format!(
        "the authority in {} is none of those in {}, and older: it was retired; nothing was changed",
        offered.display(),
        installed.display()
    );
    let next = "where the authority is now: cfs admin tls issue SITE --out DIR, or renew-certificates --site SITE";
    Err(Refusal::new("CFS-E123", "install the certificates", why, next).into())
}

/// Runs the command. Blocks.
///
/// # Errors
/// When anything in the directory is unusable or for another site; then nothing was changed.
pub fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let roles = renewal::roles(&args.dir);
    anyhow::ensure!(!roles.is_empty(), "{} holds no certificate: nothing was changed", args.dir.display());
    let read = |name: &str| {
        let path = args.dir.join(name);
        let bytes = private_file::read(&path).with_context(|| format!("{}", path.display()))?;
        String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))
    };
    let mut ready: Vec<(Role, Issued)> = Vec::new();
    for role in &roles {
        let material = Material::load(&args.dir, *role, &clock)?;
        let holder = material.identity();
        anyhow::ensure!(
            (&holder.site, holder.cluster) == (&config.site.name, config.cluster.id),
            "the certificates in {} are for the {holder}, this is {} of cluster {}: nothing was changed",
            args.dir.display(),
            config.site.name,
            config.cluster.id
        );
        let file = survey::role_file(&args.dir, *role, &clock);
        if let Some(why) = survey::useless(&file, holder, survey::unix_s(clock.wall())) {
            anyhow::bail!("{why}: nothing was changed; next: cfs admin tls issue {} anew", config.site.name);
        }
        ready.push((*role, Issued { cert_pem: read(&certificate_file(*role))?, key_pem: read(&key_file(*role))? }));
    }
    check_authorities(&args.dir, config.tls_dir(), &clock)?;
    let authorities = read(CA_CERTIFICATE)?;
    for (role, issued) in &ready {
        install(config.tls_dir(), *role, &authorities, issued)?;
    }
    let installed = Installed {
        site: config.site.name.to_string(),
        roles: roles.iter().map(ToString::to_string).collect(),
        tls_dir: config.tls_dir().to_owned(),
    };
    output::print(context.format(), &installed)?;
    anstream::eprintln!(
        "processes that run take them over within 5 s\n  next: cfs admin tls status; then remove {}, which holds keys",
        args.dir.display()
    );
    Ok(ExitCode::SUCCESS)
}
