//! An operator's word at this site that another one is to be primary, by force: in force at once, and on disk before the command
//! that brought it is answered. The shipper keeps the floor; this keeps why.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::local::{Fence, Sealed};
use cfs_model::SiteId;
use cfs_rpc::private_file;

use crate::attend::applied;
use crate::control::{Control, blocking};

const FILE: &str = "sealed.json";
/// A change between a look at the state and the wait for the next one is not missed for longer.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads what was kept in `directory`. Blocks.
///
/// # Errors
/// It is there, and cannot be read.
fn read(directory: &Path) -> std::io::Result<Option<Sealed>> {
    match private_file::read(&directory.join(FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps what is to outlast a restart, or forgets it. Blocks.
fn write(directory: &Path, fence: &Fence) -> std::io::Result<()> {
    match fence {
        Fence::SealedFor(sealed) => private_file::replace(directory, FILE, &serde_json::to_vec(sealed)?),
        // Found out again after a restart; the operator's word stands until it is over.
        Fence::Newer(_) => Ok(()),
        Fence::None => match std::fs::remove_file(directory.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Takes up after a restart what an operator said before it.
pub(crate) async fn resume(control: &Control) -> anyhow::Result<()> {
    let directory = control.config.control_dir().to_owned();
    match blocking(move || read(&directory)).await? {
        Ok(Some(sealed)) if !sealed.is_over(control.id(), &control.state()) && control.node().is_some() => {
            tracing::warn!(by = sealed.by, target = %control.state().name_of(sealed.target), "this site is still sealed");
            control.local().fence(Fence::SealedFor(sealed));
        }
        Ok(_) => {}
        // The floor holds all the same.
        Err(error) => tracing::error!(%error, "why this site was sealed cannot be read"),
    }
    Ok(())
}

/// Seals this site for another one: it takes part in nothing until that has opened an epoch.
///
/// # Errors
/// It is sealed, but a restart would forget for whom.
pub(crate) async fn seal(control: &Control, target: SiteId, by: &str) -> Result<(), String> {
    let state = control.state();
    let (group, epoch, at_ms) = (state.group, state.epoch, control.wall_ms());
    {
        let mut local = control.local();
        local.fence(Fence::SealedFor(Sealed { target, by: by.to_owned(), at_ms, group, epoch }));
        // Above what its own group opened, never above what the other side did: it must be able to follow that.
        local.seal(state.next_epoch());
    }
    tell(control);
    keep(control).await
}

/// Lets this site take part again.
pub(crate) async fn lift(control: &Control) {
    control.local().fence(Fence::None);
    lifted(control).await;
}

async fn lifted(control: &Control) {
    tell(control);
    if let Err(why) = keep(control).await {
        tracing::warn!(why, "that this site was sealed cannot be forgotten on disk: it is over all the same");
    }
}

fn tell(control: &Control) {
    control.direct_soon.notify_one();
    control.report_soon.notify_one();
}

/// Brings the file to what is in force; of two changes at the same time the later one is kept.
async fn keep(control: &Control) -> Result<(), String> {
    let _one_at_a_time = control.sealing.lock().await;
    let (directory, fence) = (control.config.control_dir().to_owned(), control.local().fenced());
    let kept = blocking(move || write(&directory, &fence)).await;
    kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Lets the site take part again once what it was fenced for is over, for as long as the process lives.
pub(crate) async fn watch(control: Arc<Control>) {
    let mut member = control.watch_node();
    loop {
        let state = control.state();
        let over = control.local().unseal_if_over(&state);
        if over {
            tracing::info!(epoch = %state.epoch, "a later epoch is open elsewhere: this site takes part again");
            lifted(&control).await;
        }
        let node = control.node();
        tokio::select! {
            _ = member.changed() => {}
            () = applied(node.as_deref()) => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_control_core::split::Standing;
    use cfs_model::Epoch;

    #[test]
    fn whose_word_it_was_outlasts_a_restart_and_a_newer_generation() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let (by, epoch) = ("root@host".to_owned(), Epoch(3));
        let sealed = Sealed { target: SiteId(2), by, at_ms: 7, group: 5, epoch };
        write(dir.path(), &Fence::SealedFor(sealed.clone())).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(sealed.clone()));
        write(dir.path(), &Fence::Newer(Standing::default())).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(sealed));
        write(dir.path(), &Fence::None).unwrap();
        write(dir.path(), &Fence::None).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
