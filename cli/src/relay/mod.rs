//! The own process of the umbrella unit: it starts and stops with the units that do the work, and prints their log lines,
//! so that `journalctl -u claudefs-repl` shows both daemons'.
//!
//! It holds one line at a time; while nobody takes its own lines it reads no others.

mod journal;
pub(crate) mod units;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cfs_rpc::clock::{Clock as _, RealClock};
use cfs_service::{Signal, Signals, Watchdog, manager};

use self::journal::Follower;
use self::units::{Standing, Unit};

/// Units that have failed are given so long to come up by themselves.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// Once they run they are looked at so often.
const LOOK: Duration = Duration::from_secs(5);
/// After the units have stopped, lines still come for so long.
const REST: Duration = Duration::from_millis(400);

/// Relays until SIGTERM, and then until the units have stopped.
///
/// # Errors
/// When a unit does not start, or systemd cannot be asked.
pub(crate) async fn run(units: Vec<String>, keep: Option<PathBuf>) -> anyhow::Result<()> {
    let mut signals = Signals::take()?;
    let watchdog = Watchdog::of_environment();
    let pause = watchdog.interval().map_or(LOOK, |interval| LOOK.min(interval / 2));
    let mut follower = Follower::new(units.clone(), keep);
    start(&units, &mut follower, &mut signals).await?;
    loop {
        match tokio::time::timeout(pause, relay(&mut follower, &mut signals)).await {
            Ok(Signal::Reload) => {}
            Ok(_) => break,
            // Lines were read and printed, or there were none.
            Err(_) => {
                watchdog.alive(u64::try_from(RealClock.boot().as_millis()).unwrap_or(u64::MAX));
                if let Ok(now) = units::ask(&units).await {
                    manager::status(&units::shown(&now));
                }
            }
        }
        follower.keep();
    }
    manager::stopping("waits until the units have stopped");
    stop(&units, &mut follower).await;
    follower.keep();
    Ok(())
}

/// Prints lines until a signal comes.
async fn relay(follower: &mut Follower, signals: &mut Signals) -> Signal {
    tokio::select! {
        signal = signals.next() => signal,
        never = follower.print_all() => match never {},
    }
}

/// Waits until all units are ready.
async fn start(names: &[String], follower: &mut Follower, signals: &mut Signals) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let down = match units::ask(names).await {
            Ok(units) if units.iter().all(|unit| matches!(unit.standing(), Standing::Ready | Standing::Absent)) => {
                manager::ready(&units::shown(&units));
                return Ok(());
            }
            Ok(units) => units.iter().filter_map(Unit::why_down).collect::<Vec<_>>().join("; "),
            Err(error) if began.elapsed() > RETRY_LIMIT => return Err(error),
            Err(_) => String::new(),
        };
        if began.elapsed() > RETRY_LIMIT && !down.is_empty() {
            // Why it failed is the best that can be printed last.
            let _ = tokio::time::timeout(REST, follower.print_all()).await;
            follower.keep();
            anyhow::bail!("{down}");
        }
        if let Ok(Signal::Terminate | Signal::Interrupt) =
            tokio::time::timeout(units::POLL, relay(follower, signals)).await
        {
            stop(names, follower).await;
            follower.keep();
            anyhow::bail!("stopped before the units were ready");
        }
    }
}

/// Waits until those units have stopped that are to stop.
async fn stop(names: &[String], follower: &mut Follower) {
    // When systemd cannot be asked, the machine goes down.
    while let Ok(units) = units::ask(names).await {
        if units.iter().all(Unit::is_through_stopping) {
            break;
        }
        let _ = tokio::time::timeout(units::POLL, follower.print_all()).await;
    }
    let _ = tokio::time::timeout(REST, follower.print_all()).await;
}

/// The file that says how far lines were printed.
fn cursor_file(keep: &Path) -> PathBuf {
    keep.join("cursor")
}
