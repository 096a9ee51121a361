//! `cfs admin replication audit verify`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use cfs_audit::{Problem, Report};
use cfs_config::Config;
use cfs_rpc::v1::{VerifyAuditReply, VerifyAuditRequest};
use serde::Serialize;

use super::{read_from_files, unreadable};
use crate::output::{self, Document, good_or_bad};
use crate::{Context, client};

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    site: String,
    sound: bool,
    /// Whether the shipper answered; otherwise the files alone were looked at.
    live: bool,
    #[serde(flatten)]
    report: Report,
    /// Sites whose checkpoints could not be compared.
    unreachable: Vec<String>,
}

/// Runs the command; exits with 1 if something is wrong.
pub(super) async fn run(context: &Context, config: &Config) -> anyhow::Result<ExitCode> {
    let site = config.site.name.to_string();
    let verdict = match client::inspect(context).await {
        Ok(mut inspect) => {
            let reply = inspect.verify_audit(VerifyAuditRequest {}).await;
            of(reply.map_err(client::failed("verify the audit trail"))?.into_inner())
        }
        Err(why) => {
            read_from_files(config, &why);
            let report = cfs_audit::verify(config.audit_dir(), &BTreeMap::new(), None);
            let mut report = report.map_err(|error| unreadable(config, &error))?;
            report.notes.push("checkpoints that other sites hold were not compared: start the shipper for that".into());
            let unreachable = config.data_peers().map(|peer| peer.name.to_string()).collect();
            Verdict { site, sound: report.is_sound(), live: false, report, unreachable }
        }
    };
    output::print(context.format(), &verdict)?;
    Ok(if verdict.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn of(reply: VerifyAuditReply) -> Verdict {
    let report = Report {
        trail: reply.trail,
        key: reply.key,
        records: reply.records,
        first: reply.first,
        last: reply.last,
        own_checkpoints: reply.own_checkpoints,
        held: reply.held.into_iter().map(|held| (held.site, held.checkpoints)).collect(),
        problems: reply
            .problems
            .into_iter()
            .map(|p| Problem { what: p.what, seq: p.seq, file: p.file, text: p.text })
            .collect(),
        more_problems: reply.more_problems,
        notes: reply.notes,
    };
    Verdict { site: reply.site, sound: report.is_sound(), live: true, report, unreachable: reply.unreachable }
}

impl Document for Verdict {
    const SCHEMA: &'static str = "cfs.audit-verify/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let r = &self.report;
        writeln!(out, "Trail: {} of {}", r.trail, self.site)?;
        writeln!(out, "Records: {} ({} to {})", r.records, r.first, r.last)?;
        let held: Vec<String> = r.held.iter().map(|(site, count)| format!("{count} held by {site}")).collect();
        let held = if held.is_empty() { String::new() } else { format!(", {}", held.join(", ")) };
        writeln!(out, "Checkpoints: {} own{held}", r.own_checkpoints)?;
        if !self.unreachable.is_empty() {
            writeln!(out, "Not compared with: {}", self.unreachable.join(", "))?;
        }
        for note in &r.notes {
            writeln!(out, "Note: {note}")?;
        }
        for problem in &r.problems {
            let file = if problem.file.is_empty() { String::new() } else { format!(" [{}]", problem.file) };
            writeln!(out, "PROBLEM {}: {}{file}", problem.what, problem.text)?;
        }
        if r.more_problems > 0 {
            writeln!(out, "and {} more problems", r.more_problems)?;
        }
        writeln!(
            out,
            "RESULT: {}",
            if self.sound { good_or_bad("SOUND", true) } else { good_or_bad("TAMPERED OR DAMAGED", false) }
        )
    }
}
