//! Accepting connections over mTLS.
//!
//! [`incoming`] yields what `serve_with_incoming` of tonic takes. Handlers read the caller with
//! [`PeerIdentity::of`](crate::io::PeerIdentity::of).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::LazyConfigAcceptor;

use crate::identity::{Identity, Role};
use crate::io::{Io, PeerIdentity};
use crate::join::{self, Stranger};
use crate::look;
use crate::net::{BoxStream, Listener};
use crate::refusal;
use crate::tls::SharedTls;

/// How many connections, and how long they may take to prove who they are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes at the same time; more wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections at the same time, handshakes included; more are refused.
    pub connections: usize,
    /// A connection that has not proven its identity by then is closed.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 64, connections: 512, handshake_timeout: Duration::from_secs(5) }
    }
}

/// Called once for each connection that was refused, after it was logged.
pub type OnRefused = Arc<dyn Fn(&Refused) + Send + Sync>;

/// Who may connect.
#[derive(Clone)]
pub struct Admission {
    /// Roles that may connect at all. Every call still checks whether the role may make it.
    pub roles: Vec<Role>,
    /// Bounds on connections.
    pub limits: Limits,
    /// Told of every refusal.
    pub on_refused: OnRefused,
    /// Where those go who show no certificate and say so; `None`: they are refused.
    pub strangers: Option<mpsc::Sender<Io<Stranger>>>,
}

impl Admission {
    /// Admits holders of `roles` of our own cluster, within the default limits.
    pub fn of(roles: impl Into<Vec<Role>>) -> Self {
        Self { roles: roles.into(), limits: Limits::default(), on_refused: Arc::new(|_| {}), strangers: None }
    }

    /// Replaces the limits.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Hands those over who show no certificate and say so ([`join::PROTOCOL`]): what serves them must serve nothing else.
    pub fn strangers(mut self, strangers: mpsc::Sender<Io<Stranger>>) -> Self {
        self.strangers = Some(strangers);
        self
    }

    /// Calls `on_refused` for every refusal.
    pub fn on_refused(mut self, on_refused: impl Fn(&Refused) + Send + Sync + 'static) -> Self {
        self.on_refused = Arc::new(on_refused);
        self
    }

    /// Whether a verified certificate may connect to a process that runs as `own`.
    fn admits(&self, own: &Identity, peer: &Identity) -> Result<(), Reason> {
        if peer.cluster != own.cluster {
            return Err(Reason::Cluster(Box::new(peer.clone())));
        }
        if !self.roles.contains(&peer.role) {
            return Err(Reason::Role(Box::new(peer.clone())));
        }
        Ok(())
    }
}

/// A connection that was refused.
#[derive(Debug, thiserror::Error)]
#[error("refused a connection from {addr}: {reason}")]
pub struct Refused {
    /// Where it came from.
    pub addr: SocketAddr,
    /// Why.
    pub reason: Reason,
}

/// Why a connection was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The handshake failed: certificate missing, expired or of another authority, or no TLS at all.
    #[error("{0}")]
    Handshake(String),
    /// The handshake did not end in time.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// The certificate is valid but names nobody.
    #[error("{0}")]
    Identity(#[from] crate::identity::Error),
    /// The certificate is of another cluster.
    #[error("its certificate is for the {0}, which is not our cluster")]
    Cluster(Box<Identity>),
    /// The role may not connect here.
    #[error("its certificate is for the {0}, and that role may not connect to this port")]
    Role(Box<Identity>),
    /// The bound on connections is reached.
    #[error("there are {0} connections already")]
    TooMany(usize),
}

/// Connections whose peer is verified. Ends the listening when dropped; connections that were handed out live on.
pub struct Incoming {
    ready: mpsc::Receiver<Io<PeerIdentity>>,
    accepting: JoinHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<Io<PeerIdentity>>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts from `listener`. Each refused connection is logged once, at warn, with its address and the reason. A
/// connection that closes without having sent a byte is a port probe: it is neither logged nor reported.
///
/// Must be called within a tokio runtime.
pub fn incoming(listener: Box<dyn Listener>, tls: SharedTls, admission: Admission) -> Incoming {
    let (hand_over, ready) = mpsc::channel(admission.limits.handshakes.max(1));
    let door = Arc::new(Door { tls, admission, hand_over });
    Incoming { ready, accepting: tokio::spawn(accept_all(listener, door)) }
}

struct Door {
    tls: SharedTls,
    admission: Admission,
    hand_over: mpsc::Sender<Io<PeerIdentity>>,
}

/// Whoever shows no certificate is gone after this.
const STRANGER_LIMIT: Duration = Duration::from_secs(30);
/// Pause after the kernel refused to accept, as it does without file descriptors: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept_all(mut listener: Box<dyn Listener>, door: Arc<Door>) {
    let limits = door.admission.limits;
    let handshakes = Arc::new(Semaphore::new(limits.handshakes.max(1)));
    let connections = Arc::new(Semaphore::new(limits.connections.max(1)));
    let mut shaking = JoinSet::new();
    loop {
        while shaking.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, addr)) => match connections.clone().try_acquire_owned() {
                Ok(connection) => {
                    shaking.spawn(door.clone().receive(stream, addr, handshake, connection));
                }
                Err(_) => door.refuse(addr, Reason::TooMany(limits.connections)),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    /// From the first byte to a verified connection that is handed over.
    async fn receive(
        self: Arc<Self>,
        stream: BoxStream,
        addr: SocketAddr,
        handshake: OwnedSemaphorePermit,
        connection: OwnedSemaphorePermit,
    ) {
        let limit = self.admission.limits.handshake_timeout;
        let verified = tokio::time::timeout(limit, self.verify(stream, addr)).await;
        drop(handshake);
        match verified.unwrap_or_else(|_| Err(Some(Reason::Timeout(limit)))) {
            // A closed channel means that the server has ended.
            Ok(Admitted::Peer(io)) => drop(self.hand_over.send(io.holding(connection)).await),
            Ok(Admitted::Stranger(io)) => {
                if let Some(strangers) = &self.admission.strangers {
                    // One too many is dropped.
                    drop(strangers.try_send(io.holding(connection)));
                }
            }
            Err(Some(reason)) => self.refuse(addr, reason),
            Err(None) => {}
        }
    }

    /// `Err(None)` is a port probe, or one that wanted to see our certificate and has.
    async fn verify(&self, stream: BoxStream, addr: SocketAddr) -> Result<Admitted, Option<Reason>> {
        let material = self.tls.current();
        let seen = Arc::new(AtomicBool::new(false));
        let first = FirstByte { stream, seen: seen.clone() };
        let failed = |error: io::Error| Some(Reason::Handshake(refusal::reason(&error)));
        let hello = match LazyConfigAcceptor::new(Acceptor::default(), first).await {
            Ok(hello) => hello,
            Err(_) if !seen.load(Ordering::Relaxed) => return Err(None),
            Err(error) => return Err(failed(error)),
        };
        let joins = hello.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == join::PROTOCOL));
        if joins && self.admission.strangers.is_some() {
            let stream = hello.into_stream(material.joining_config()).await.map_err(failed)?;
            let ending = async {
                tokio::time::sleep(STRANGER_LIMIT).await;
                io::Error::new(io::ErrorKind::TimedOut, "it has taken too long")
            };
            let io = Io::new(Box::new(stream) as BoxStream, Stranger(addr)).with_ending(Box::pin(ending));
            return Ok(Admitted::Stranger(io));
        }
        let mut stream = hello.into_stream(material.server_config()).await.map_err(failed)?;
        if stream.get_ref().1.alpn_protocol() == Some(look::PROTOCOL) {
            let _ = stream.shutdown().await;
            return Err(None);
        }
        let chain: Vec<CertificateDer<'static>> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect();
        let admitted = match chain.first() {
            Some(leaf) => Identity::from_certificate(leaf).map_err(Reason::from),
            None => Err(Reason::Handshake("it presented no certificate".to_owned())),
        };
        let admitted = admitted.and_then(|peer| self.admission.admits(material.identity(), &peer).map(|()| peer));
        let identity = match admitted {
            Ok(identity) => identity,
            Err(reason) => {
                let _ = stream.shutdown().await;
                return Err(Some(reason));
            }
        };
        let tls = self.tls.clone();
        let distrusted = async move {
            let reason = refusal::tls_reason(&tls.distrusted(chain).await);
            tracing::warn!(%addr, reason, "closed a connection whose peer is not trusted any more");
            io::Error::new(io::ErrorKind::PermissionDenied, reason)
        };
        let io = Io::new(Box::new(stream) as BoxStream, PeerIdentity { identity, addr });
        Ok(Admitted::Peer(io.with_ending(Box::pin(distrusted))))
    }

    fn refuse(&self, addr: SocketAddr, reason: Reason) {
        let refused = Refused { addr, reason };
        tracing::warn!(addr = %refused.addr, reason = %refused.reason, "refused a connection");
        (self.admission.on_refused)(&refused);
    }
}

/// Remembers whether a byte ever came.
struct FirstByte {
    stream: BoxStream,
    seen: Arc<AtomicBool>,
}

/// Who was let in.
enum Admitted {
    Peer(Io<PeerIdentity>),
    Stranger(Io<Stranger>),
}

impl tokio::io::AsyncRead for FirstByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.seen.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl tokio::io::AsyncWrite for FirstByte {
    crate::write_to!(stream);
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
