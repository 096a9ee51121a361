//! The other sites' control processes: one connection to each, kept up, watched and measured.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfs_control_core::timers::{self, Smoothed};
use cfs_model::SiteName;
use cfs_rpc::connect::{self, Connector, Dial};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::net::Net;
use cfs_rpc::tls::SharedTls;
use cfs_rpc::v1::control_client::ControlClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::wire::{Watch, WatchedNet};

/// Largest message between control processes, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// A peer that comes back is reached within about this.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// When a connection cannot be made anew it is tried again after this.
const AGAIN_PAUSE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The connection to a peer, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Whether the peer has proven who it is and can be called.
    pub connected: bool,
    /// When the last connection broke; `None` while there is one, or if there never was.
    pub broke_at: Option<Instant>,
    /// Whether the peer's process is gone: the connection broke, and connecting again was turned down since.
    pub gone: bool,
    /// Why it is not connected, for people.
    pub why: String,
    channel: Option<(Channel, Arc<Watch>)>,
}

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error("{site} is not connected: {why}")]
    NotConnected {
        /// The peer.
        site: String,
        /// The last error.
        why: String,
    },
    /// No answer in time.
    #[error("{site} did not answer within {after:?}")]
    Late {
        /// The peer.
        site: String,
        /// The bound.
        after: Duration,
    },
    /// The peer refused, or the connection broke meanwhile.
    #[error("{site}: {}", status.message())]
    Status {
        /// The peer.
        site: String,
        /// What it said.
        status: Box<tonic::Status>,
    },
}

struct Peer {
    addr: String,
    link: watch::Sender<Link>,
    round_trip: Arc<Mutex<Smoothed>>,
    keeping: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

struct Inner {
    own: Identity,
    net: Arc<dyn Net>,
    tls: SharedTls,
    book: Mutex<BTreeMap<String, Peer>>,
    changes: watch::Sender<u64>,
}

/// The address book. Cheap to clone; connections end with the last clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// An empty one. Connects over `net` with the certificate of `tls`.
    pub fn new(net: Arc<dyn Net>, tls: SharedTls) -> Self {
        let (own, book) = (tls.identity(), Mutex::default());
        Self { inner: Arc::new(Inner { own, net, tls, book, changes: watch::Sender::new(0) }) }
    }

    /// The network that they are reached over.
    pub fn net(&self) -> Arc<dyn Net> {
        self.inner.net.clone()
    }

    /// Keeps connections to these sites, at these addresses, and to no others. Must be called within a runtime.
    pub fn set(&self, sites: &BTreeMap<String, String>) {
        lock(&self.inner.book).retain(|site, peer| sites.get(site) == Some(&peer.addr));
        for (site, addr) in sites {
            self.add(site, addr);
        }
    }

    /// Keeps a connection to this site too, unless there is one under any address. Must be called within a runtime.
    pub fn add(&self, site: &str, addr: &str) {
        let Ok(name) = SiteName::new(site) else { return };
        let mut book = lock(&self.inner.book);
        if name == self.inner.own.site || addr.is_empty() || book.contains_key(site) {
            return;
        }
        let (link, round_trip) = (watch::Sender::new(Link::default()), Arc::new(Mutex::default()));
        let keeper = Keeper {
            addr: addr.to_owned(),
            expected: Identity { cluster: self.inner.own.cluster, site: name, role: Role::Control },
            net: self.inner.net.clone(),
            tls: self.inner.tls.clone(),
            link: link.clone(),
            round_trip: round_trip.clone(),
            changes: self.inner.changes.clone(),
        };
        let keeping = tokio::spawn(keeper.keep());
        book.insert(site.to_owned(), Peer { addr: addr.to_owned(), link, round_trip, keeping });
    }

    /// The connection to a site, as it is now.
    pub fn link(&self, site: &str) -> Link {
        lock(&self.inner.book).get(site).map_or_else(
            || Link { why: "its address is not known".to_owned(), ..Link::default() },
            |peer| peer.link.borrow().clone(),
        )
    }

    /// Counts up whenever any connection came about or broke, or an attempt after a break was turned down.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// A client for a site that is connected. Take a new one for every call: one whose connection broke is of no use.
    ///
    /// # Errors
    /// It is not connected.
    pub fn client(&self, site: &str) -> Result<ControlClient<Channel>, CallError> {
        self.connected(site).map(|(client, _)| client)
    }

    fn connected(&self, site: &str) -> Result<(ControlClient<Channel>, Arc<Watch>), CallError> {
        let link = self.link(site);
        let (channel, watch) =
            link.channel.ok_or_else(|| CallError::NotConnected { site: site.to_owned(), why: link.why })?;
        let client = ControlClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok((client, watch))
    }

    /// Smoothed round trip to a site, in milliseconds; `None` before there was one.
    pub fn round_trip_ms(&self, site: &str) -> Option<u64> {
        lock(&self.inner.book).get(site).and_then(|peer| lock(&peer.round_trip).mean_ms())
    }

    /// Calls a site, with a bound. Nothing at all from it meanwhile means that the connection is dead: it is replaced.
    /// With `measure` the call counts as a round trip: the other end answers at once.
    ///
    /// # Errors
    /// Not connected, late, or refused.
    pub async fn call<T, Called>(
        &self,
        site: &str,
        limit: Duration,
        measure: bool,
        call: impl FnOnce(ControlClient<Channel>) -> Called,
    ) -> Result<T, CallError>
    where
        Called: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let (client, watch) = self.connected(site)?;
        let (sent, received) = (Instant::now(), watch.received());
        match tokio::time::timeout(limit, call(client)).await {
            Ok(Ok(response)) => {
                if measure && let Some(peer) = lock(&self.inner.book).get(site) {
                    lock(&peer.round_trip).add(millis(sent.elapsed()));
                }
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(CallError::Status { site: site.to_owned(), status: Box::new(status) }),
            Err(_) => {
                if watch.received() == received {
                    watch.cut();
                }
                Err(CallError::Late { site: site.to_owned(), after: limit })
            }
        }
    }
}

/// Keeps one connection up.
struct Keeper {
    addr: String,
    expected: Identity,
    net: Arc<dyn Net>,
    tls: SharedTls,
    link: watch::Sender<Link>,
    round_trip: Arc<Mutex<Smoothed>>,
    changes: watch::Sender<u64>,
}

impl Keeper {
    async fn keep(self) {
        let (mut attempt, mut turned_down) = (0_u32, 0_u32);
        let mut pause = FIRST_PAUSE;
        loop {
            let watch = Arc::new(Watch::new());
            let net = Arc::new(WatchedNet::new(self.net.clone(), watch.clone()));
            let round_trip_ms = lock(&self.round_trip).mean_ms();
            let step = Duration::from_millis(timers::connect_ms(round_trip_ms, attempt));
            let connector = Connector::new(net.clone(), self.tls.clone()).with_timeout(step);
            match connector.dial(&self.addr, &self.expected).await {
                Ok(channel) => {
                    if let Some(took) = net.connect_time() {
                        lock(&self.round_trip).add(millis(took));
                    }
                    (attempt, turned_down, pause) = (0, 0, FIRST_PAUSE);
                    self.publish(Link { connected: true, channel: Some((channel, watch.clone())), ..Link::default() });
                    self.renew_until_broken(watch).await;
                    let why = "the connection broke".to_owned();
                    self.publish(Link { broke_at: Some(Instant::now()), why, ..Link::default() });
                    continue;
                }
                Err(error) => {
                    // One that accepts and then hangs up may be a process that is just ending, or what stands before it.
                    turned_down = match &error {
                        connect::Error::Unreachable { source, .. }
                            if source.kind() == std::io::ErrorKind::ConnectionRefused =>
                        {
                            2
                        }
                        connect::Error::Timeout { .. } | connect::Error::Unreachable { .. } => 0,
                        _ if watch.has_ended() => turned_down + 1,
                        _ => 0,
                    };
                    let before = self.link.borrow().clone();
                    let gone = before.gone || (before.broke_at.is_some() && turned_down >= 2);
                    let why = error.to_string();
                    if gone != before.gone {
                        self.publish(Link { gone, why, ..before });
                    } else if why != before.why {
                        self.link.send_replace(Link { why, ..before });
                    }
                }
            }
            attempt = attempt.wrapping_add(1);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Makes the connection anew, beside the old one, when that is due; returns when it broke.
    async fn renew_until_broken(&self, mut watch: Arc<Watch>) {
        loop {
            let (channel, fresh) = tokio::select! {
                () = watch.ended() => return,
                made = self.again() => made,
            };
            // Calls under way end on the old one.
            self.link.send_replace(Link {
                connected: true,
                channel: Some((channel, fresh.clone())),
                ..Link::default()
            });
            watch = fresh;
        }
    }

    /// Another connection, once it is due.
    async fn again(&self) -> (Channel, Arc<Watch>) {
        self.tls.due(self.addr.bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte))).await;
        loop {
            let watch = Arc::new(Watch::new());
            let net = Arc::new(WatchedNet::new(self.net.clone(), watch.clone()));
            match Connector::new(net, self.tls.clone()).dial(&self.addr, &self.expected).await {
                Ok(channel) => return (channel, watch),
                Err(error) => tracing::debug!(addr = self.addr, %error, "not connected anew; the old connection stays"),
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }

    fn publish(&self, link: Link) {
        self.link.send_replace(link);
        self.changes.send_modify(|changes| *changes += 1);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
