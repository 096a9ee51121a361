//! The one-time file that lets a site's control process found a cluster.

use std::path::{Path, PathBuf};

use cfs_model::ClusterId;
use cfs_rpc::private_file;
use rand::RngCore;
use serde::{Deserialize, Serialize};

/// The form of the file that this version writes.
const FORMAT: u32 = 1;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Version of this form.
    pub format: u32,
    /// The cluster to be founded; the configuration and the certificates must name the same.
    pub cluster: String,
    /// Random, so that no two files are alike: whoever consumed one knows it again.
    pub token: String,
}

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct Error {
    /// Which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// Writes the file (0600); it is on stable storage on return. The first control process of this configuration that starts
/// without a state of its own consumes it. Blocks.
///
/// # Errors
/// [`Error`] with the file that could not be written.
pub fn write(path: &Path, cluster: ClusterId) -> Result<(), Error> {
    let failed = |source| Error { path: path.to_owned(), source };
    let mut token = [0_u8; 16];
    rand::rng().fill_bytes(&mut token);
    let token = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let founding = Founding { format: FORMAT, cluster: cluster.to_string(), token };
    let text = serde_json::to_vec(&founding).map_err(|e| failed(e.into()))?;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    };
    private_file::replace(dir, name, &text).map_err(failed)
}
