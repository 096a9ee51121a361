//! Makes a change: progress on standard error, the outcome on standard output.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cfs_model::Epoch;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{Done, Progress};
use serde::Serialize;

use super::ask::{Answer, Change, Event};
use super::refusal::Refusal;
use crate::output::{self, Document};
use crate::{Context, client};

/// After so long without news the operator is told that it is still waited for.
const SILENCE: Duration = Duration::from_millis(2500);

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// `failover`, `enroll`, `rejoin`, `remove` or `follow`.
    pub(super) change: &'static str,
    pub(super) text: String,
    /// It was so already: nothing was changed.
    pub(super) nothing_to_do: bool,
    pub(super) op: Option<u64>,
    pub(super) epoch: Option<u64>,
    /// Of a planned change of primary: between the last append that the old primary took and the first that the new one may.
    /// When an old primary that was not asked took its last one is not known.
    pub(super) write_gap_ms: Option<u64>,
    pub(super) answered_by: String,
    pub(super) unreachable: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) primary: Option<String>,
}

impl Outcome {
    pub(super) fn of(change: &'static str, answer: Answer<Done>) -> Self {
        let Done { text, op, epoch, write_gap_ms, nothing_to_do, .. } = answer.body;
        Self {
            change,
            text,
            nothing_to_do,
            op: (op != 0).then_some(op),
            epoch: (epoch != 0).then_some(epoch),
            write_gap_ms,
            answered_by: answer.by,
            unreachable: answer.unreachable,
            primary: None,
        }
    }
}

impl Document for Outcome {
    const SCHEMA: &'static str = "cfs.change/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.text)?;
        if let Some(primary) = &self.primary {
            writeln!(out, "Primary: {primary}")?;
        }
        if let Some(epoch) = self.epoch {
            writeln!(out, "Epoch: {}", Epoch(epoch))?;
        }
        if let Some(gap) = self.write_gap_ms {
            writeln!(out, "Write gap: {gap}ms")?;
        }
        if let Some(op) = self.op {
            writeln!(out, "Operation: {op}")?;
        }
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        writeln!(out, "Answered by: {}", self.answered_by)
    }
}

/// Makes a change and prints what came of it.
///
/// # Errors
/// [`Refusal`], or why the control process cannot be reached.
pub(super) async fn make(
    context: &Context,
    change: &'static str,
    action: &'static str,
    kind: Kind,
) -> anyhow::Result<ExitCode> {
    let answer = drive(context, action, kind, None).await?;
    output::print(context.format(), &Outcome::of(change, answer))?;
    Ok(ExitCode::SUCCESS)
}

/// Makes a change, telling how it goes on standard error until it is done. Interrupted, or after `limit`, it says how to
/// follow it: the change itself goes on.
///
/// # Errors
/// [`Refusal`], or why the control process cannot be reached.
pub(super) async fn drive(
    context: &Context,
    action: &'static str,
    kind: Kind,
    limit: Option<Duration>,
) -> anyhow::Result<Answer<Done>> {
    let client = client::control(context).await?;
    let mut waiting = Waiting { ends: limit.map(|limit| Instant::now() + limit), action };
    let mut change = waiting.for_news(0, Change::start(client, kind, action)).await??;
    loop {
        let op = change.op();
        match waiting.for_news(op, change.next()).await?? {
            Event::Progress(progress) => anstream::eprintln!("{}", line(&progress)),
            Event::Done(answer) => return Ok(answer),
        }
    }
}

/// Patience, and what to say when it ends.
struct Waiting {
    ends: Option<Instant>,
    action: &'static str,
}

impl Waiting {
    /// Waits for `news`, telling now and then that it does.
    async fn for_news<T>(&mut self, op: u64, news: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::pin!(news);
        let ends = self.ends;
        let ended = async {
            match ends {
                Some(ends) => tokio::time::sleep_until(ends.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                news = &mut news => return Ok(news),
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    return Err(self.left_alone("CFS-E112", "interrupted", op).into());
                }
                () = &mut ended => return Err(self.left_alone("CFS-E113", "it takes longer than it may", op).into()),
                () = tokio::time::sleep(SILENCE) => anstream::eprintln!("  ... no news from the control process yet"),
            }
        }
    }

    /// What to tell somebody who waits no longer.
    fn left_alone(&self, code: &str, why: &str, op: u64) -> Refusal {
        let (why, next) = match op {
            0 => (
                format!("{why}; the request to {} was sent, so it may still happen", self.action),
                "cfs admin replication history",
            ),
            _ => (why.to_owned(), ""),
        };
        Refusal { op, ..Refusal::new(code, format!("no longer waiting to {}", self.action), why, next) }
    }
}

/// `  12ms sealing: site-b`
fn line(progress: &Progress) -> String {
    let text = if progress.text.is_empty() { String::new() } else { format!(": {}", progress.text) };
    format!("  {:>6}ms {}{text}", progress.elapsed_ms, progress.phase)
}
