//! A producer that writes through everything: creates one file after the other, at whichever site is primary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cfs_client::{Ack, Options, Producer};
use cfs_config::Config;
use cfs_model::{SiteId, StreamId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::LIMIT;
use crate::bench::{self, Acknowledged, Chase, Chased, Counts, Gaps, Place, Template};
use crate::{follow, namespace};

/// Files made in a second.
const RATE: f64 = 1000.0;
/// Bytes of one entry.
const ENTRY_BYTES: usize = 120;
/// Most files that are made.
const MAX_ENTRIES: u64 = 1 << 20;
/// Acknowledgements between the producer and the ledger.
const WAITING: usize = 256;

/// What was acknowledged, when and by whom.
#[derive(Debug)]
pub struct Ledger {
    names: BTreeMap<SiteId, String>,
    /// Since they were last watched anew.
    gaps: Gaps,
    /// The first acknowledgement of each site in each epoch.
    firsts: Vec<(Place, Instant)>,
    /// Highest position acknowledged in each stream.
    highest: BTreeMap<StreamId, u64>,
    acknowledged: u64,
    ended: bool,
}

impl Ledger {
    fn new(config: &Config) -> Self {
        let peers = config.peers.iter().map(|peer| (peer.id, peer.name.to_string()));
        Self {
            names: peers.chain([(config.site.id, config.site.name.to_string())]).collect(),
            gaps: fresh_gaps(),
            firsts: Vec::new(),
            highest: BTreeMap::new(),
            acknowledged: 0,
            ended: false,
        }
    }

    fn note(&mut self, count: u64, ack: &Ack) {
        let site = ack.stream.site;
        let site = self.names.get(&site).cloned().unwrap_or_else(|| format!("site number {site}"));
        let place = Place { site, epoch: ack.epoch.0 };
        self.gaps.acknowledged(ack.received, &place);
        if !self.firsts.iter().any(|(known, _)| *known == place) {
            self.firsts.push((place, ack.received));
        }
        let highest = self.highest.entry(ack.stream).or_default();
        *highest = ack.lsn.0.max(*highest);
        self.acknowledged += count;
    }

    /// How many entries were acknowledged.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The longest time without an acknowledgement since gaps were watched anew, in ms.
    pub fn longest_gap_ms(&self) -> f64 {
        self.gaps.longest.as_ref().map_or(0.0, |gap| gap.ms)
    }

    /// When `site` first acknowledged in an epoch after `epoch`, and in which.
    pub fn first(&self, site: &str, epoch: u64) -> Option<(Instant, u64)> {
        let found = self.firsts.iter().find(|(place, _)| place.site == site && place.epoch > epoch);
        found.map(|(place, at)| (*at, place.epoch))
    }

    /// The newest stream of a site in which anything was acknowledged, and up to where.
    pub fn stream_of(&self, site: &str) -> Option<(StreamId, u64)> {
        let of_site = |stream: &StreamId| self.names.get(&stream.site).is_some_and(|name| name == site);
        self.highest.iter().rfind(|(stream, _)| of_site(stream)).map(|(stream, lsn)| (*stream, *lsn))
    }
}

/// Nothing watched yet.
fn fresh_gaps() -> Gaps {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Gaps::new(Instant::now(), u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// The producer at work. It ends when this is dropped.
#[derive(Debug)]
pub struct Load {
    ledger: Arc<watch::Sender<Ledger>>,
    stop: watch::Sender<bool>,
    chase: JoinHandle<Chased>,
    noting: JoinHandle<()>,
    directory: u64,
    first_inode: u64,
}

/// Files whose creation was acknowledged.
#[derive(Debug)]
pub struct Written {
    /// Their directory.
    pub directory: u64,
    /// The files, ascending.
    pub inodes: Vec<u64>,
}

impl Load {
    /// Makes the directory `name` in `root` and begins to write there, with the certificate and the addresses of `config`.
    ///
    /// # Errors
    /// When no site takes appends within a minute.
    pub async fn start(config: &Config, root: u64, name: &str) -> anyhow::Result<Self> {
        let run: u32 = rand::random();
        let (directory, first_inode) = (bench::inode(run, 0), bench::inode(run, 1));
        let template = Template::new(directory, first_inode, ENTRY_BYTES)?;
        let target = follow::target(config)?;
        let connecting = async {
            let producer = Producer::connect(target, &format!("{name}-{run:08x}"), Options::default()).await?;
            producer.append(&namespace::make_directory(root, name.as_bytes(), directory)).await?.await?;
            anyhow::Ok(Arc::new(producer))
        };
        let late = || anyhow::anyhow!("no site took appends for {LIMIT:?}");
        let producer = tokio::time::timeout(LIMIT, connecting).await.unwrap_or_else(|_| Err(late()))?;
        let (stop, stopped) = watch::channel(false);
        let chase = Chase {
            template,
            entries: MAX_ENTRIES,
            rate: Some(RATE),
            delay: Duration::ZERO,
            stop: stopped,
            patience: LIMIT,
            counts: Arc::new(Counts::default()),
        };
        let (acknowledged, to_note) = mpsc::channel(WAITING);
        let ledger = Arc::new(watch::Sender::new(Ledger::new(config)));
        let noting = tokio::spawn(note(ledger.clone(), to_note));
        let chase = tokio::spawn(bench::run_chase(producer, chase, acknowledged));
        Ok(Self { ledger, stop, chase, noting, directory, first_inode })
    }

    /// What was acknowledged so far.
    pub fn ledger(&self) -> watch::Ref<'_, Ledger> {
        self.ledger.borrow()
    }

    /// Watches gaps anew, from the next acknowledgement on, and returns when that is there.
    ///
    /// # Errors
    /// When none comes for a minute.
    pub async fn watch_gaps(&self) -> anyhow::Result<()> {
        self.ledger.send_modify(|ledger| ledger.gaps = fresh_gaps());
        let before = self.ledger().acknowledged;
        self.wait("an acknowledgement", |ledger| (ledger.acknowledged > before).then_some(())).await
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// When it does not within a minute, or the producer ended.
    pub async fn wait<T>(&self, what: &str, mut look: impl FnMut(&Ledger) -> Option<T>) -> anyhow::Result<T> {
        let mut changes = self.ledger.subscribe();
        let looking = async {
            loop {
                {
                    let ledger = changes.borrow_and_update();
                    if let Some(found) = look(&ledger) {
                        return Ok(found);
                    }
                    anyhow::ensure!(!ledger.ended, "the producer ended while {what} was waited for");
                }
                changes.changed().await?;
            }
        };
        let late = || anyhow::anyhow!("{what} did not come within {LIMIT:?}");
        tokio::time::timeout(LIMIT, looking).await.unwrap_or_else(|_| Err(late()))
    }

    /// Stops writing and waits for what is on its way.
    ///
    /// # Errors
    /// When the producer failed, or the fate of an entry stayed unknown for a minute.
    pub async fn finish(mut self) -> anyhow::Result<Written> {
        self.stop.send_replace(true);
        let chased = (&mut self.chase).await?;
        if let Some(failure) = chased.failure {
            anyhow::bail!("the producer ended early: {failure}");
        }
        anyhow::ensure!(chased.unknown == 0, "{} entries were not acknowledged within {LIMIT:?}", chased.unknown);
        // Entries are acknowledged in the order in which they were made: their number says which ones.
        let inodes = (self.first_inode..self.first_inode + chased.acknowledged).collect();
        Ok(Written { directory: self.directory, inodes })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.chase.abort();
        self.noting.abort();
    }
}

async fn note(ledger: Arc<watch::Sender<Ledger>>, mut acknowledged: mpsc::Receiver<Acknowledged>) {
    while let Some(Acknowledged { count, ack, .. }) = acknowledged.recv().await {
        ledger.send_modify(|ledger| ledger.note(count, &ack));
    }
    ledger.send_modify(|ledger| ledger.ended = true);
}

#[cfg(test)]
mod tests {
    use cfs_model::{Epoch, Incarnation, Lsn};

    use super::*;

    #[test]
    fn the_ledger_knows_who_acknowledged_first_and_where() {
        let start = Instant::now();
        let ack = |site: u8, epoch, lsn, after_ms| Ack {
            seq: lsn,
            stream: StreamId { site: SiteId(site), incarnation: Incarnation(epoch) },
            lsn: Lsn(lsn),
            epoch: Epoch(epoch),
            received: start + Duration::from_millis(after_ms),
        };
        let names = [(SiteId(1), "site-a".to_owned()), (SiteId(2), "site-b".to_owned())];
        let mut ledger = Ledger {
            names: names.into(),
            gaps: fresh_gaps(),
            firsts: Vec::new(),
            highest: BTreeMap::new(),
            acknowledged: 0,
            ended: false,
        };
        for (ack, count) in
            [(ack(1, 1, 5, 0), 2), (ack(2, 2, 1, 100), 1), (ack(2, 2, 9, 110), 8), (ack(1, 3, 0, 1400), 1)]
        {
            ledger.note(count, &ack);
        }
        assert_eq!(ledger.acknowledged(), 12);
        assert_eq!(ledger.longest_gap_ms().round(), 1290.0);
        assert_eq!(ledger.first("site-a", 2), Some((start + Duration::from_millis(1400), 3)));
        assert_eq!(ledger.first("site-b", 2), None);
        assert_eq!(ledger.stream_of("site-b").map(|(_, lsn)| lsn), Some(9));
        assert_eq!(ledger.stream_of("site-w"), None);
    }
}
