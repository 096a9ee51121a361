//! A network whose owner can be cut off, and is far away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cfs_rpc::net::{BoxStream, Listener, Net, RealNet};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Real sockets, with every byte passing a gate.
#[derive(Clone)]
pub(crate) struct TestNet {
    real: Arc<RealNet>,
    /// Nothing passes while this is set; nothing is lost either.
    pub(crate) cut: watch::Sender<bool>,
    /// In each direction, on connections that this side opened.
    pub(crate) delay: watch::Sender<Duration>,
}

impl TestNet {
    pub(crate) fn new() -> Self {
        Self { real: Arc::new(RealNet::new()), cut: watch::Sender::new(false), delay: watch::Sender::default() }
    }

    fn gate(&self, stream: BoxStream, delayed: bool) -> BoxStream {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (read, write) = tokio::io::split(stream);
        let (read2, write2) = tokio::io::split(theirs);
        tokio::spawn(pump(read, write2, self.clone(), delayed));
        tokio::spawn(pump(read2, write, self.clone(), delayed));
        Box::new(ours)
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin + Send + 'static,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    net: TestNet,
    delayed: bool,
) {
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let (mut cut, delay) = (net.cut.subscribe(), net.delay.subscribe());
    tokio::spawn(async move {
        loop {
            let mut bytes = vec![0; 16 * 1024];
            let read = from.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(read);
            let pause = if delayed { *delay.borrow() } else { Duration::ZERO };
            if sender.send((Instant::now() + pause, bytes)).await.is_err() || read == 0 {
                return;
            }
        }
    });
    while let Some((at, bytes)) = queue.recv().await {
        tokio::time::sleep_until(at).await;
        if cut.wait_for(|cut| !cut).await.is_err() || bytes.is_empty() || to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[async_trait]
impl Net for TestNet {
    async fn connect(&self, addr: &str) -> io::Result<BoxStream> {
        let delay = *self.delay.borrow();
        tokio::time::sleep(2 * delay).await;
        let mut cut = self.cut.subscribe();
        let _ = cut.wait_for(|cut| !cut).await;
        Ok(self.gate(self.real.connect(addr).await?, true))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(Gated(self.real.bind(addr).await?, self.clone())))
    }
}

struct Gated(Box<dyn Listener>, TestNet);

#[async_trait]
impl Listener for Gated {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, addr) = self.0.accept().await?;
        Ok((self.1.gate(stream, false), addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
