//! `cfs admin tls renew-certificates`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_config::Config;
use cfs_model::SiteName;
use cfs_rpc::ca::Authority;
use cfs_rpc::identity::Role;
use serde::Serialize;

use super::deliver::{self, Target, Trust};
use super::{authority_dir, check_trusted_here, held_authority, trusted_with};
use crate::Context;
use crate::output::{self, Document, Table};

/// Arguments of `cfs admin tls renew-certificates`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this site's
    #[arg(long, value_name = "SITE")]
    site: Option<SiteName>,
    /// Where the authority is [default: ca, beside the configuration]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Where to put certificates for sites that are not reached [default: renewal, beside the configuration]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// One role's new certificate.
#[derive(Debug, Serialize)]
pub(super) struct New {
    role: String,
    serial: String,
    /// `None`: its holders only connect, or the site runs no such process.
    served: Option<bool>,
}

/// What came of it for one site.
#[derive(Debug, Serialize)]
pub(super) struct Renewed {
    pub(super) site: String,
    /// `renewed`, `installed` (not served yet), `bundle` (to be installed by hand) or `failed`.
    pub(super) outcome: &'static str,
    certificates: Vec<New>,
    /// Where they are to be installed from; of a site that failed: what an earlier renewal left there.
    bundle: Option<PathBuf>,
    pub(super) why: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Renewal {
    pub(super) cluster: String,
    pub(super) sites: Vec<Renewed>,
}

impl Document for Renewal {
    const SCHEMA: &'static str = "cfs.tls-renewal/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&["SITE", "OUTCOME", "ROLE", "SERIAL", "SERVED", "BUNDLE"]);
        for site in &self.sites {
            let bundle = site.bundle.as_ref().map_or_else(|| "-".to_owned(), |dir| dir.display().to_string());
            for new in &site.certificates {
                let served = match new.served {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "by nobody",
                };
                table.row([
                    site.site.clone(),
                    site.outcome.to_owned(),
                    new.role.clone(),
                    new.serial.get(..16).unwrap_or(&new.serial).to_owned(),
                    served.to_owned(),
                    bundle.clone(),
                ]);
            }
            if site.certificates.is_empty() {
                let dash = || "-".to_owned();
                table.row([site.site.clone(), site.outcome.to_owned(), dash(), dash(), "no".to_owned(), bundle]);
            }
        }
        table.write(out)
    }
}

impl Renewal {
    /// Whether everything that is new, and that a process is to serve, is served.
    pub(super) fn is_whole(&self) -> bool {
        self.sites.iter().all(|site| site.outcome == "renewed")
    }

    /// Tells how to go on with what is not.
    pub(super) fn advise(&self) {
        for site in &self.sites {
            let name = &site.site;
            match (&site.bundle, site.outcome) {
                (Some(dir), "failed") => anstream::eprintln!(
                    "{name} was not reached: {why}\n  next: copy {dir} to {name} and run `cfs admin tls install DIR` there, if it still \
                     lasts; or remove it, and then: cfs admin tls renew-certificates --site {name}",
                    why = site.why,
                    dir = dir.display(),
                ),
                (Some(dir), _) => anstream::eprintln!(
                    "{name} was not reached: {why}\n  next: copy {dir} to {name}, run `cfs admin tls install DIR` there, and remove \
                     both copies: they hold keys",
                    why = site.why,
                    dir = dir.display(),
                ),
                (None, "failed") => anstream::eprintln!(
                    "{name} keeps its certificates: {why}\n  next: cfs admin tls renew-certificates --site {name}",
                    why = site.why,
                ),
                (None, "installed") => {
                    anstream::eprintln!(
                        "{name} does not serve all of them yet\n  next: on {name}: cfs admin tls status"
                    );
                }
                _ => {}
            }
        }
    }
}

/// Runs the command. Exits with 0 when every new certificate is served that a process is to serve, else with 1.
///
/// # Errors
/// When the authority's key is not here, this site does not trust it, or the site is unknown; then nothing was changed.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let ca_dir = authority_dir(context, args.ca_dir);
    let survey = deliver::survey(context).await;
    let authority = held_authority(&ca_dir, "renew certificates", survey.as_ref())?;
    check_trusted_here(&config, &authority, &ca_dir, "renew certificates")?;
    let mut targets = deliver::targets(&config, survey.as_ref());
    if let Some(site) = &args.site {
        targets.retain(|target| target.site == *site);
        anyhow::ensure!(
            !targets.is_empty(),
            "{site} is neither enrolled nor in the configuration: nothing was changed\n  next: cfs admin tls status shows the sites"
        );
    }
    let out = args.out.unwrap_or_else(|| context.config_path().with_file_name("renewal"));
    let trust = Trust { authorities: String::new(), endorsement: Vec::new() };
    let bundled = trusted_with(&ca_dir, &authority)?;
    let running = survey.is_some();
    let renewal = renew_all(context, &config, &authority, &trust, &targets, running, Some((&out, &bundled))).await?;
    output::print(context.format(), &renewal)?;
    renewal.advise();
    Ok(if renewal.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Renews one site after the other, and waits until what is new is served. Sites that are not reached get a bundle in the
/// directory given, which also says what to trust there. Whatever a site cannot have, the others are renewed.
pub(super) async fn renew_all(
    context: &Context,
    config: &Config,
    authority: &Authority,
    trust: &Trust,
    targets: &[Target],
    running: bool,
    bundles: Option<(&PathBuf, &str)>,
) -> anyhow::Result<Renewal> {
    let mut sites = Vec::new();
    let mut wanted = Vec::new();
    for target in targets {
        anstream::eprintln!("renewing the certificates of {}", target.site);
        let renewed = deliver::renew(context, config, authority, trust, target, running).await;
        let site = target.site.to_string();
        let (outcome, serials, bundle, why) = match (renewed, bundles) {
            (Ok(serials), _) => ("installed", serials, None, String::new()),
            (Err(error), Some((out, authorities))) if !target.here && is_unreached(&error, running) => {
                bundle_of(authority, authorities, target, out.join(&site), &error)
            }
            (Err(error), _) => ("failed", Vec::new(), None, format!("{error:#}")),
        };
        if outcome == "installed" {
            // Nobody serves what is for connecting only; a witness may have a shipper's.
            let served = serials.iter().filter(|(role, _)| target.roles.contains(role));
            wanted.extend(served.map(|(role, serial)| (target.site.clone(), *role, serial.clone())));
        }
        let new = |(role, serial): (Role, String)| {
            let served = target.roles.contains(&role).then_some(false);
            New { role: role.to_string(), serial, served }
        };
        let certificates = serials.into_iter().map(new).collect();
        sites.push(Renewed { site, outcome, certificates, bundle, why });
    }
    let known: Vec<_> = wanted.iter().map(|(site, role, _)| (site.clone(), *role)).collect();
    let missing = if running { deliver::until_served(context, wanted).await } else { known.clone() };
    for site in &mut sites {
        for new in &mut site.certificates {
            let same = |(name, role): &(SiteName, Role)| name.as_str() == site.site && role.as_str() == new.role;
            let served = known.iter().any(same) && !missing.iter().any(same);
            new.served = new.served.map(|_| served);
        }
        let all = missing.iter().all(|(name, _)| name.as_str() != site.site);
        if site.outcome == "installed" && all {
            site.outcome = "renewed";
        }
    }
    Ok(Renewal { cluster: authority.cluster().to_string(), sites })
}

/// What there is for a site that is not reached: outcome, serial numbers, the bundle, and why it came to that.
fn bundle_of(
    authority: &Authority,
    authorities: &str,
    target: &Target,
    dir: PathBuf,
    error: &anyhow::Error,
) -> (&'static str, Vec<(Role, String)>, Option<PathBuf>, String) {
    // What comes next is told with the bundle.
    let unreached = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
    match deliver::bundle(authority, authorities, target, &dir) {
        Ok(serials) => ("bundle", serials, Some(dir), unreached),
        Err(kept) => ("failed", Vec::new(), dir.exists().then_some(dir), format!("{unreached}; {kept:#}")),
    }
}

fn is_unreached(error: &anyhow::Error, running: bool) -> bool {
    let refusal = error.downcast_ref::<super::super::replication::refusal::Refusal>();
    !running || refusal.is_some_and(|refusal| matches!(&*refusal.code, "UNREACHABLE" | "CFS-E102"))
}
