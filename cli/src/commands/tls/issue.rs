//! `cfs admin tls issue`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cfs_model::SiteName;
use cfs_rpc::ca::certificate_file;
use cfs_rpc::identity::Role;
use serde::Serialize;

use super::{authority_dir, held_authority, issue_to, trusted_with};
use crate::Context;
use crate::output::{self, Document};

/// Arguments of `cfs admin tls issue`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site that the certificates are for
    #[arg(value_name = "SITE")]
    site: SiteName,
    /// What their holders may do: shipper, control, producer, operator [default: all]
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Role>,
    /// Where to put them: certificates, keys and the authority's certificate
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where the authority is [default: ca, beside the configuration]
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
}

/// What was issued.
#[derive(Debug, Serialize)]
struct Issued {
    site: String,
    cluster: String,
    dir: PathBuf,
    roles: Vec<&'static str>,
}

impl Document for Issued {
    const SCHEMA: &'static str = "cfs.tls-issue/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Cluster: {}", self.cluster)?;
        writeln!(out, "Certificates of {}: {} ({})", self.site, self.dir.display(), self.roles.join(", "))
    }
}

/// Runs the command. Blocks.
///
/// # Errors
/// When there is no authority, or the directory holds such a certificate already.
pub fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let ca_dir = authority_dir(context, args.ca_dir);
    let authority = held_authority(&ca_dir, "issue certificates", None)?;
    let authorities = trusted_with(&ca_dir, &authority)?;
    let roles = if args.roles.is_empty() { Role::ALL.to_vec() } else { args.roles };
    for role in &roles {
        let path = args.out.join(certificate_file(*role));
        anyhow::ensure!(!path.exists(), "{} exists: nothing was issued, choose another --out", path.display());
    }
    issue_to(&authority, &authorities, &args.site, &roles, &args.out)?;
    let issued = Issued {
        site: args.site.to_string(),
        cluster: authority.cluster().to_string(),
        dir: args.out,
        roles: roles.into_iter().map(Role::as_str).collect(),
    };
    output::print(context.format(), &issued)?;
    Ok(ExitCode::SUCCESS)
}
