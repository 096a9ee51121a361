//! Waits until sites are ready, and enrols those that are new.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cfs_rpc::v1::{SiteStatus, StatusAnswer, StatusReply, StatusRequest};
use tokio::time::{sleep, timeout};

use super::admin;
use super::cluster::Cluster;
use super::record::{Part, Site};
use crate::client;

/// How long sites may take, after the last one that was enrolled.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a site is given although it waits for something that does not run.
const PATIENCE: Duration = Duration::from_secs(3);
/// After this long it is said what is waited for.
const NOTICE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
const CALL_LIMIT: Duration = Duration::from_secs(3);
const LOG_TAIL_LINES: usize = 12;
const LOG_TAIL_BYTES: usize = 16 * 1024;

/// Sites that did not become ready, each with a reason and the end of its logs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// How a site became ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does all that it should.
    Full,
    /// It runs, but waits.
    Waits(String),
}

/// What a site looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    Ready,
    /// It does all that can be had without somebody's help, as on a full disk.
    Limited(String),
    /// All of it answers, and says what it waits for.
    Waits(String),
    /// Something does not answer.
    Silent(String),
    /// Something that was started has ended.
    Ended(String),
}

impl Look {
    fn why(&self) -> &str {
        match self {
            Self::Ready => "",
            Self::Limited(why) | Self::Waits(why) | Self::Silent(why) | Self::Ended(why) => why,
        }
    }

    fn readiness(&self) -> Option<Readiness> {
        match self {
            Self::Ready => Some(Readiness::Full),
            Self::Limited(why) | Self::Waits(why) => Some(Readiness::Waits(why.clone())),
            Self::Silent(_) | Self::Ended(_) => None,
        }
    }

    /// What a site looks like whose two processes look so.
    fn of_both(control: Self, shipper: Self) -> Self {
        match (control, shipper) {
            (_, shipper @ (Self::Silent(_) | Self::Limited(_))) | (Self::Ready, shipper) => shipper,
            (control, _) => control,
        }
    }

    const fn is_settled(&self) -> bool {
        matches!(self, Self::Ready | Self::Limited(_))
    }
}

impl Cluster {
    /// Enrols sites with these indices that are new, and waits until each is ready: its processes answer, its control
    /// process knows a leader, its shipper is READY and hears every peer that runs. If these are all sites, one must be the
    /// primary and accept appends. If they are not, a site that answers may wait for something: for what it says, at once
    /// when other sites do not run or links have faults, otherwise after 20 s.
    ///
    /// # Errors
    /// After 20 s, or as soon as a process has ended: [`super::Error::NotReady`].
    pub async fn make_ready(&mut self, indices: &[usize]) -> Result<Vec<Readiness>, super::Error> {
        let all = indices.len() == self.sites().len();
        let mut deadline = Instant::now() + LIMIT;
        let (began, mut told) = (Instant::now(), false);
        let mut answers_since = None;
        loop {
            self.refresh()?;
            let trouble = self.enrol_new(indices, &mut deadline).await?;
            let (mut looks, mut primary) = (Vec::new(), false);
            for index in indices {
                let (look, is_primary) = self.look_at(*index).await;
                primary |= is_primary;
                looks.push(match &trouble {
                    Some((at, why)) if at == index && look != Look::Ready => {
                        Look::Silent(format!("not enrolled: {why}"))
                    }
                    _ => look,
                });
            }
            let settled = looks.iter().all(Look::is_settled) && trouble.is_none() && (primary || !all);
            let answers = looks.iter().all(|look| look.readiness().is_some());
            let since = *answers_since.get_or_insert_with(Instant::now);
            if !answers {
                answers_since = None;
            }
            let late = Instant::now() > deadline;
            let excused = late || (since.elapsed() > PATIENCE && self.lacks_something());
            if settled || (!all && answers && excused) {
                return Ok(looks.iter().filter_map(Look::readiness).collect());
            }
            if !told && began.elapsed() > NOTICE {
                told = true;
                for (index, look) in indices.iter().zip(&looks).filter(|(_, look)| !look.is_settled()) {
                    anstream::eprintln!("waiting for {}: {}", self.sites()[*index].name, look.why());
                }
            }
            if late || looks.iter().any(|look| matches!(look, Look::Ended(_))) {
                return Err(self.not_ready(indices, &looks).into());
            }
            sleep(POLL).await;
        }
    }

    /// Enrols the sites among these that are new, one after the other. Returns the first that could not be, and why.
    async fn enrol_new(
        &mut self,
        indices: &[usize],
        deadline: &mut Instant,
    ) -> Result<Option<(usize, String)>, super::Error> {
        for index in indices {
            if self.record.by_hand || self.sites()[*index].enrolled {
                continue;
            }
            if let Err(error) = self.enrol(*index, *deadline).await {
                return Ok(Some((*index, error.to_string())));
            }
            self.record.sites[*index].enrolled = true;
            self.save()?;
            *deadline = Instant::now() + LIMIT;
        }
        Ok(None)
    }

    async fn enrol(&self, index: usize, deadline: Instant) -> Result<(), admin::Error> {
        let (site, first) = (&self.sites()[index], &self.sites()[0]);
        let limit = deadline.saturating_duration_since(Instant::now()).max(CALL_LIMIT);
        admin::enroll(&self.control_socket(site), first.name.as_str(), site.witness, limit).await
    }

    /// Whether something does not run or a link has a fault, so that a site may wait for good.
    fn lacks_something(&self) -> bool {
        let faults = self.faults().is_ok_and(|faults| !faults.rules().is_empty());
        faults || self.sites().iter().any(|site| !site.is_up())
    }

    /// One look at a site; whether it is the primary and can be used.
    async fn look_at(&self, index: usize) -> (Look, bool) {
        let site = &self.sites()[index];
        for part in site.parts() {
            if site.process(*part).is_some_and(|process| !process.is_alive()) {
                return (Look::Ended(format!("its {} process ended", part.as_str())), false);
            }
        }
        let control = self.look_at_control(site).await;
        if site.witness || matches!(control, Look::Silent(_)) {
            return (control, false);
        }
        let (shipper, primary) = self.look_at_shipper(site).await;
        (Look::of_both(control, shipper), primary)
    }

    async fn look_at_control(&self, site: &Site) -> Look {
        if site.control.is_none() {
            return Look::Waits("its control process was not started".to_owned());
        }
        let status = match admin::ask(&self.control_socket(site)).await {
            Ok(status) => status,
            Err(error) => return Look::Silent(error.to_string()),
        };
        let here = status.here.clone().unwrap_or_default();
        if !here.enrolled && here.state != "REMOVED" {
            let why = format!("it waits to be enrolled: {}", or_unsaid(&here.why));
            return if self.record.by_hand { Look::Limited(why) } else { Look::Waits(why) };
        }
        if let Some(why) = stands_apart(&here) {
            return Look::Limited(why);
        }
        if let Some(why) = lacks_majority(&status) {
            return Look::Waits(why);
        }
        if here.state == "WAITING" && !here.next.is_empty() {
            return Look::Waits(format!("its state is WAITING: {}; next, on it: {}", or_unsaid(&here.why), here.next));
        }
        if !status.without_vote.is_empty() {
            return Look::Waits(format!("these do not vote yet: {}", status.without_vote.join(", ")));
        }
        if site.witness && here.state != "READY" {
            return Look::Waits(format!("its state is {}: {}", here.state, or_unsaid(&here.why)));
        }
        Look::Ready
    }

    async fn look_at_shipper(&self, site: &Site) -> (Look, bool) {
        if site.shipper.is_none() {
            return (Look::Waits("its shipper was not started".to_owned()), false);
        }
        let asking = async {
            let channel = cfs_rpc::unix::connect(&self.socket(site)).await.map_err(|error| error.to_string())?;
            let mut inspect = client::inspect_on(channel);
            let status = inspect.status(StatusRequest::default()).await.map_err(|s| s.message().to_owned())?;
            Ok::<StatusReply, String>(status.into_inner())
        };
        match timeout(CALL_LIMIT, asking).await {
            Ok(Ok(status)) => self.judge(&status),
            Ok(Err(why)) => (Look::Silent(format!("its shipper: {why}")), false),
            Err(_) => (Look::Silent(format!("its shipper did not answer within {CALL_LIMIT:?}")), false),
        }
    }

    fn judge(&self, status: &StatusReply) -> (Look, bool) {
        let primary = status.role == "PRIMARY";
        let why = format!("its status is {}: {}", status.status, or_unsaid(&status.why));
        if status.status == "READ_ONLY" {
            // A full disk does not go away by waiting.
            return (Look::Limited(why), primary);
        }
        if status.status != "READY" {
            return (Look::Waits(why), false);
        }
        let runs = |name: &str| self.sites().iter().any(|site| site.name.as_str() == name && site.is_up());
        match status.peers.iter().find(|peer| peer.state != "HEALTHY" && runs(&peer.site)) {
            Some(peer) => {
                (Look::Waits(format!("{} is {} to it: {}", peer.site, peer.state, or_unsaid(&peer.why))), primary)
            }
            None => (Look::Ready, primary),
        }
    }

    fn not_ready(&self, indices: &[usize], looks: &[Look]) -> Error {
        let mut text = String::new();
        let mut unready = indices.iter().zip(looks).filter(|(_, look)| !look.is_settled()).peekable();
        if unready.peek().is_none() {
            text.push_str("every site answers, but none is the primary and accepts appends\n");
        }
        for (index, look) in unready {
            let site = &self.sites()[*index];
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} is not ready: {}", site.name, look.why());
            for part in site.parts() {
                self.add_log(&mut text, site, *part);
            }
        }
        text.push_str("what runs was left running; `cfs dev status` shows it, `cfs dev down` ends it");
        Error(text)
    }

    fn add_log(&self, text: &mut String, site: &Site, part: Part) {
        let log = self.log_path(site, part);
        let _ = writeln!(text, "  end of {}:", log.display());
        for line in tail(&log) {
            let _ = writeln!(text, "  | {line}");
        }
    }
}

/// Why a site takes no part, if only a command ends that.
fn stands_apart(here: &SiteStatus) -> Option<String> {
    let apart = matches!(here.state.as_str(), "FENCED" | "REMOVED");
    let next = if here.next.is_empty() { String::new() } else { format!("; next, on it: {}", here.next) };
    apart.then(|| format!("its state is {}: {}{next}", here.state, or_unsaid(&here.why)))
}

/// What the group waits for as this site sees it. One that has just started knows from its log who led, and may still be alone.
fn lacks_majority(status: &StatusAnswer) -> Option<String> {
    match status.quorum.as_str() {
        "ok" if !status.leader.is_empty() => None,
        "" | "ok" => Some("it waits for a leader".to_owned()),
        quorum => {
            let why = quorum.strip_prefix("waiting for a majority: ").unwrap_or(quorum);
            Some(format!("it has no majority: {why}"))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_ready_only_when_both_processes_are() {
        let waits = |why: &str| Look::Waits(why.to_owned());
        assert_eq!(Look::of_both(Look::Ready, Look::Ready), Look::Ready);
        assert_eq!(Look::of_both(Look::Ready, waits("a lease")), waits("a lease"));
        assert_eq!(Look::of_both(waits("a leader"), Look::Ready), waits("a leader"));
        assert_eq!(Look::of_both(waits("a leader"), waits("a lease")), waits("a leader"));
        let silent = Look::Silent("no answer".to_owned());
        assert_eq!(Look::of_both(waits("a leader"), silent.clone()), silent);
        assert!(silent.readiness().is_none() && !waits("x").is_settled());
    }

    #[test]
    fn a_shipper_is_judged_by_what_it_says_of_itself_and_of_peers_that_run() {
        let place = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::open_or_create(&place.path().join("c"), &crate::dev::Plan::default()).expect("made");
        let status = |status: &str, role: &str| StatusReply {
            status: status.to_owned(),
            role: role.to_owned(),
            ..StatusReply::default()
        };
        assert_eq!(cluster.judge(&status("READY", "PRIMARY")), (Look::Ready, true));
        assert_eq!(cluster.judge(&status("READY", "REPLICA")), (Look::Ready, false));
        let (look, primary) = cluster.judge(&status("WAITING", "PRIMARY"));
        assert!(matches!(look, Look::Waits(_)) && !primary, "it accepts nothing yet");
        assert!(cluster.judge(&status("READ_ONLY", "PRIMARY")).0.is_settled());
        // Nothing of site-b runs: that it is not heard is no reason to wait.
        let down = cfs_rpc::v1::PeerStatus { site: "site-b".into(), state: "DOWN".into(), ..Default::default() };
        let alone = StatusReply { peers: vec![down], ..status("READY", "PRIMARY") };
        assert_eq!(cluster.judge(&alone), (Look::Ready, true));
    }

    #[test]
    fn a_site_that_only_a_command_brings_back_is_not_waited_for() {
        let site = |state: &str| SiteStatus {
            state: state.into(),
            why: "because".into(),
            next: "cfs admin replication rejoin --primary site-b".into(),
            ..SiteStatus::default()
        };
        let why = stands_apart(&site("FENCED")).expect("it takes no part");
        assert!(why.contains("FENCED: because") && why.contains("rejoin --primary site-b"), "{why}");
        assert!(stands_apart(&site("REMOVED")).is_some());
        assert_eq!((stands_apart(&site("READY")), stands_apart(&site("WAITING"))), (None, None));
        let fenced = Look::of_both(Look::Limited(why.clone()), Look::Waits("a leader".to_owned()));
        assert!(fenced.is_settled() && fenced.why() == why, "{fenced:?}");
    }

    #[test]
    fn a_site_without_a_majority_is_not_ready_although_it_knows_who_led() {
        let status = |quorum: &str, leader: &str| StatusAnswer {
            quorum: quorum.into(),
            leader: leader.into(),
            ..StatusAnswer::default()
        };
        assert_eq!(lacks_majority(&status("ok", "site-w")), None);
        let alone = lacks_majority(&status("waiting for a majority: site-a, site-w not heard", "site-w"));
        assert_eq!(alone.as_deref(), Some("it has no majority: site-a, site-w not heard"));
        assert_eq!(lacks_majority(&status("ok", "")).as_deref(), Some("it waits for a leader"));
    }

    #[tokio::test]
    async fn a_site_whose_process_ended_is_named_with_its_logs() {
        let place = tempfile::tempdir().expect("a directory");
        let mut cluster = Cluster::open_or_create(&place.path().join("c"), &crate::dev::Plan::default()).expect("made");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let ended = crate::dev::Process::running(child.id()).expect("it runs");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        cluster.record.sites[0].control = Some(ended);
        std::fs::write(cluster.log_path(&cluster.sites()[0], Part::Control), "its last words\n").expect("writable");
        let error = cluster.make_ready(&[0]).await.expect_err("it ended").to_string();
        assert!(error.contains("site-a is not ready: its control process ended"), "{error}");
        assert!(error.contains("| its last words"), "{error}");
    }
}
