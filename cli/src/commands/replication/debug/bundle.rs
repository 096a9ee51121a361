//! `cfs admin replication debug bundle`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use cfs_config::Config;
use cfs_rpc::clock::{Clock, RealClock};
use jiff::{Timestamp, Zoned};
use serde::Serialize;

use crate::Context;
use crate::commands::config::show;
use crate::commands::replication::audit::moment;
use crate::commands::replication::gather::Configured;
use crate::commands::replication::journal_status::size_text;
use crate::commands::replication::operator;
use crate::commands::replication::refusal::Refusal;
use crate::output::{self, Document, Format, write_document};

mod archive;
mod gather;
mod logs;
mod machine;
mod raft;
mod redact;
mod site;

use archive::{Content, Entry};
use site::Known;

/// Arguments of `cfs admin replication debug bundle`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write it: a new file, or a directory; otherwise a file in the current directory
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How far back logs go: 30m, "1 hour ago", a date, RFC 3339
    #[arg(long, value_name = "TIME", default_value = "1h")]
    since: String,
}

/// What could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Missing {
    /// A file of the bundle, or a part of a site.
    part: String,
    why: String,
}

/// How a site was asked.
#[derive(Debug, Clone, Serialize)]
struct Asked {
    site: String,
    /// `control`, `shipper`, `files`; null: nothing was had.
    answered_by: Option<&'static str>,
    /// What it runs.
    version: Option<String>,
}

/// `manifest.json`: what the bundle is.
#[derive(Debug, Serialize)]
struct Manifest {
    schema: &'static str,
    /// Of this program.
    version: &'static str,
    command_line: Vec<String>,
    operator: String,
    site: String,
    cluster: String,
    configuration: PathBuf,
    made_at: Timestamp,
    took_ms: u64,
    logs_since: Timestamp,
    sites: Vec<Asked>,
    missing: Vec<Missing>,
    /// Secrets that were replaced.
    redacted: u64,
    files: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    bytes: usize,
}

const MANIFEST: &str = "cfs.debug-bundle-manifest/1";

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    file: PathBuf,
    bytes: u64,
    files: usize,
    sites: Vec<Asked>,
    missing: Vec<Missing>,
    redacted: u64,
    took_ms: u64,
}

/// Runs the command. Whatever cannot be had is listed as missing, and is no error.
///
/// # Errors
/// When the configuration cannot be used, or the archive cannot be written.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let (config, began, now) = (context.config()?, Instant::now(), Zoned::now());
    let since = moment::parse(&args.since, &now).map_err(|why| {
        let next = r#"write it as 30m, "1 hour ago", 2026-01-31 or 2026-01-31T12:00:00Z"#;
        Refusal {
            usage: true,
            ..Refusal::new("CFS-E141", format!("--since {:?} is not usable", args.since), why, next)
        }
    })?;
    let name = name_of(&config, now.timestamp());
    let file = place(args.file, &name);
    let mut content = Content::default();
    let mut missing = Vec::new();
    let note = |missing: &mut Vec<Missing>, found: Vec<(String, String)>| {
        missing.extend(found.into_iter().map(|(part, why)| Missing { part, why }));
    };
    let sites = gather::sites(context, &config).await;
    let configured: Vec<Configured> = config.peers.iter().map(Configured::of).collect();
    for known in &sites {
        known.write(&configured, &mut content)?;
        let of_site = known.missing.iter();
        missing
            .extend(of_site.map(|m| Missing { part: format!("sites/{}/{}", known.site, m.part), why: m.why.clone() }));
    }
    note(&mut missing, configuration(&config, &mut content).await);
    note(&mut missing, logs::take(&config, since, &mut content).await);
    note(&mut missing, machine::take(&config, &pids(&sites), &mut content).await);
    let asked: Vec<Asked> = sites.iter().map(Asked::of).collect();
    let command_line = content.redactor().words(std::env::args());
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let manifest = Manifest {
        schema: MANIFEST,
        version: env!("CARGO_PKG_VERSION"),
        command_line,
        operator: operator::name(),
        site: config.site.name.to_string(),
        cluster: config.cluster.id.to_string(),
        configuration: config.file.clone(),
        made_at: now.timestamp(),
        took_ms,
        logs_since: since,
        sites: asked.clone(),
        missing: missing.clone(),
        redacted: content.redactor().count(),
        files: content.entries().iter().map(|e| Listed { name: e.name.clone(), bytes: e.text.len() }).collect(),
    };
    let made = Made {
        bytes: 0,
        files: content.entries().len() + 1,
        sites: asked,
        missing,
        redacted: manifest.redacted,
        took_ms,
        file,
    };
    // What stands in it came through other files, or from here.
    let text = content.redactor().text(&serde_json::to_string_pretty(&manifest)?);
    let first = Entry { name: "manifest.json".into(), text };
    let (path, at_s) = (made.file.clone(), u64::try_from(now.timestamp().as_second()).unwrap_or_default());
    let written = tokio::task::spawn_blocking(move || archive::write(&path, &name, &first, &content, at_s));
    output::print(context.format(), &Made { bytes: written.await??, ..made })?;
    Ok(ExitCode::SUCCESS)
}

impl Asked {
    fn of(known: &Known) -> Self {
        let of_control = known.status.as_ref().map(|status| status.version.clone());
        let version = of_control.or_else(|| known.shipper.as_ref().map(|shipper| shipper.version.clone()));
        Self {
            site: known.site.clone(),
            answered_by: Some(known.by).filter(|by| !by.is_empty()),
            version: version.filter(|version| !version.is_empty()),
        }
    }
}

/// The folder in the archive, and the archive's name without its ending.
fn name_of(config: &Config, now: Timestamp) -> String {
    let cluster = config.cluster.id.to_string();
    let cluster = cluster.split('-').next().unwrap_or_default();
    format!("claudefs-debug-{cluster}-{}-{}", config.site.name, now.strftime("%Y%m%dT%H%M%SZ"))
}

fn place(wanted: Option<PathBuf>, name: &str) -> PathBuf {
    let file = format!("{name}.tar.zst");
    match wanted {
        None => PathBuf::from(file),
        Some(path) if path.is_dir() => path.join(file),
        Some(path) => path,
    }
}

/// The site's configuration as in force with the origin of each value, the file, and its certificates without their keys.
async fn configuration(config: &Config, content: &mut Content) -> Vec<(String, String)> {
    let mut missing = Vec::new();
    let mut settings = show::Settings::of(config);
    settings.hide(redact::is_secret_name);
    for (format, ending) in [(Format::Json, "json"), (Format::Table, "txt")] {
        let mut out = Vec::new();
        // Memory does not fail.
        let _ = write_document(&mut out, format, &settings);
        content.add(format!("configuration/in-force.{ending}"), &String::from_utf8_lossy(&out));
    }
    let (file, tls) = (config.file.clone(), config.tls_dir().to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        (std::fs::read_to_string(&file), certificates(&tls, &clock))
    });
    match read.await {
        Ok((file, certificates)) => {
            match file {
                Ok(text) => content.add("configuration/repl.toml", &text),
                Err(error) => missing.push(("configuration/repl.toml".to_owned(), error.to_string())),
            }
            content.add("configuration/certificates.txt", &certificates);
        }
        Err(error) => missing.push(("configuration".to_owned(), error.to_string())),
    }
    missing
}

/// Who the certificates are for and how long they last; never what is in a file. Blocks.
fn certificates(dir: &Path, clock: &Arc<dyn Clock>) -> String {
    let time = |s: i64| Timestamp::from_second(s).map_or_else(|_| s.to_string(), |time| time.to_string());
    let line = |file: cfs_rpc::v1::CertificateFile| match (file.absent, file.error.is_empty()) {
        (true, _) => format!("{} {}: not there\n", file.role, file.path),
        (_, false) => format!("{} {}: {}\n", file.role, file.path, file.error),
        _ => format!(
            "{} {}: serial {}, from {} to {}, {}\n",
            file.role,
            file.path,
            file.serial,
            time(file.not_before),
            time(file.not_after),
            file.holder
        ),
    };
    cfs_rpc::survey::files(dir, clock).into_iter().map(line).collect()
}

/// This site's processes, as far as they told who they are.
fn pids(sites: &[Known]) -> Vec<(String, u32)> {
    let Some(here) = sites.first() else { return Vec::new() };
    let control = here.status.as_ref().and_then(|status| status.process.as_ref());
    let shipper = here.shipper.as_ref().and_then(|shipper| shipper.process.as_ref());
    let named = [("cfs-control", control), ("cfs-shipper", shipper)];
    named
        .into_iter()
        .filter_map(|(name, process)| Some((name.to_owned(), process?.pid)))
        .filter(|(_, pid)| *pid > 0)
        .collect()
}

impl Document for Made {
    const SCHEMA: &'static str = "cfs.debug-bundle/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = size_text(self.bytes);
        writeln!(out, "Bundle: {} ({size}, {} files, mode 0600)", self.file.display(), self.files)?;
        for asked in &self.sites {
            let by = match asked.answered_by {
                Some("control") => "asked".to_owned(),
                Some("shipper") => "only its shipper answered".to_owned(),
                Some(_) => "neither process answered; its files were read".to_owned(),
                None => "NOT REACHED".to_owned(),
            };
            writeln!(out, "Site: {} {by}", asked.site)?;
        }
        for Missing { part, why } in &self.missing {
            writeln!(out, "Missing: {part}: {why}")?;
        }
        writeln!(
            out,
            "Redacted: {} secrets; read it through before you hand it on: it names sites, addresses and paths",
            self.redacted
        )?;
        writeln!(out, "Look into it: tar --zstd -xf {}", self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_after_cluster_site_and_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("repl.toml");
        let text = "[site]\nname = \"site-a\"\nid = 1\n[cluster]\nid = \"00010203-0405-0607-0809-0a0b0c0d0eff\"\n";
        std::fs::write(&file, text).expect("written");
        let config = Config::load_with(Some(&file), &[], []).expect("it reads");
        let now: Timestamp = "2026-11-30T18:38:46.5Z".parse().expect("a time");
        let name = name_of(&config, now);
        assert_eq!(name, "claudefs-debug-00010203-site-a-20261130T183846Z");
        assert_eq!(place(None, &name), Path::new("claudefs-debug-00010203-site-a-20261130T183846Z.tar.zst"));
        assert_eq!(place(Some(dir.path().to_owned()), "n"), dir.path().join("n.tar.zst"));
        assert_eq!(place(Some(dir.path().join("x")), "n"), dir.path().join("x"));
    }

    #[test]
    fn whoever_reads_the_output_learns_what_is_missing() {
        let asked = |site: &str, answered_by| Asked { site: site.into(), answered_by, version: None };
        let made = Made {
            file: "x.tar.zst".into(),
            bytes: 2048,
            files: 3,
            sites: vec![asked("site-a", Some("control")), asked("site-b", None)],
            missing: vec![Missing { part: "sites/site-b/everything".into(), why: "it does not answer".into() }],
            redacted: 1,
            took_ms: 5,
        };
        let mut out = Vec::new();
        write_document(&mut out, Format::Table, &made).expect("memory does not fail");
        let text = String::from_utf8(out).expect("text");
        for line in [
            "Bundle: x.tar.zst (2.0 KiB, 3 files, mode 0600)",
            "Site: site-a asked",
            "Site: site-b NOT REACHED",
            "Missing: sites/site-b/everything: it does not answer",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
