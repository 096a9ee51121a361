//! The session with this site's shipper: directives one way, reports the other, and proof of its death.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cfs_rpc::v1::{self, ShipperReport, governor_client::GovernorClient};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::control::Control;
use crate::{control, wire};

/// Pause before the next try to reach the shipper.
const PAUSE: Duration = Duration::from_millis(50);
/// Directives that wait for the shipper.
const DIRECTIVES: usize = 4;

/// How often a process whose session broke is looked at.
const DEATH_POLL: Duration = Duration::from_millis(10);

/// The process at the other end of a session.
struct Watched {
    pid: u32,
    handle: OwnedFd,
}

/// Attends the shipper for as long as the process lives.
pub(crate) async fn run(control: Arc<Control>) {
    let mut watched: Option<Watched> = None;
    loop {
        let error = session(&control, &mut watched).await;
        control.shipper.send_modify(|view| {
            view.connected = false;
            view.error = error;
        });
        control.report_soon.notify_one();
        if let Some(watched) = watched.take() {
            tokio::spawn(prove_death(control.clone(), watched));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn session(control: &Arc<Control>, watched: &mut Option<Watched>) -> String {
    let channel = match cfs_rpc::unix::connect(&control.config.shipper_socket()).await {
        Ok(channel) => channel,
        Err(error) => return error.to_string(),
    };
    let (out, directives) = mpsc::channel(DIRECTIVES);
    let sending = tokio::spawn(direct(control.clone(), out));
    let telling = tokio::spawn(crate::decisions::hand_over(control.clone(), channel.clone()));
    let ended = receive(control, channel, directives, watched).await;
    sending.abort();
    telling.abort();
    ended
}

async fn receive(
    control: &Arc<Control>,
    channel: tonic::transport::Channel,
    directives: mpsc::Receiver<v1::Directive>,
    watched: &mut Option<Watched>,
) -> String {
    let mut client = GovernorClient::new(channel);
    let mut reports = match client.attend(ReceiverStream::new(directives)).await {
        Ok(reports) => reports.into_inner(),
        Err(status) => return format!("the shipper does not take directives: {}", status.message()),
    };
    loop {
        match reports.message().await {
            Ok(Some(report)) => take(control, report, watched),
            Ok(None) => return "the shipper ended the session".to_owned(),
            Err(status) => return format!("the session with the shipper broke: {}", status.message()),
        }
    }
}

fn take(control: &Arc<Control>, mut report: ShipperReport, watched: &mut Option<Watched>) {
    if watched.as_ref().is_none_or(|watched| watched.pid != report.pid) {
        *watched = open_process(report.pid).map(|handle| Watched { pid: report.pid, handle });
    }
    control.local().shipper_lives();
    let told = control.shipper.borrow().report.as_ref().is_some_and(|last| last.refused == report.refused);
    if !report.refused.is_empty() && !told {
        tracing::warn!(why = report.refused, "the shipper refused a directive");
    }
    let mut news = false;
    let at_ms = control.boot_ms();
    control.shipper.send_modify(|view| {
        news = !view.connected || view.report.as_ref().is_none_or(|last| is_news(last, &report));
        // A shipper that was started again has forgotten when it last acknowledged.
        let before = view.report.as_ref().map_or(0, |last| last.acknowledged_at_ms);
        report.acknowledged_at_ms = report.acknowledged_at_ms.max(before);
        *view = control::ShipperView { connected: true, report: Some(report), at_ms, error: String::new() };
    });
    if news {
        control.report_soon.notify_one();
    }
}

/// Whether the leader should know at once.
fn is_news(last: &ShipperReport, now: &ShipperReport) -> bool {
    let key = |r: &ShipperReport| {
        (
            (r.instance, r.floor, r.epoch, r.accepting, r.drained_op),
            (r.needs_incarnation, r.confirmed_rule, r.wants_promise, r.incarnation),
            r.status.clone(),
        )
    };
    key(last) != key(now)
}

/// Sends a directive whenever what the shipper should know has changed.
async fn direct(control: Arc<Control>, out: mpsc::Sender<v1::Directive>) {
    let mut number = 0;
    let mut last: Option<v1::Directive> = None;
    // The history is told once; later directives add to it.
    let mut told = 0;
    let mut group = control.watch_node();
    loop {
        let state = control.state();
        let directive = control.local().directive(&state);
        let mut message = wire::directive(&directive, &state, &control.config);
        message.opened.retain(|opened| opened.epoch > told);
        if last.as_ref() != Some(&message) {
            told = message.opened.iter().map(|opened| opened.epoch).max().unwrap_or(told);
            last = Some(v1::Directive { opened: Vec::new(), ..message.clone() });
            number += 1;
            message.number = number;
            tracing::debug!(
                number,
                epoch = message.epoch,
                primary = message.primary_site,
                floor = message.floor,
                "tells the shipper"
            );
            if out.send(message).await.is_err() {
                return;
            }
        }
        let node = control.node();
        tokio::select! {
            () = control.direct_soon.notified() => {}
            _ = group.changed() => {}
            () = applied(node.as_deref()) => {}
        }
    }
}

/// Completes when the replicated state changes.
pub(crate) async fn applied(node: Option<&crate::member::Node>) {
    match node {
        None => std::future::pending().await,
        Some(node) => {
            let mut applied = node.applied();
            applied.mark_unchanged();
            if applied.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A handle on the shipper's process: its number alone may come to name another.
fn open_process(pid: u32) -> Option<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::warn!(pid, %error, "the shipper's process cannot be watched: its death shows only when its lease runs out");
            None
        }
    }
}

/// The session with a shipper broke. That alone proves nothing: it may still acknowledge. The handle becomes readable when
/// the process has ended; until then, or until it attends again, it is looked at.
async fn prove_death(control: Arc<Control>, watched: Watched) {
    loop {
        if control.shipper.borrow().connected {
            return;
        }
        let mut ends = [PollFd::new(&watched.handle, PollFlags::IN)];
        if poll(&mut ends, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
            break;
        }
        tokio::time::sleep(DEATH_POLL).await;
    }
    let grace_ms = control.state().restart_grace_ms().unwrap_or(control.own().control.restart_grace_ms);
    tracing::warn!(pid = watched.pid, grace_ms, "the shipper's process has ended");
    control.local().shipper_died(control.boot_ns());
    control.report_soon.notify_one();
    resign_when_due(control).await;
}

/// Gives the lease up for good once the grace of a dead shipper is over.
async fn resign_when_due(control: Arc<Control>) {
    loop {
        let state = control.state();
        let now_ns = control.boot_ns();
        let Some(at_ns) = control.local().resigns_at_ns(&state) else { return };
        if control.local().resign_if_due(&state, now_ns) {
            tracing::warn!(epoch = %state.epoch, "the lease is given up: the shipper did not come back");
            control.report_soon.notify_one();
            control.direct_soon.notify_one();
            return;
        }
        tokio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns)) + Duration::from_millis(1)).await;
    }
}
