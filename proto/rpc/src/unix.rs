//! Unix sockets between processes of one machine: the socket's mode and the caller's uid decide who may speak.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::http2;
use crate::io::Io;
use crate::private_file;

/// Connections to one socket at the same time; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 512;

/// What went wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process answers on it.
    #[error("a process listens on {0} already: stop it first, two must not serve one site")]
    InUse(PathBuf),
    /// Something that is not a socket stands there.
    #[error("{0} exists and is no socket: move it away")]
    NotASocket(PathBuf),
    /// It could not be made.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("nothing answers on {path}: is the process that serves it running? ({source})")]
    Down {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket belongs to somebody else.
    #[error("may not connect to {0}: run as root or as the user of the process that serves it")]
    Forbidden(PathBuf),
    /// It answers, but not as gRPC.
    #[error("what listens on {path} does not answer as gRPC: {reason}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What the library said.
        reason: String,
    },
}

/// The process at the other end. Handlers find it in a request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPeer {
    /// Its effective user when it connected: ours, or root; on a socket of a group, anybody of that group too.
    pub uid: u32,
    /// Its process number, where the kernel tells.
    pub pid: Option<i32>,
}

impl LocalPeer {
    /// The caller of a request that came over a Unix socket; `None` for one that came over mTLS.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get::<Self>()
    }
}

/// Listens on `path` with mode 0600; creates its directory with 0700 if it is missing. A socket that a dead process left
/// behind is replaced. Must be called within a tokio runtime.
///
/// # Errors
/// [`Error::InUse`] if somebody answers there, [`Error::NotASocket`], [`Error::Listen`].
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    bind_with(path, None)
}

/// The same for a socket that members of the Unix group `group` may connect to as well (mode 0660). A directory of ours that
/// nobody else may enter is opened to them for that (mode 0750). Without such a group on this machine both are as private
/// as [`bind`] makes them. Take connections with [`incoming_of_group`].
///
/// # Errors
/// Those of [`bind`].
pub fn bind_for_group(path: &Path, group: &str) -> Result<UnixListener, Error> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    bind_with(path, group_number(&groups, group))
}

/// The number of a group in the form of group(5).
fn group_number(groups: &str, name: &str) -> Option<u32> {
    let mut fields = groups.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
    fields.nth(1)?.parse().ok()
}

fn bind_with(path: &Path, group: Option<u32>) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        private_file::create_directory(dir).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => remove_stale(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Until here only the directory's mode protects the socket; whoever slipped in is still refused by its uid.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    if let Some(group) = group {
        if let Some(dir) = path.parent() {
            open_to_group(dir, group);
        }
        // A process that may not give the socket to the group keeps it to itself.
        match give_to(path, group) {
            Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?,
            Err(error) => {
                tracing::warn!(path = %path.display(), group, %error, "the socket cannot be given to the group");
            }
        }
    }
    Ok(listener)
}

/// Lets a group into a directory that only we may enter. One that is not ours, or that is open to others already, stays as
/// somebody made it.
fn open_to_group(dir: &Path, group: u32) {
    let own = rustix::process::geteuid().as_raw();
    let closed = std::fs::metadata(dir).is_ok_and(|meta| meta.uid() == own && meta.mode() & 0o777 == 0o700);
    if !closed {
        return;
    }
    let opened =
        give_to(dir, group).and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o750)));
    if let Err(error) = opened {
        tracing::warn!(dir = %dir.display(), group, %error, "the directory of the socket cannot be opened to the group");
    }
}

fn give_to(path: &Path, group: u32) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.gid() == group => Ok(()),
        _ => std::os::unix::fs::chown(path, None, Some(group)),
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(Error::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| Error::Listen { path: path.to_owned(), source })
        }
        Err(source) => Err(Error::Listen { path: path.to_owned(), source }),
    }
}

/// Connections from our own user and from root. Ends the listening when dropped.
pub struct Incoming {
    ready: mpsc::Receiver<Io<LocalPeer>>,
    accepting: JoinHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<Io<LocalPeer>>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What `serve_with_incoming` of tonic takes. Connections of other users are closed and logged. Must be called within a
/// tokio runtime.
pub fn incoming(listener: UnixListener) -> Incoming {
    take_from(listener, may_speak)
}

/// The same for a socket made by [`bind_for_group`]: whoever the socket's mode lets connect is handed over, and handlers
/// look at [`LocalPeer::uid`] before they change anything.
pub fn incoming_of_group(listener: UnixListener) -> Incoming {
    take_from(listener, |_, _| true)
}

fn take_from(listener: UnixListener, may_speak: fn(u32, u32) -> bool) -> Incoming {
    let (hand_over, ready) = mpsc::channel(16);
    Incoming { ready, accepting: tokio::spawn(accept_all(listener, hand_over, may_speak)) }
}

async fn accept_all(listener: UnixListener, hand_over: mpsc::Sender<Io<LocalPeer>>, may_speak: fn(u32, u32) -> bool) {
    let own = rustix::process::geteuid().as_raw();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(connection) = connections.clone().acquire_owned().await else { return };
        let accepted = match listener.accept().await {
            Ok((stream, _)) => stream.peer_cred().map(|credentials| (stream, credentials)),
            Err(error) => Err(error),
        };
        match accepted {
            Ok((_, credentials)) if !may_speak(credentials.uid(), own) => {
                tracing::warn!(
                    uid = credentials.uid(),
                    pid = credentials.pid(),
                    "refused a local connection of another user"
                );
            }
            Ok((stream, credentials)) => {
                let peer = LocalPeer { uid: credentials.uid(), pid: credentials.pid() };
                if hand_over.send(Io::new(Box::new(stream), peer).holding(connection)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a local connection, trying again");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

fn may_speak(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

/// A channel to the process that listens on `path`. A channel whose
/// connection broke connects again at its next call.
///
/// # Errors
/// [`Error::Down`] when nobody listens, [`Error::Forbidden`], [`Error::Protocol`].
pub async fn connect(path: &Path) -> Result<Channel, Error> {
    connect_with(path, |endpoint| endpoint).await
}

/// The same for a reader that wants to be kept waiting rather than to be sent ahead: no more than `bytes` are on their way to it.
///
/// # Errors
/// Those of [`connect`].
pub async fn connect_narrow(path: &Path, bytes: u32) -> Result<Channel, Error> {
    connect_with(path, |endpoint| endpoint.initial_stream_window_size(bytes).initial_connection_window_size(bytes))
        .await
}

async fn connect_with(path: &Path, change: impl FnOnce(Endpoint) -> Endpoint) -> Result<Channel, Error> {
    // tonic would hide this error's text behind "transport error".
    drop(UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => Error::Forbidden(path.to_owned()),
        _ => Error::Down { path: path.to_owned(), source },
    })?);
    let at = path.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let at = at.clone();
        async move { UnixStream::connect(at).await.map(TokioIo::new) }
    });
    let endpoint = change(http2::client(Endpoint::from_static("http://localhost")));
    endpoint
        .connect_with_connector(connect)
        .await
        .map_err(|error| Error::Protocol { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
#[path = "unix_tests.rs"]
mod tests;
