//! Ways about the cluster, and what is done in more than one act.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cfs_rpc::v1::inspect_client::InspectClient;
use tonic::transport::Channel;

use super::{A, B, Tour};
use crate::client;
use crate::demo::{self, Comparison, Imported, Watcher};
use crate::dev::Site;

/// How long all sites together may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(90);

impl Tour<'_> {
    pub(super) fn name(&self, index: usize) -> String {
        self.cluster.sites()[index].name.to_string()
    }

    pub(super) fn control(&self, index: usize) -> PathBuf {
        self.cluster.control_socket(&self.cluster.sites()[index])
    }

    pub(super) async fn inspect(&self, index: usize) -> anyhow::Result<InspectClient<Channel>> {
        let socket = self.cluster.socket(&self.cluster.sites()[index]);
        Ok(client::inspect_on(cfs_rpc::unix::connect(&socket).await?))
    }

    /// Sees the site that dies and returns with the other one's eyes.
    pub(super) async fn watcher(&self) -> anyhow::Result<Watcher> {
        Ok(Watcher::new(self.inspect(A).await?, self.name(B)))
    }

    /// Waits until every site does all that it should.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let all: Vec<usize> = (0..self.cluster.sites().len()).collect();
        let began = Instant::now();
        loop {
            match self.cluster.make_ready(&all).await {
                Ok(_) => return Ok(()),
                // A busy machine needs longer; what ended does not come back.
                Err(_) if began.elapsed() < READY_LIMIT && self.cluster.sites().iter().all(Site::is_up) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets the producer write for a while.
    pub(super) async fn let_write(&self) {
        tokio::time::sleep(Duration::from_secs(if self.args.fast { 1 } else { 3 })).await;
    }

    pub(super) async fn tell_phases(&self, control: &Path, epoch: u64) {
        let phases = demo::phases(control, epoch).await;
        if !phases.is_empty() {
            self.narrator.tell(&format!("phases: {phases}"));
        }
    }

    pub(super) fn note_unreadable(&self, imported: &Imported, comparison: &Comparison) {
        if imported.skipped + comparison.unreadable > 0 {
            self.narrator.tell(&format!(
                "note: {} paths or attributes may not be read by this user and were left out",
                imported.skipped.max(comparison.unreadable)
            ));
        }
    }
}
