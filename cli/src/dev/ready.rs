//! Waits until sites are ready, and governs them meanwhile.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cfs_rpc::v1::{GovernorState, StatusReply, StatusRequest};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::cluster::Cluster;
use super::govern;
use crate::client;

/// How long sites may take.
const LIMIT: Duration = Duration::from_secs(20);
/// A stream that cannot be continued for this long gets a new incarnation.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(40);
const CALL_LIMIT: Duration = Duration::from_secs(3);
const LOG_TAIL_LINES: usize = 12;
const LOG_TAIL_BYTES: usize = 16 * 1024;

/// Sites that did not become ready, each with a reason and the end of its log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// How a site became ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does all that it should.
    Full,
    /// It runs, but waits for sites that do not.
    Waits(String),
}

/// What is known of a site while it is waited for.
struct Progress {
    index: usize,
    channel: Option<Channel>,
    needs_since: Option<Instant>,
    why: String,
    ready: Option<Readiness>,
}

impl Cluster {
    /// Governs the sites with these indices until each is ready: the primary accepts appends, the others replicate, and
    /// every peer that runs is heard.
    ///
    /// # Errors
    /// After 20 s, or as soon as a process has ended: [`super::Error::NotReady`].
    pub async fn make_ready(&mut self, indices: &[usize]) -> Result<Vec<Readiness>, super::Error> {
        let new = |index: &usize| Progress {
            index: *index,
            channel: None,
            needs_since: None,
            why: "it did not answer yet".to_owned(),
            ready: None,
        };
        let mut all: Vec<Progress> = indices.iter().map(new).collect();
        let deadline = Instant::now() + LIMIT;
        loop {
            for progress in &mut all {
                // A site that was ready may wait again while others start: only all at once counts.
                progress.ready = match self.step(progress).await {
                    Ok(ready) => ready,
                    Err(Stop::Later(why)) => {
                        progress.why = why;
                        None
                    }
                    Err(Stop::Failed(error)) => return Err(error),
                };
            }
            let ready: Option<Vec<Readiness>> = all.iter().map(|progress| progress.ready.clone()).collect();
            if let Some(ready) = ready {
                return Ok(ready);
            }
            let ended = all.iter().any(|progress| !self.runs(progress.index));
            if ended || Instant::now() > deadline {
                return Err(self.not_ready(&all).into());
            }
            sleep(POLL).await;
        }
    }

    fn runs(&self, index: usize) -> bool {
        self.sites()[index].process.is_some_and(|process| process.is_alive())
    }

    /// One look at a site, and the directive that it needs.
    async fn step(&mut self, progress: &mut Progress) -> Result<Option<Readiness>, Stop> {
        if !self.runs(progress.index) {
            return Err(Stop::Later("its process ended".to_owned()));
        }
        let channel = match &progress.channel {
            Some(channel) => channel.clone(),
            None => progress.channel.insert(self.connect(progress.index).await?).clone(),
        };
        let mut state = limited(govern::state(&channel)).await?;
        if let Some(incarnation) = self.incarnation_needed(progress, &state)? {
            let (site, primary) = (&self.sites()[progress.index], &self.sites()[0]);
            state = limited(govern::hand_over(&channel, govern::directive(site, primary, incarnation))).await?;
        }
        let request = StatusRequest::default();
        let mut inspect = client::inspect_on(channel);
        let status = limited(inspect.status(request)).await?.into_inner();
        self.judge(progress, &state, &status)
    }

    /// The incarnation to hand over with a directive: `None` if no directive is needed, 0 to leave the stream as it is.
    fn incarnation_needed(&mut self, progress: &mut Progress, state: &GovernorState) -> Result<Option<u64>, Stop> {
        let index = progress.index;
        if state.needs_incarnation && state.incarnation != 0 {
            let since = *progress.needs_since.get_or_insert_with(Instant::now);
            if since.elapsed() < PATIENCE {
                return Ok(None);
            }
            progress.needs_since = None;
            return Ok(Some(self.allot_incarnation(index)?));
        }
        progress.needs_since = None;
        if govern::is_told(state, &self.sites()[index], &self.sites()[0]) {
            return Ok(None);
        }
        // A site without an incarnation is new, or its state was removed: what it had before is never allotted again.
        Ok(Some(if state.incarnation == 0 { self.allot_incarnation(index)? } else { 0 }))
    }

    fn judge(
        &self,
        progress: &Progress,
        state: &GovernorState,
        status: &StatusReply,
    ) -> Result<Option<Readiness>, Stop> {
        let absent: Vec<&str> = (0..self.sites().len())
            .filter(|index| !self.runs(*index))
            .map(|index| self.sites()[index].name.as_str())
            .collect();
        let unheard = status.peers.iter().find(|p| p.state != "HEALTHY" && !absent.contains(&p.site.as_str()));
        if let Some(peer) = unheard {
            return Err(Stop::Later(format!("{} is {} to it: {}", peer.site, peer.state, or_unsaid(&peer.why))));
        }
        let primary = progress.index == 0;
        if primary && !state.accepting {
            let why = format!("it does not accept appends, waiting for {}", or_unsaid(&state.waiting_for));
            // Until it says what it waits for, it has not come that far.
            return if absent.is_empty() || state.needs_incarnation || state.waiting_for.is_empty() {
                Err(Stop::Later(why))
            } else {
                Ok(Some(Readiness::Waits(why)))
            };
        }
        if status.status != "READY" {
            let why = format!("its status is {}: {}", status.status, or_unsaid(&status.why));
            // A full disk does not go away by waiting; the site runs and answers.
            let waits = !absent.is_empty() || status.status == "READ_ONLY";
            return if !waits { Err(Stop::Later(why)) } else { Ok(Some(Readiness::Waits(why))) };
        }
        Ok(Some(Readiness::Full))
    }

    async fn connect(&self, index: usize) -> Result<Channel, Stop> {
        let socket = self.socket(&self.sites()[index]);
        cfs_rpc::unix::connect(&socket).await.map_err(|error| Stop::Later(error.to_string()))
    }

    fn not_ready(&self, all: &[Progress]) -> Error {
        let mut text = String::new();
        for progress in all.iter().filter(|progress| progress.ready.is_none()) {
            let site = &self.sites()[progress.index];
            let log = self.log_path(site);
            // Writing to a string cannot fail.
            let _ = write!(text, "{} is not ready: {}\n  end of {}:", site.name, progress.why, log.display());
            for line in tail(&log) {
                let _ = write!(text, "\n  | {line}");
            }
            text.push('\n');
        }
        text.push_str("what runs was left running; `cfs dev status` shows it, `cfs dev down` ends it");
        Error(text)
    }
}

/// Why a step did not lead to a ready site.
enum Stop {
    /// It may pass.
    Later(String),
    /// It will not.
    Failed(super::Error),
}

impl From<super::Error> for Stop {
    fn from(error: super::Error) -> Self {
        Self::Failed(error)
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Stop> {
    match timeout(CALL_LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(Stop::Later(format!("it answered: {}", status.message()))),
        Err(_) => Err(Stop::Later(format!("it did not answer within {CALL_LIMIT:?}"))),
    }
}

fn or_unsaid(why: &str) -> &str {
    if why.is_empty() { "it does not say why" } else { why }
}

/// The last lines of a log.
fn tail(log: &Path) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
