//! Programs of the operator: one that may refuse a promotion, and one that is told of each change of role.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::State;
use cfs_model::{Epoch, SiteId};
use cfs_rpc::private_file;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::control::{Control, blocking};

/// Of what a program prints, so much is looked at.
const MAX_OUTPUT_BYTES: u64 = 4096;
/// A program that fails is run again after this, doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const FILE: &str = "hooks.json";

/// Asks the `pre_promote` program whether this site may become primary: `PROGRAM SITE EPOCH REASON`. It may when the
/// program ends with 0 within `control.hook_timeout_ms`, or when there is none.
pub(crate) async fn pre_promote(control: &Control, epoch: Epoch, reason: &str) -> Result<(), String> {
    let own = control.own();
    let Some(program) = &own.control.pre_promote else { return Ok(()) };
    let arguments = [control.site().to_string(), epoch.to_string(), reason.to_owned()];
    let outcome = run(control, program, &arguments).await;
    match &outcome {
        Ok(()) => tracing::info!(program = %program.display(), %epoch, "the pre_promote hook agrees"),
        Err(why) => tracing::warn!(program = %program.display(), %epoch, why, "the pre_promote hook refuses"),
    }
    outcome
}

/// Runs a program without a shell. It is killed when its time is over.
async fn run(control: &Control, program: &Path, arguments: &[String]) -> Result<(), String> {
    let name = program.display();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("CFS_CONFIG", &control.config.file).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{name} cannot be run: {error}"))?;
    let group = child.id();
    let limit = Duration::from_millis(control.own().control.hook_timeout_ms);
    let mut stderr = child.stderr.take();
    let ended = async {
        let mut said = Vec::new();
        if let Some(stderr) = &mut stderr {
            // What a program says only decorates the answer.
            let _ = stderr.take(MAX_OUTPUT_BYTES).read_to_end(&mut said).await;
        }
        (child.wait().await, said)
    };
    let ended = tokio::time::timeout(limit, ended).await;
    let Ok((status, said)) = ended else {
        kill_group(group);
        return Err(format!("{name} did not end within {} ms and was killed", limit.as_millis()));
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let said = String::from_utf8_lossy(&said);
            let said = said.trim();
            Err(if said.is_empty() {
                format!("{name} ended with {status}")
            } else {
                format!("{name} ended with {status}: {said}")
            })
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// The program may have started others: all of its process group goes.
fn kill_group(leader: Option<u32>) {
    let pid = leader.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// How far changes of role were told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    epoch: Epoch,
}

/// Tells the `post_role_change` program of every epoch, in order: `PROGRAM ROLE SITE EPOCH PRIMARY`, where ROLE is
/// `PRIMARY` or `REPLICA`. What it was told is on disk, so that none is lost by a crash; one may be told twice.
pub(crate) async fn tell_changes(control: Arc<Control>) {
    let Some(program) = control.config.control.post_role_change.clone() else { return };
    let directory = control.config.control_dir().to_owned();
    let mut told = {
        let directory = directory.clone();
        blocking(move || read(&directory)).await.unwrap_or_default().map(|told| told.epoch)
    };
    let mut group = control.watch_node();
    loop {
        let state = control.state();
        match next(&state, told) {
            Some(epoch) => {
                if told.is_none() {
                    // From here on none is left out, also if this process dies before the first was told.
                    keep(&directory, Epoch(epoch.0 - 1)).await;
                }
                tell(&control, &program, &state, epoch).await;
                keep(&directory, epoch).await;
                told = Some(epoch);
            }
            None => {
                let node = control.node();
                tokio::select! {
                    _ = group.changed() => {}
                    () = crate::attend::applied(node.as_deref()) => {}
                }
            }
        }
    }
}

/// The oldest epoch after `told`; of those before there was a program to tell only the newest counts.
fn next(state: &State, told: Option<Epoch>) -> Option<Epoch> {
    match told {
        None => (state.epoch > Epoch(0)).then_some(state.epoch),
        Some(told) => state.opened.keys().copied().find(|epoch| *epoch > told),
    }
}

async fn tell(control: &Control, program: &Path, state: &State, epoch: Epoch) {
    let Some(primary) = state.opened.get(&epoch).copied() else { return };
    let (role, primary) = match primary {
        SiteId::EVERY => {
            let opened = state.changes.iter().find(|change| change.after == epoch && change.before != epoch);
            ("ACTIVE", opened.and_then(|change| change.to).map(|id| state.name_of(id)).unwrap_or_default())
        }
        site if site == control.id() => ("PRIMARY", state.name_of(site)),
        site => ("REPLICA", state.name_of(site)),
    };
    let arguments = [role.to_owned(), control.site().to_string(), epoch.to_string(), primary];
    let mut pause = RETRY.0;
    for _ in 0..5 {
        match run(control, program, &arguments).await {
            Ok(()) => return,
            Err(why) => tracing::warn!(%epoch, role, why, "the post_role_change hook failed; it is run again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
    control.metrics.hook_failed();
    tracing::error!(%epoch, role, program = %program.display(), "the post_role_change hook failed five times and is not told of this epoch");
}

fn read(directory: &Path) -> Option<Told> {
    serde_json::from_slice(&private_file::read(&directory.join(FILE)).ok()?).ok()
}

async fn keep(directory: &Path, epoch: Epoch) {
    let Ok(bytes) = serde_json::to_vec(&Told { epoch }) else { return };
    let directory = directory.to_owned();
    let kept = blocking(move || private_file::replace(&directory, FILE, &bytes)).await;
    if let Ok(Err(error)) | Err(error) = kept.map(|kept| kept.map_err(anyhow::Error::from)) {
        tracing::warn!(%error, "what the post_role_change hook was told cannot be written down: it may be told again");
    }
}
