//! How a site that comes back catches up, as another site sees it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use cfs_model::StreamId;
use cfs_rpc::v1::inspect_client::InspectClient;
use cfs_rpc::v1::{PeerStatus, StatusReply, StatusRequest, StreamCursor};
use tonic::transport::Channel;

use crate::client;

/// How long a site may take for what it lacks.
const LIMIT: Duration = Duration::from_secs(120);
/// News are shown at most this often.
const SHOW_EVERY: Duration = Duration::from_millis(250);
const POLL: Duration = Duration::from_millis(50);

/// Watches one site from another.
#[derive(Debug)]
pub struct Watcher {
    inspect: InspectClient<Channel>,
    peer: String,
}

impl Watcher {
    /// Watches `peer` with the eyes of the site that `inspect` leads to.
    pub const fn new(inspect: InspectClient<Channel>, peer: String) -> Self {
        Self { inspect, peer }
    }

    /// How far this site has applied a stream.
    ///
    /// # Errors
    /// When the site does not answer.
    pub async fn applied(&mut self, stream: StreamId) -> anyhow::Result<u64> {
        Ok(cursor(&self.look().await?.cursors, stream).map_or(0, |cursor| cursor.applied))
    }

    /// Waits until the peer is healthy and has applied all that this site held when the wait began, and until this site
    /// has all of the peer's stream `theirs`, at least up to `lsn`. `show` is told how far behind the peer is.
    ///
    /// # Errors
    /// When that takes longer than two minutes, or the site does not answer.
    pub async fn await_return(&mut self, theirs: StreamId, lsn: u64, show: impl Fn(&str)) -> anyhow::Result<()> {
        let target = self.look().await?.cursors;
        let (began, mut shown_at) = (Instant::now(), None::<Instant>);
        loop {
            let status = self.look().await?;
            let peer = peer_of(&status, &self.peer)?;
            let behind = lacks(&target, &peer.cursors);
            let late = cursor(&status.cursors, theirs).is_some_and(|c| c.applied >= c.source.max(lsn));
            let done = peer.state == "HEALTHY" && behind == 0 && late;
            if done || shown_at.is_none_or(|at| at.elapsed() >= SHOW_EVERY) {
                shown_at = Some(Instant::now());
                show(&format!(
                    "{:>5} ms  {} {}, lag {} ms, {} entries behind",
                    began.elapsed().as_millis(),
                    self.peer,
                    peer.state,
                    peer.lag_ms,
                    lacks(&status.cursors, &peer.cursors)
                ));
            }
            if done {
                return Ok(());
            }
            let (peer, why) = (&self.peer, &peer.why);
            anyhow::ensure!(
                began.elapsed() < LIMIT,
                "{peer} did not catch up within {LIMIT:?} ({behind} behind) {why}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until both sites have applied all there is. Returns the lag that is left, in ms.
    ///
    /// # Errors
    /// When that takes longer than two minutes, or the site does not answer.
    pub async fn await_in_sync(&mut self) -> anyhow::Result<u64> {
        let began = Instant::now();
        loop {
            let status = self.look().await?;
            let peer = peer_of(&status, &self.peer)?;
            let here = lacks(&status.cursors, &status.cursors);
            let there = lacks(&status.cursors, &peer.cursors);
            if here + there == 0 && peer.state == "HEALTHY" {
                return Ok(status.lag_ms.max(peer.lag_ms));
            }
            anyhow::ensure!(
                began.elapsed() < LIMIT,
                "after {LIMIT:?} {} lacks {there} entries, {} lacks {here}",
                self.peer,
                status.site
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn look(&mut self) -> anyhow::Result<StatusReply> {
        let request = StatusRequest { cursors_only: true, ..StatusRequest::default() };
        let status = tokio::time::timeout(LIMIT, self.inspect.status(request)).await?;
        Ok(status.map_err(client::failed("report its cursors"))?.into_inner())
    }
}

fn peer_of<'a>(status: &'a StatusReply, name: &str) -> anyhow::Result<&'a PeerStatus> {
    let found = status.peers.iter().find(|peer| peer.site == name);
    found.with_context(|| format!("{} knows nothing of {name}", status.site))
}

fn cursor(cursors: &[StreamCursor], stream: StreamId) -> Option<&StreamCursor> {
    cursors.iter().find(|c| c.site == u32::from(stream.site.0) && c.incarnation == stream.incarnation.0)
}

/// How many entries known here were not applied by who has these cursors.
fn lacks(known: &[StreamCursor], applied: &[StreamCursor]) -> u64 {
    let of = |stream: &StreamCursor| {
        let same = |c: &&StreamCursor| (c.site, c.incarnation) == (stream.site, stream.incarnation);
        applied.iter().find(same).map_or(0, |c| c.applied)
    };
    known.iter().map(|stream| stream.source.saturating_sub(of(stream))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_counted_over_all_streams() {
        let cursor = |site, source, applied| StreamCursor { site, source, applied, ..StreamCursor::default() };
        let known = [cursor(1, 10, 10), cursor(2, 7, 5)];
        assert_eq!(lacks(&known, &known), 2);
        assert_eq!(lacks(&known, &[cursor(1, 0, 4)]), 6 + 7);
        assert_eq!(lacks(&known, &[cursor(2, 9, 9), cursor(1, 12, 12)]), 0);
    }
}
