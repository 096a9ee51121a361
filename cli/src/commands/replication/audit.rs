//! `cfs admin replication audit`.

use std::ops::ControlFlow;
use std::process::ExitCode;

use cfs_audit::caps::MAX_TAIL;
use cfs_audit::read::{Filter, Query, Reader};
use cfs_config::Config;
use cfs_rpc::v1::ReadAuditRequest;
use jiff::{Timestamp, Zoned};
use serde::Serialize;
use serde_json::Value;

use super::refusal::Refusal;
use crate::output::{Format, Row, Rows};
use crate::{Context, client, path_text};

pub(super) mod moment;
mod restore;
mod verify;

/// Arguments of `cfs admin replication audit`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

/// Verbs of `cfs admin replication audit`.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check that no record was removed, edited, cut off or dated anew; exits with 1 if one was
    Verify,
    /// Write the value of a lost write again, as a new entry; run it on the primary
    Restore(restore::Args),
}

/// Which records, and how.
#[derive(Debug, clap::Args)]
struct Show {
    /// Only records since then: "1 hour ago", 30m, a date, RFC 3339
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only records before then
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only records of this kind, as in conflict; if there is no such kind: records with this text
    #[arg(long, value_name = "KIND|TEXT")]
    filter: Option<String>,
    /// Only the newest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_TAIL as u64), allow_hyphen_values = true)]
    tail: Option<u64>,
    /// Go on with records as they come
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    /// Only the oldest
    #[arg(long, conflicts_with_all = ["tail", "follow"])]
    oldest: bool,
}

/// Runs the command.
///
/// # Errors
/// When a time cannot be read, or the trail cannot.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    if config.site.witness {
        let why = format!("{} is a witness: it stores nothing, and has no audit trail", config.site.name);
        let next = "run it on a site that stores data; see `cfs admin replication status`";
        return Err(Refusal::new("CFS-E140", "no audit trail", why, next).into());
    }
    match args.command {
        Some(Command::Verify) => verify::run(context, &config).await,
        Some(Command::Restore(args)) => restore::run(context, &config, args).await,
        None => show(context, &config, args.show).await,
    }
}

/// The shipper does not run, but its files are here.
fn read_from_files(config: &Config, why: &anyhow::Error) {
    anstream::eprintln!(
        "note: {}: the shipper does not run ({}); reading its files in {}",
        config.site.name,
        why.to_string().lines().next().unwrap_or_default(),
        config.audit_dir().display()
    );
}

async fn show(context: &Context, config: &Config, show: Show) -> anyhow::Result<ExitCode> {
    let now = Zoned::now();
    let time = |flag: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        moment::parse(text, &now).map(Some).map_err(|why| {
            let next = r#"write it as "1 hour ago", 30m, 2026-01-31, "2026-01-31 12:00" or 2026-01-31T12:00:00Z"#;
            let refusal = Refusal::new("CFS-E141", format!("{flag} {text:?} is not usable"), why, next);
            anyhow::Error::from(Refusal { usage: true, ..refusal })
        })
    };
    let (since, until) = (time("--since", &show.since)?, time("--until", &show.until)?);
    if let (Some(from), Some(to)) = (since, until)
        && to < from
    {
        let why = format!("{to} is before {from}: nothing lies between");
        let refusal = Refusal::new("CFS-E141", "--until is before --since", why, "exchange the two");
        return Err(Refusal { usage: true, ..refusal }.into());
    }
    let mut rows = Rows::to_stdout(match context.chosen_format() {
        None => Format::Jsonl,
        Some(format) => format,
    });
    match client::inspect(context).await {
        Ok(mut inspect) => {
            let ms = |time: Option<Timestamp>| time.map_or(0, |time| time.as_millisecond().max(1));
            let request = ReadAuditRequest {
                since_ms: ms(since),
                until_ms: ms(until),
                filter: show.filter.unwrap_or_default(),
                tail: show.tail.unwrap_or(0),
                oldest: show.oldest,
                follow: show.follow,
            };
            let failed = || client::failed("read the audit trail");
            let mut replies = inspect.read_audit(request).await.map_err(failed())?.into_inner();
            while let Some(reply) = replies.message().await.map_err(failed())? {
                for line in reply.lines {
                    push(&mut rows, &line)?;
                }
                if show.follow {
                    rows.flush()?;
                }
            }
        }
        Err(why) if show.follow => return Err(why),
        Err(why) => {
            read_from_files(config, &why);
            let filter = show.filter.as_deref().map(Filter::parse);
            let tail = show.tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX));
            let query = Query { since, until, filter, tail, oldest: show.oldest };
            let mut outcome = Ok(());
            let read = Reader::new(config.audit_dir().to_owned(), query).read(&mut |line| {
                outcome = push(&mut rows, line);
                if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            outcome?;
            read.map_err(|error| unreadable(config, &error))?;
        }
    }
    rows.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The files of a site whose shipper does not run cannot be read.
fn unreadable(config: &Config, error: &std::io::Error) -> Refusal {
    let what = format!("the files of the audit trail in {} cannot be read", config.audit_dir().display());
    let next = "run it as root (sudo), or start the shipper: systemctl start claudefs-shipper";
    Refusal::new("CFS-E142", what, error.to_string(), next)
}

fn push(rows: &mut Rows, line: &[u8]) -> anyhow::Result<()> {
    Ok(rows.push(&Shown(serde_json::from_slice(line)?))?)
}

/// A record as it stands in the trail.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Shown(serde_json::Map<String, Value>);

impl Shown {
    fn text(&self, key: &str) -> String {
        match self.0.get(key) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => path_text::for_terminal(text.as_bytes()),
            Some(other) => other.to_string(),
        }
    }
}

impl Row for Shown {
    const SCHEMA: &'static str = "cfs.audit/1";

    fn heading() -> String {
        format!("{:24} {:8} {:12} {:10} {:>20} EVENT  WHAT", "TIME", "SEVERITY", "KIND", "SITE", "INODE")
    }

    fn line(&self) -> String {
        format!(
            "{:24} {:8} {:12} {:10} {:>20} {}  {}",
            self.text("time"),
            self.text("severity"),
            self.text("kind"),
            self.text("site"),
            self.text("inode_id"),
            self.text("event"),
            self.text("text"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_on_one_line() {
        let json = r#"{"seq":1,"time":"2026-01-01T00:00:00Z","severity":"CONFLICT","kind":"conflict","site":"site-a","inode_id":18446744073709551615,"event":"lost-1","text":"a\nb"}"#;
        let shown = Shown(serde_json::from_str(json).expect("JSON"));
        let line = shown.line();
        assert!(!line.contains('\n') && line.contains("18446744073709551615") && line.contains("lost-1"), "{line}");
        assert!(serde_json::to_string(&shown).expect("JSON").contains(r#""inode_id":18446744073709551615"#));
    }
}
