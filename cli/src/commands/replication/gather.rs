//! What both processes of this site say, whichever of them runs.

use std::time::Duration;

use anyhow::anyhow;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{StatusAnswer, StatusQuery, StatusReply};

use super::ask::{self, Answer};
use super::{certificates, watch};
use crate::Context;

/// Unit of the control process.
pub(super) const CONTROL_UNIT: &str = "claudefs-control";
/// Unit of the shipper.
pub(super) const SHIPPER_UNIT: &str = "claudefs-shipper";
/// Both, where a whole site is to be started.
pub(super) const SITE_UNIT: &str = "claudefs-repl";
/// Data older than this is no evidence of the present: heartbeats come every second.
pub(super) const FRESH_MS: u64 = 5_000;
/// Control processes report several times a second: what was told so recently is the present.
pub(super) const NOW_MS: u64 = 1_500;
/// "Never", where an age is told.
pub(super) const NEVER: u64 = u64::MAX;
/// What an error about a socket asks; here it is answered already.
const QUESTION: &str = ": is the process that serves it running?";
/// A shipper that is asked itself, for a status or figures, answers within this.
const SHIPPER_DEADLINE: Duration = Duration::from_millis(2500);

/// What is known here and now. At least one of the two answered.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    /// The control process's answer.
    pub(super) control: Option<Answer<StatusAnswer>>,
    /// Why there is none.
    pub(super) control_error: String,
    /// The shipper's own word, through the control process or directly.
    pub(super) shipper: Option<StatusReply>,
    /// Why there is none.
    pub(super) shipper_error: String,
    /// Other sites of the configuration.
    pub(super) configured: Vec<Configured>,
    /// Why this site's own certificates are of no use to others.
    pub(super) useless_certificates: Vec<String>,
}

/// Another site, as the configuration has it.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    /// Its name.
    pub(super) site: String,
    /// Its shipper's host and port; empty for a witness.
    pub(super) peer: String,
    /// It only votes.
    pub(super) witness: bool,
}

impl Configured {
    pub(super) fn of(peer: &cfs_config::Peer) -> Self {
        Self { site: peer.name.to_string(), peer: peer.peer.clone(), witness: peer.witness }
    }
}

/// What brings a unit back that does not answer, by what is known of it: one that runs and hangs is not started.
pub(super) fn bring_back(unit: &str, why: &str) -> String {
    match hangs(why) {
        true => format!("systemctl status {unit}; if it runs and hangs: systemctl restart {unit}"),
        false => format!("systemctl start {unit}"),
    }
}

/// Whether something took what was asked and gave no answer: every limit says so in these words.
pub(super) fn hangs(why: &str) -> bool {
    why.contains("answer within")
}

/// Asks both at the same time. Returns within three seconds.
///
/// # Errors
/// When the configuration cannot be read, or neither answers: names both units.
pub(super) async fn gather(context: &Context, all_sites: bool) -> anyhow::Result<Gathered> {
    let config = context.config()?;
    let direct = tokio::spawn({
        let context = context.clone();
        async move { in_time(watch::shipper_status(&context)).await }
    });
    let control = ask::query::<StatusAnswer>(context, Kind::Status(StatusQuery { all_sites })).await;
    let told = control.as_ref().ok().and_then(|answer| answer.body.shipper.clone());
    let witness = control.as_ref().is_ok_and(|answer| is_witness(&answer.body));
    let direct = match told {
        Some(told) => Ok(told),
        None if witness => Err(anyhow!("a witness has no shipper")),
        None => direct.await.unwrap_or_else(|error| Err(error.into())),
    };
    if let (Err(control), Err(shipper)) = (&control, &direct) {
        return Err(neither(context, &config, &format!("{control:#}"), &format!("{shipper:#}")));
    }
    let text = |error: Option<&anyhow::Error>| {
        error.map(|e| first_line(&format!("{e:#}")).replace(QUESTION, "")).unwrap_or_default()
    };
    let useless_certificates = match &control {
        Ok(answer) => answer.body.useless_certificates.clone(),
        Err(_) => certificates::useless(&config, direct.is_ok()).await,
    };
    Ok(Gathered {
        useless_certificates,
        control_error: text(control.as_ref().err()),
        shipper_error: text(direct.as_ref().err()),
        control: control.ok(),
        shipper: direct.ok(),
        configured: config.peers.iter().map(Configured::of).collect(),
    })
}

/// Whether the site that answers stores nothing and only votes.
pub(super) fn is_witness(answer: &StatusAnswer) -> bool {
    answer.here.as_ref().is_some_and(|here| here.witness)
}

/// What the shipper says when it is `asked`, unless it hangs.
///
/// # Errors
/// Those of `asked`, or that it took too long.
pub(super) async fn in_time<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let slow = || {
        let why = format!("the shipper did not answer within {:.1} s", SHIPPER_DEADLINE.as_secs_f64());
        anyhow!("{why}\n  next: {}", bring_back(SHIPPER_UNIT, &why))
    };
    tokio::time::timeout(SHIPPER_DEADLINE, asked).await.unwrap_or_else(|_| Err(slow()))
}

fn neither(context: &Context, config: &cfs_config::Config, control: &str, shipper: &str) -> anyhow::Error {
    if config.site.witness {
        return anyhow!(
            "the control process of the witness {} does not answer\n  {CONTROL_UNIT}, on {}: {}\n  \
             next: `{}`, or `cfs dev start` in a cluster made by `cfs dev up`; `--config` chooses the site, here {}",
            config.site.name,
            config.control_socket().display(),
            cause(control),
            bring_back(CONTROL_UNIT, control),
            context.config_path().display()
        );
    }
    anyhow!(
        "neither process of {} answers\n  {CONTROL_UNIT}, on {}: {}\n  {SHIPPER_UNIT}, on {}: {}\n  \
         next: `{}`, or `cfs dev start` (`cfs dev resume`, if it is paused) in a cluster made by `cfs dev up`; `--config` \
         chooses the site, here {}",
        config.site.name,
        config.control_socket().display(),
        cause(control),
        config.shipper_socket().display(),
        cause(shipper),
        bring_back(&format!("{CONTROL_UNIT} {SHIPPER_UNIT}"), if hangs(control) { control } else { shipper }),
        context.config_path().display()
    )
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// What a process's silence is due to, without what is said beside it anyway.
fn cause(error: &str) -> String {
    let line = first_line(error);
    match line.split_once(&format!("{QUESTION} (")) {
        Some((_, cause)) => cause.strip_suffix(')').unwrap_or(cause).to_owned(),
        None => line,
    }
}
