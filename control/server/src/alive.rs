//! A mark of life on disk: after a restart it tells for how long this process was away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cfs_rpc::private_file;
use serde::{Deserialize, Serialize};

use crate::control::{Control, blocking};

const FILE: &str = "alive.json";
/// The mark is renewed so often: what was away for less is taken for away so long.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    boot: String,
    boot_ms: u64,
}

/// For how long nobody renewed the mark in `directory`, if its machine was not booted since. Blocks.
pub(crate) fn away_ms(directory: &Path, now_ms: u64) -> Option<u64> {
    let bytes = private_file::read(&directory.join(FILE)).ok()?;
    let mark: Mark = serde_json::from_slice(&bytes).ok()?;
    (mark.boot == boot_id()?).then(|| now_ms.checked_sub(mark.boot_ms))?
}

fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// Renews the mark for as long as the process lives.
pub(crate) async fn run(control: Arc<Control>) {
    loop {
        if control.node().is_some() {
            let directory = control.config.control_dir().to_owned();
            let boot_ms = control.boot_ms();
            let kept = blocking(move || {
                let Some(boot) = boot_id() else { return Ok(()) };
                let bytes = serde_json::to_vec(&Mark { boot, boot_ms })?;
                private_file::replace(&directory, FILE, &bytes)
            });
            if let Ok(Err(error)) = kept.await {
                tracing::warn!(%error, "the mark of life cannot be written");
            }
        }
        let pause = if control.node().is_some() { INTERVAL } else { Duration::from_secs(1) };
        tokio::time::sleep(pause).await;
    }
}
