//! Why a stream has no writer to give.

use std::io;
use std::path::PathBuf;

use cfs_model::{StreamId, Vector};

/// Why a stream cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one at a time.
    #[error("stream {0} has a writer already")]
    Taken(StreamId),
    /// A write failed before; what is on disk is known only after a restart.
    #[error("a write to stream {0} failed before; restart the process, which recovers what is durable")]
    Failed(StreamId),
    /// The bound on streams is reached.
    #[error("stream {0} cannot be made: the journal holds {max} streams, the limit", max = Vector::MAX_STREAMS)]
    TooMany(StreamId),
    /// Its directory cannot be made.
    #[error("cannot make stream {stream} in {}: {source}", path.display())]
    Io {
        /// The stream.
        stream: StreamId,
        /// Its directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}
