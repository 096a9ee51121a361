//! A connection whose other end has proven who it is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::identity::Identity;
use crate::net::BoxStream;

/// Who is at the other end of a connection between machines. Handlers find it in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// What the verified certificate says.
    pub identity: Identity,
    /// Where the connection came from.
    pub addr: SocketAddr,
}

impl PeerIdentity {
    /// The caller of a request that came over mTLS; `None` for one that came over a Unix socket.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get::<Self>()
    }
}

/// Ends a connection when it completes.
pub(crate) type Ending = Pin<Box<dyn Future<Output = io::Error> + Send>>;

/// A connection and whatever is held as long as it lives.
pub struct Io<P> {
    stream: BoxStream,
    peer: P,
    /// Bytes that were read before the connection was handed over.
    early: Vec<u8>,
    ending: Option<Ending>,
    _held: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl<P> Io<P> {
    /// A connection whose peer is known by other means than this package's: for simulations, which bring their own.
    pub fn new(stream: BoxStream, peer: P) -> Self {
        Self { stream, peer, early: Vec::new(), ending: None, _held: None }
    }

    pub(crate) fn with_early(mut self, early: Vec<u8>) -> Self {
        self.early = early;
        self
    }

    pub(crate) fn with_ending(mut self, ending: Ending) -> Self {
        self.ending = Some(ending);
        self
    }

    pub(crate) fn holding(mut self, permit: tokio::sync::OwnedSemaphorePermit) -> Self {
        self._held = Some(permit);
        self
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &P {
        &self.peer
    }
}

impl<P: Clone + Send + Sync + 'static> Connected for Io<P> {
    type ConnectInfo = P;
    fn connect_info(&self) -> P {
        self.peer.clone()
    }
}

impl<P: Unpin> AsyncRead for Io<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(Poll::Ready(error)) = self.ending.as_mut().map(|ending| ending.as_mut().poll(cx)) {
            self.ending = None;
            return Poll::Ready(Err(error));
        }
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..n]);
            self.early.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<P: Unpin> AsyncWrite for Io<P> {
    crate::write_to!(stream);
}

/// The methods of `AsyncWrite` for a type that hands all of them to its field of this name.
#[macro_export]
macro_rules! write_to {
    ($field:ident) => {
        fn poll_write(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            bytes: &[u8],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$field).poll_write(cx, bytes)
        }

        fn poll_write_vectored(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
            slices: &[::std::io::IoSlice<'_>],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.$field).poll_write_vectored(cx, slices)
        }

        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }

        fn poll_flush(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$field).poll_flush(cx)
        }

        fn poll_shutdown(
            mut self: ::std::pin::Pin<&mut Self>,
            cx: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.$field).poll_shutdown(cx)
        }
    };
}
