//! How bytes reach another machine: behind traits, so that a simulation can supply its own network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Any stream.
pub type BoxStream = Box<dyn Stream>;

/// A network to connect over and to listen on.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `addr`, which is `HOST:PORT` with a name or an IP address; an IPv6 address stands in brackets.
    /// Every address of a name is tried in turn. Sets no time limit: the caller does.
    async fn connect(&self, addr: &str) -> io::Result<BoxStream>;

    /// Listens on `addr`, which is `HOST:PORT`; port 0 lets the system choose one.
    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>>;
}

/// Yields connections.
#[async_trait]
pub trait Listener: Send + 'static {
    /// Waits for the next connection. Errors concern one connection or pass with time: call again after a pause.
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)>;

    /// Where it listens, with the port that the system chose.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Buffer wanted in each direction of a socket: fills 1 Gbit/s over a round trip of more than 200 ms.
const WANTED_BUFFER_BYTES: usize = 32 * 1024 * 1024;
/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 1024;

/// TCP as the kernel does it.
#[derive(Debug, Clone, Copy)]
pub struct RealNet {
    buffers: Buffers,
}

impl RealNet {
    /// Reads the kernel's limits on socket buffers once.
    pub fn new() -> Self {
        Self {
            buffers: Buffers {
                receive: worth_setting("net/core/rmem_max", "net/ipv4/tcp_rmem"),
                send: worth_setting("net/core/wmem_max", "net/ipv4/tcp_wmem"),
            },
        }
    }

    /// The same, ready to hand over.
    pub fn shared() -> Arc<dyn Net> {
        Arc::new(Self::new())
    }

    fn socket(&self, addr: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Before connecting and listening: the window's scale is agreed in the first packet.
        self.buffers.set(&socket2::SockRef::from(&socket));
        Ok(socket)
    }
}

impl Default for RealNet {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Net for RealNet {
    async fn connect(&self, addr: &str) -> io::Result<BoxStream> {
        let mut last = no_address(addr);
        for candidate in lookup_host(addr).await? {
            match self.socket(candidate)?.connect(candidate).await {
                Ok(stream) => return Ok(Box::new(prepared(stream)?)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        let addr = lookup_host(addr).await?.next().ok_or_else(|| no_address(addr))?;
        let socket = self.socket(addr)?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(Box::new(RealListener(socket.listen(BACKLOG)?)))
    }
}

struct RealListener(TcpListener);

#[async_trait]
impl Listener for RealListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Box::new(prepared(stream)?), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn no_address(addr: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{addr} has no address"))
}

/// Sizes to ask for; `None` leaves a direction to the kernel.
#[derive(Debug, Clone, Copy)]
struct Buffers {
    receive: Option<usize>,
    send: Option<usize>,
}

impl Buffers {
    /// Best effort: smaller buffers make a long link slower, not wrong.
    fn set(self, socket: &socket2::SockRef<'_>) {
        if let Some(bytes) = self.receive {
            let _ = socket.set_recv_buffer_size(bytes);
        }
        if let Some(bytes) = self.send {
            let _ = socket.set_send_buffer_size(bytes);
        }
    }
}

/// The size to ask for, if asking helps. A size that is set switches the kernel's own tuning off, so asking for what
/// `hard_limit` cuts to less than that tuning would reach makes a long link slower.
fn worth_setting(hard_limit: &str, tuning: &str) -> Option<usize> {
    let read = |name: &str| -> Option<usize> {
        std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.split_whitespace().last()?.parse().ok()
    };
    let granted = WANTED_BUFFER_BYTES.min(read(hard_limit)?);
    (granted > read(tuning)?).then_some(granted)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn names_and_addresses_connect() -> io::Result<()> {
        let net = RealNet::new();
        let mut listener = net.bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        for host in ["127.0.0.1", "localhost"] {
            let addr = format!("{host}:{port}");
            let (client, server) = tokio::join!(net.connect(&addr), listener.accept());
            client?.write_all(b"x").await?;
            assert_eq!(server?.0.read_u8().await?, b'x');
        }
        for bad in ["127.0.0.1", "localhost:x", ""] {
            assert!(net.connect(bad).await.is_err(), "{bad}");
        }
        Ok(())
    }
}
