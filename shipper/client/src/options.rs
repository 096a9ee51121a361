//! Where to append, and how.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cfs_model::{ClusterId, Epoch, SiteName};
use cfs_rpc::clock::{Clock, RealClock};
use cfs_rpc::connect::Dial;

/// Where appends go.
#[derive(Clone)]
pub enum Target {
    /// The shipper of this machine, whoever is primary: when another site is, that is an error which names it.
    Unix(PathBuf),
    /// Whichever site is primary, over mTLS with a certificate of the producer role.
    Tls {
        /// Opens verified channels, as [`cfs_rpc::connect::Connector`] does.
        dial: Arc<dyn Dial>,
        /// The cluster whose sites are meant.
        cluster: ClusterId,
        /// Sites and their producer addresses (`HOST:PORT`); at least one, any of them leads to the primary.
        sites: Vec<(SiteName, String)>,
    },
}

/// Told why nothing is acknowledged.
pub type OnWait = Arc<dyn Fn(&str) + Send + Sync>;

/// How to append.
#[derive(Clone)]
pub struct Options {
    /// Asks for more than the site's own durability: `local`, `remote(k)` or empty. The stronger of the two holds.
    pub durability: String,
    /// Entries that may wait for acknowledgement; more make appending wait.
    pub max_entries: usize,
    /// Bytes of entries that may wait for acknowledgement. At least [`cfs_shipper_core::caps::MAX_ENTRY_BYTES`] is used.
    pub max_bytes: usize,
    /// How long to go on without an acknowledgement while entries wait for one, or without a site that answers; `None`:
    /// for ever.
    pub give_up_after: Option<Duration>,
    /// Told why nothing is acknowledged once that has lasted for 3 s, and again, at least 3 s later, when the reason is
    /// another. It must not block.
    pub on_wait: Option<OnWait>,
    /// First pause after a broken connection; doubled after each failure, up to 200 ms in the first 10 s.
    pub min_backoff: Duration,
    /// Longest pause between two attempts after that.
    pub max_backoff: Duration,
    /// Insist on this epoch, and end when it is not the current one. `None`: follow the epoch.
    pub epoch: Option<Epoch>,
    /// Number the first entry so, instead of the one after the highest that the journal holds. Entries up to that one
    /// count as appended already: so a list whose appending broke off is given once more from its start.
    pub first_seq: Option<u64>,
    /// The clock that leases are measured with.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    /// The site's durability, 32,768 entries and 8 MiB in flight, reconnecting for ever after 10 ms to 2 s.
    fn default() -> Self {
        Self {
            durability: String::new(),
            max_entries: 32_768,
            max_bytes: 8 * 1024 * 1024,
            give_up_after: None,
            on_wait: None,
            min_backoff: Duration::from_millis(10),
            max_backoff: Duration::from_secs(2),
            epoch: None,
            first_seq: None,
            clock: Arc::new(RealClock),
        }
    }
}
