//! A connection that tells when it ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use cfs_rpc::net::{BoxStream, Listener, Net};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Watch {
    received: AtomicU64,
    ended: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { received: AtomicU64::new(0), ended: watch::Sender::new(false), cut: watch::Sender::new(false) }
    }

    /// Bytes that came so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Completes when the other end has closed it, or it broke.
    pub(super) async fn ended(&self) {
        // The sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn end(&self) {
        self.ended.send_if_modified(|ended| !std::mem::replace(ended, true));
    }
}

/// A network for one connection: a second attempt over it fails, so that a channel whose connection broke stays broken
/// and whoever watches it decides.
pub(super) struct WatchedNet {
    net: Arc<dyn Net>,
    watch: Arc<Watch>,
    used: AtomicBool,
    took: OnceLock<Duration>,
}

impl WatchedNet {
    pub(super) fn new(net: Arc<dyn Net>, watch: Arc<Watch>) -> Self {
        Self { net, watch, used: AtomicBool::new(false), took: OnceLock::new() }
    }

    /// How long connecting took: one round trip.
    pub(super) fn connect_time(&self) -> Option<Duration> {
        self.took.get().copied()
    }
}

#[async_trait]
impl Net for WatchedNet {
    async fn connect(&self, addr: &str) -> io::Result<BoxStream> {
        if self.used.swap(true, Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the connection broke"));
        }
        let began = Instant::now();
        let stream = self.net.connect(addr).await?;
        let _ = self.took.set(began.elapsed());
        let mut cut = self.watch.cut.subscribe();
        let cut = Box::pin(async move {
            let _ = cut.wait_for(|cut| *cut).await;
        });
        Ok(Box::new(Watched { stream, watch: self.watch.clone(), cut: Some(cut) }))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        self.net.bind(addr).await
    }
}

struct Watched {
    stream: BoxStream,
    watch: Arc<Watch>,
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.end();
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            self.cut = None;
            self.watch.end();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().len() - before;
                self.watch.received.fetch_add(bytes as u64, Ordering::Relaxed);
                if bytes == 0 && room {
                    self.watch.end();
                }
            }
            Poll::Ready(Err(_)) => self.watch.end(),
            Poll::Pending => {}
        }
        polled
    }
}

impl AsyncWrite for Watched {
    cfs_rpc::write_to!(stream);
}
