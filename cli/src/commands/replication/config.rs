//! `cfs admin replication config`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{ConfigAnswer, ConfigRequest, Done, SettingChange, SettingStatus};
use serde::Serialize;

use super::ask::{self, Answer};
use super::change;
use super::gather::NEVER;
use crate::Context;
use crate::output::{self, Document};

/// A change is committed within this time, or it is said how to find out whether it was.
const LIMIT: Duration = Duration::from_secs(15);

/// Arguments of `cfs admin replication config`. Without any, the settings are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compression of new batches: none, lz4, zstd or zstd:LEVEL
    #[arg(long, value_name = "CODEC")]
    compression: Option<String>,
    /// Most entries in a batch
    #[arg(long, value_name = "ENTRIES", allow_negative_numbers = true)]
    batch_size: Option<String>,
    /// Longest time that a batch gathers entries while the disk is busy
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    batch_timeout_ms: Option<String>,
    /// Threads of each shipper; 0 is one for each core
    #[arg(long, value_name = "THREADS", allow_negative_numbers = true)]
    worker_threads: Option<String>,
    /// When an append is acknowledged: local or remote(K)
    #[arg(long, value_name = "WHERE")]
    durability: Option<String>,
    /// While too few sites confirm: block or degrade
    #[arg(long, value_name = "WHAT")]
    sync_fallback: Option<String>,
    /// How long journal segments that nobody needs are kept, as in 7d
    #[arg(long, value_name = "TIME")]
    journal_retention: Option<String>,
    /// Size that each site's journal is kept below, as in 4GiB
    #[arg(long, value_name = "SIZE")]
    journal_retention_bytes: Option<String>,
    /// How long records of the audit trail are kept, as in 30d
    #[arg(long, value_name = "TIME")]
    audit_retention: Option<String>,
    /// Size that each site's audit trail is kept below, as in 1GiB
    #[arg(long, value_name = "SIZE")]
    audit_retention_bytes: Option<String>,
    /// How long the primary may go on without hearing the leader
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    lease_ms: Option<String>,
    /// How long the primary's shipper may take to be restarted before another site takes over
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    restart_grace_ms: Option<String>,
    /// Whether a returning primary rejoins by itself: on or off
    #[arg(long, value_name = "SWITCH")]
    auto_rejoin: Option<String>,
    /// Whether another site takes over by itself when the primary is lost: on or off
    #[arg(long, value_name = "SWITCH")]
    auto_failover: Option<String>,
    /// What a site that is cut off does while active-active is on: fence or continue
    #[arg(long, value_name = "POLICY")]
    partition_policy: Option<String>,
    /// Whether every data site takes appends: on or off; given by itself
    #[arg(long, value_name = "SWITCH")]
    active_active_mode: Option<String>,
    /// Let each site's own value hold again; may be repeated
    #[arg(long, value_name = "SETTING")]
    reset: Vec<String>,
}

impl Args {
    fn request(self) -> ConfigRequest {
        let given = [
            ("compression", self.compression),
            ("batch_size", self.batch_size),
            ("batch_timeout_ms", self.batch_timeout_ms),
            ("worker_threads", self.worker_threads),
            ("durability", self.durability),
            ("sync_fallback", self.sync_fallback),
            ("journal_retention", self.journal_retention),
            ("journal_retention_bytes", self.journal_retention_bytes),
            ("audit_retention", self.audit_retention),
            ("audit_retention_bytes", self.audit_retention_bytes),
            ("lease_ms", self.lease_ms),
            ("restart_grace_ms", self.restart_grace_ms),
            ("auto_rejoin", self.auto_rejoin),
            ("auto_failover", self.auto_failover),
            ("partition_policy", self.partition_policy),
            ("active_active_mode", self.active_active_mode),
        ];
        let set = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let set: HashMap<String, String> = set.collect();
        let reset = self.reset.into_iter().map(|name| name.replace('-', "_")).collect();
        ConfigRequest { set, reset }
    }
}

/// Runs the command.
///
/// # Errors
/// When the control process refuses or cannot be reached.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let request = args.request();
    if request.set.is_empty() && request.reset.is_empty() {
        let answer = ask::query::<ConfigAnswer>(context, Kind::Config(request)).await?;
        output::print(context.format(), &Shown::of(answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = change::drive(context, "change the cluster's settings", Kind::Config(request), Some(LIMIT)).await?;
    output::print(context.format(), &Changed::of(answer))?;
    Ok(ExitCode::SUCCESS)
}

/// The settings in force at one site.
#[derive(Debug, Serialize)]
struct Shown {
    settings: Vec<Setting>,
    /// How often the cluster's settings were changed.
    version: u64,
    /// Since the site heard the leader; null: never.
    age_ms: Option<u64>,
    answered_by: String,
}

#[derive(Debug, Serialize)]
struct Setting {
    name: String,
    value: String,
    /// `default`, `file`, `env NAME`, `flag` or `cluster`.
    origin: String,
    /// A new value holds at once.
    live: bool,
    /// Another value is in force until the shipper of this site is restarted.
    waits_for_restart: bool,
    note: String,
    range: String,
    /// In the configuration file; null: none.
    key: Option<String>,
}

impl From<SettingStatus> for Setting {
    fn from(setting: SettingStatus) -> Self {
        let SettingStatus { name, value, origin, live, note, range, key, waiting } = setting;
        let key = Some(key).filter(|key| !key.is_empty());
        Self { name, value, origin, live, waits_for_restart: waiting, note, range, key }
    }
}

/// The settings in force at the site that answered.
pub(super) fn document(answer: Answer<ConfigAnswer>) -> impl Document + use<> {
    Shown::of(answer)
}

impl Shown {
    fn of(answer: Answer<ConfigAnswer>) -> Self {
        Self {
            settings: answer.body.settings.into_iter().map(Setting::from).collect(),
            version: answer.body.version,
            age_ms: (answer.body.age_ms != NEVER).then_some(answer.body.age_ms),
            answered_by: answer.by,
        }
    }
}

impl Document for Shown {
    const SCHEMA: &'static str = "cfs.replication-config/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let lines: Vec<String> = self.settings.iter().map(|s| format!("{} = {}", s.name, s.value)).collect();
        let wide = lines.iter().map(String::len).max().unwrap_or(0);
        let origins = self.settings.iter().map(|s| s.origin.len()).max().unwrap_or(0);
        for (line, setting) in lines.iter().zip(&self.settings) {
            writeln!(out, "{line:<wide$}  {:<origins$}  {}", setting.origin, setting.note)?;
        }
        Ok(())
    }
}

/// What was changed.
#[derive(Debug, Serialize)]
struct Changed {
    settings: Vec<Change>,
    /// It was so already.
    nothing_to_do: bool,
    answered_by: String,
    /// Sites that hear of it when they are back.
    unreachable: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    name: String,
    before: String,
    after: String,
    live: bool,
    note: String,
}

impl Changed {
    fn of(answer: Answer<Done>) -> Self {
        let settings = answer.body.settings.into_iter().map(|change| {
            let SettingChange { name, before, after, live, note } = change;
            Change { name, before, after, live, note }
        });
        Self {
            settings: settings.collect(),
            nothing_to_do: answer.body.nothing_to_do,
            answered_by: answer.by,
            unreachable: answer.unreachable,
        }
    }
}

impl Document for Changed {
    const SCHEMA: &'static str = "cfs.replication-config-change/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.nothing_to_do {
            writeln!(out, "Nothing was changed: it was so already")?;
        }
        for Change { name, before, after, note, .. } in &self.settings {
            writeln!(out, "{name} = {after} (was {before}): {note}")?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Not heard, and told when they are back: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}", self.answered_by)
    }
}
