//! `cfs admin tls rotate-ca`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use cfs_config::Config;
use cfs_rpc::ca::Authority;
use cfs_rpc::renewal;
use cfs_rpc::v1::CertificatesAnswer;

use super::super::replication::refusal::Refusal;
use super::deliver::{self, Target, Trust};
use super::renew::renew_all;
use super::{authority_dir, beside, check_trusted_here, held_authority};
use crate::Context;
use crate::output;

/// Arguments of `cfs admin tls rotate-ca`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop trusting the old authority, once nothing uses its certificates any more
    #[arg(long)]
    finish: bool,
    /// Where the authority is [default: ca, beside the configuration]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
}

/// Runs the command. Whatever breaks it off, it goes on when it is given again.
///
/// # Errors
/// When this site does not trust the authority, or a site is not reached or refuses; every site goes on with what it has.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let ca_dir = authority_dir(context, args.ca_dir);
    resume_swap(&ca_dir)?;
    let survey = deliver::survey(context).await;
    let what = "replace the authority";
    let authority = held_authority(&ca_dir, what, survey.as_ref())?;
    let config = context.config()?;
    check_trusted_here(&config, &authority, &ca_dir, what)?;
    let targets = every_site(&config, what, survey.as_ref())?;
    if args.finish {
        finish(context, &ca_dir, &authority, &targets).await
    } else {
        start(context, &ca_dir, authority, &targets).await
    }
}

/// All sites, each of which must be reached.
fn every_site(config: &Config, what: &str, survey: Option<&CertificatesAnswer>) -> anyhow::Result<Vec<Target>> {
    let Some(survey) = survey else {
        let why = format!("the control process of {} does not answer", config.site.name);
        return Err(Refusal::new("CFS-E103", what, why, "systemctl status claudefs-control").into());
    };
    let mut silent: Vec<&str> =
        survey.served.iter().filter(|served| !served.reached).map(|served| served.site.as_str()).collect();
    // One of its processes or both.
    silent.sort_unstable();
    silent.dedup();
    if let Some(site) = silent.first() {
        let why = format!("not every site is reached: {}; nothing was changed", silent.join(", "));
        return Err(Refusal::new("UNREACHABLE", what, why, format!("on {site}: cfs admin replication status")).into());
    }
    Ok(deliver::targets(config, Some(survey)))
}

async fn start(context: &Context, ca_dir: &Path, old: Authority, targets: &[Target]) -> anyhow::Result<ExitCode> {
    let (next_dir, previous) = (beside(ca_dir, "next"), beside(ca_dir, "previous"));
    if previous.exists() {
        let why = format!("{} exists: the last rotation is not finished", previous.display());
        return Err(Refusal::new("CFS-E121", "replace the authority", why, "cfs admin tls rotate-ca --finish").into());
    }
    let next = match next_dir.exists() {
        true => Authority::load(&next_dir)?,
        false => Authority::create(&next_dir, old.cluster(), SystemTime::now())?,
    };
    let authorities = renewal::joined(&[old.cert_pem(), next.cert_pem()])?;
    let trust = Trust { endorsement: old.endorse(&authorities)?, authorities };
    for target in targets {
        anstream::eprintln!("{} is told to trust both authorities", target.site);
        deliver::trust(context, &trust, &target.site).await?;
    }
    anstream::eprintln!("waiting {} s until every process does", deliver::RELOADED.as_secs());
    tokio::time::sleep(deliver::RELOADED).await;
    let config = context.config()?;
    let renewal = renew_all(context, &config, &next, &trust, targets, true, None).await?;
    output::print(context.format(), &renewal)?;
    if !renewal.is_whole() {
        renewal.advise();
        anstream::eprintln!(
            "both authorities are trusted\n  next: cfs admin tls rotate-ca, again, when all sites are well"
        );
        return Ok(ExitCode::FAILURE);
    }
    std::fs::rename(ca_dir, &previous).with_context(|| format!("{}", ca_dir.display()))?;
    resume_swap(ca_dir)?;
    anstream::eprintln!(
        "the new authority is in {ca}, the old one in {old}; both are trusted\n  next: make a copy of {ca} away from the sites; give \
         producers and operators elsewhere new certificates (`cfs admin tls issue`); then: cfs admin tls rotate-ca --finish",
        ca = ca_dir.display(),
        old = previous.display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// Puts the new authority in its place, if a crash came before that.
fn resume_swap(ca_dir: &Path) -> anyhow::Result<()> {
    let (next, previous) = (beside(ca_dir, "next"), beside(ca_dir, "previous"));
    if !ca_dir.exists() && next.exists() && previous.exists() {
        std::fs::rename(&next, ca_dir).with_context(|| format!("{}", next.display()))?;
    }
    Ok(())
}

async fn finish(
    context: &Context,
    ca_dir: &Path,
    authority: &Authority,
    targets: &[Target],
) -> anyhow::Result<ExitCode> {
    let previous = beside(ca_dir, "previous");
    if !previous.exists() {
        let why = format!("{} does not exist: no rotation is under way", previous.display());
        return Err(Refusal::new("CFS-E122", "stop trusting the old authority", why, "cfs admin tls status").into());
    }
    let authorities = authority.cert_pem().to_owned();
    let trust = Trust { endorsement: authority.endorse(&authorities)?, authorities };
    for target in targets {
        anstream::eprintln!("{} is told to trust the new authority alone", target.site);
        deliver::trust(context, &trust, &target.site).await?;
    }
    let retired = beside(ca_dir, &format!("retired-{}", cfs_rpc::survey::unix_s(SystemTime::now())));
    std::fs::rename(&previous, &retired).with_context(|| format!("{}", previous.display()))?;
    anstream::eprintln!(
        "the old authority is trusted by no site; its key is in {old}\n  next: cfs admin tls status; remove {old} once you are sure",
        old = retired.display()
    );
    Ok(ExitCode::SUCCESS)
}
