//! The record of a cluster: what was made, and which processes run.

use std::io;
use std::path::{Path, PathBuf};

use cfs_model::{SiteId, SiteName};
use cfs_rpc::private_file;
use serde::{Deserialize, Serialize};

use super::error::{Error, file_error};
use super::ports::{self, Ports, Proxied, Route};
use super::process::Process;

/// Name of the record in the cluster's directory.
pub(super) const RECORD: &str = "dev.json";
const SCHEMA: &str = "cfs.dev/2";

/// What runs at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Its control process
    Control,
    /// Its shipper
    Shipper,
}

impl Part {
    /// As it stands in file names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Shipper => "shipper",
        }
    }
}

/// One site as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Its number, from 1.
    pub id: SiteId,
    /// Whether it only votes: then it has no shipper.
    pub witness: bool,
    /// Where it listens, on 127.0.0.1.
    pub ports: Ports,
    /// Its directory of sockets, short enough for them.
    pub run: PathBuf,
    /// Whether it belongs to the group: the first site founds it, the others are enrolled once.
    pub enrolled: bool,
    /// The control process that was started last, if it was not stopped since.
    pub control: Option<Process>,
    /// The shipper that was started last, if it was not stopped since.
    pub shipper: Option<Process>,
}

impl Site {
    /// What runs here when all is well.
    pub fn parts(&self) -> &'static [Part] {
        if self.witness { &[Part::Control] } else { &[Part::Control, Part::Shipper] }
    }

    /// The process of a part that was started last.
    pub const fn process(&self, part: Part) -> Option<Process> {
        match part {
            Part::Control => self.control,
            Part::Shipper => self.shipper,
        }
    }

    pub(super) const fn process_mut(&mut self, part: Part) -> &mut Option<Process> {
        match part {
            Part::Control => &mut self.control,
            Part::Shipper => &mut self.shipper,
        }
    }

    /// Whether this part runs now.
    pub fn runs(&self, part: Part) -> bool {
        self.process(part).is_some_and(Process::is_alive)
    }

    /// Whether all that should run here does, and is not paused.
    pub fn is_up(&self) -> bool {
        let is_up = |part: &Part| self.process(*part).is_some_and(|process| process.is_alive() && !process.is_paused());
        self.parts().iter().all(is_up)
    }

    /// Ports that this part listens on.
    pub(super) fn ports_of(&self, part: Part) -> Vec<u16> {
        let p = self.ports;
        match part {
            Part::Control => vec![p.control, p.http],
            Part::Shipper => vec![p.peer, p.shipper_http, p.producer],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    schema: String,
    pub(super) cluster: String,
    /// Whether the file with which the first site founds the cluster was written: it is written once.
    pub(super) founding_written: bool,
    /// Whether sites are started and enrolled by hand only.
    #[serde(default)]
    pub(super) by_hand: bool,
    /// The first port of the fault proxy.
    pub(super) proxy_port: u16,
    /// The fault proxy that was started last, if it was not stopped since.
    pub(super) proxy: Option<Process>,
    /// The witness is the last.
    pub(super) sites: Vec<Site>,
}

impl Record {
    pub(super) fn new(cluster: String, proxy_port: u16, sites: Vec<Site>) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            cluster,
            founding_written: false,
            by_hand: false,
            proxy_port,
            proxy: None,
            sites,
        }
    }

    /// Reads the record in `dir`; `None` if there is none. Blocks.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(RECORD);
        let bytes = match private_file::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(path)(error)),
        };
        let bad = |why: String| Error::Record { path: path.clone(), why };
        let record: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if record["schema"] != SCHEMA {
            return Err(bad(format!("it is {}, this version reads {SCHEMA:?}", record["schema"])));
        }
        serde_json::from_value(record).map(Some).map_err(|e| bad(e.to_string()))
    }

    /// Writes the record to `dir`; it is on stable storage on return. Blocks.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(RECORD);
        let text =
            serde_json::to_vec_pretty(self).map_err(|e| Error::Record { path: path.clone(), why: e.to_string() })?;
        let saved = private_file::replace(dir, RECORD, &text).or_else(|error| match error.kind() {
            io::ErrorKind::StorageFull => overwrite(&path, &text),
            _ => Err(error),
        });
        saved.map_err(file_error(path))
    }

    pub(super) fn is_gone(dir: &Path) -> bool {
        !dir.join(RECORD).exists()
    }

    /// The fault proxy's ports for connections of one site to another.
    pub(super) fn proxied(&self, from: usize, to: usize) -> Proxied {
        ports::proxied(self.proxy_port, self.sites.len(), from, to)
    }

    /// Every port of the fault proxy and where it leads.
    pub(super) fn routes(&self) -> Vec<Route> {
        let all = 0..self.sites.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to))).filter(|(from, to)| from != to);
        pairs
            .flat_map(|(from, to)| {
                let (at, target) = (self.proxied(from, to), self.sites[to].ports);
                let route = |listen, target| Route { from, to, listen, target };
                [route(at.peer, target.peer), route(at.control, target.control)]
            })
            .collect()
    }

    pub(super) fn names(&self) -> String {
        self.sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Writes into the file that is there, which takes no space that it does not have: on a full disk a cluster can still be
/// ended and started. Not atomic.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    std::os::unix::fs::FileExt::write_all_at(&file, content, 0)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}
