//! A cluster's directory and its record, `dev.json`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cfs_model::{SiteId, SiteName};
use cfs_rpc::private_file;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::ports::{self, Ports};
use super::process::{self, Process};
use super::{Error, layout};

/// Name of the record in the cluster's directory.
pub(super) const RECORD: &str = "dev.json";
const LOCK: &str = "dev.lock";
const SCHEMA: &str = "cfs.dev/1";
/// How long a shipper may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// One site as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Its number, from 1.
    pub id: SiteId,
    /// Where it listens, on 127.0.0.1.
    pub ports: Ports,
    /// Its directory of sockets, short enough for them.
    pub run: PathBuf,
    /// The incarnation of its stream that was allotted last; 0: none.
    pub incarnation: u64,
    /// The shipper that was started last, if it was not stopped since.
    pub process: Option<Process>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    schema: String,
    pub(super) cluster: String,
    pub(super) sites: Vec<Site>,
}

/// A cluster, locked against other `cfs dev` commands while this exists.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    pub(super) record: Record,
    _lock: File,
}

impl Cluster {
    /// Opens the cluster in `dir`. Waits for other `cfs dev` commands on it; blocks.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Record`], [`Error::File`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let missing = || Error::Missing { dir: dir.to_owned() };
        let dir = std::fs::canonicalize(dir).map_err(|_| missing())?;
        if !dir.join(RECORD).exists() {
            return Err(missing());
        }
        let lock = lock(&dir)?;
        // Another command may have purged it meanwhile.
        let record = read(&dir)?.ok_or_else(missing)?;
        Ok(Self { dir, record, _lock: lock })
    }

    /// Opens the cluster in `dir`, or makes one there: ports, certificates and configuration, but no process. What an
    /// earlier attempt left unfinished is finished. Blocks.
    ///
    /// # Errors
    /// When `dir` holds anything else, or a cluster of other sites; when no ports are free; when files cannot be written.
    pub fn open_or_create(dir: &Path, names: Option<&[SiteName]>, base_port: Option<u16>) -> Result<Self, Error> {
        check_is_ours(dir)?;
        let file = |path: &Path| file_error(path.to_owned());
        private_file::create_directory(dir).map_err(file(dir))?;
        let dir = std::fs::canonicalize(dir).map_err(file(dir))?;
        let lock = lock(&dir)?;
        let record = match read(&dir)? {
            Some(record) => {
                let same = names.is_none_or(|names| names.iter().eq(record.sites.iter().map(|site| &site.name)));
                if !same {
                    return Err(Error::OtherSites { have: names_of(&record.sites), dir });
                }
                record
            }
            None => found(&dir, names.unwrap_or(&default_sites()), base_port)?,
        };
        let cluster = Self { dir, record, _lock: lock };
        cluster.save()?;
        layout::complete(&cluster)?;
        Ok(cluster)
    }

    /// Its directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.cluster
    }

    /// Its sites; the first one is the primary.
    pub fn sites(&self) -> &[Site] {
        &self.record.sites
    }

    /// The index of a site.
    ///
    /// # Errors
    /// [`Error::NoSite`].
    pub fn index(&self, name: &str) -> Result<usize, Error> {
        let found = self.record.sites.iter().position(|site| site.name.as_str() == name);
        found.ok_or_else(|| Error::NoSite { name: name.to_owned(), have: names_of(&self.record.sites) })
    }

    /// A site's own directory.
    pub fn site_dir(&self, site: &Site) -> PathBuf {
        self.dir.join(site.name.as_str())
    }

    /// A site's configuration file.
    pub fn config_path(&self, site: &Site) -> PathBuf {
        self.site_dir(site).join("repl.toml")
    }

    /// A site's Unix socket.
    pub fn socket(&self, site: &Site) -> PathBuf {
        site.run.join("shipper.sock")
    }

    /// Where a site's shipper writes its log.
    pub fn log_path(&self, site: &Site) -> PathBuf {
        self.site_dir(site).join("shipper.log")
    }

    /// Starts a site's shipper unless it runs. Blocks briefly.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&mut self, index: usize) -> Result<bool, Error> {
        let site = &self.record.sites[index];
        if site.process.is_some_and(|process| process.is_alive()) {
            return Ok(false);
        }
        ports::check_free(site.ports)?;
        let process = process::spawn_shipper(&self.config_path(site), &self.log_path(site))?;
        let pid_file = self.pid_path(site);
        self.record.sites[index].process = Some(process);
        if let Err(error) = self.save() {
            // A process that no record names would outlive the cluster.
            process.kill(STOP_LIMIT)?;
            return Err(error);
        }
        if let Err(error) = std::fs::write(&pid_file, format!("{}\n", process.pid)) {
            tracing::warn!(%error, path = %pid_file.display(), "the file with its pid cannot be written; the record has it");
        }
        Ok(true)
    }

    /// Ends a site's shipper: by SIGTERM and waiting, or by SIGKILL. Returns whether it ran. Blocks until it is gone.
    ///
    /// # Errors
    /// When it is still there after 15 s.
    pub fn end(&mut self, index: usize, kill: bool) -> Result<bool, Error> {
        let ran = match self.record.sites[index].process {
            Some(process) if kill => process.kill(STOP_LIMIT)?,
            Some(process) => process.stop(STOP_LIMIT)?,
            None => false,
        };
        self.record.sites[index].process = None;
        self.save()?;
        let pid_file = self.pid_path(&self.record.sites[index]);
        match std::fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(pid_file)(error)),
            _ => Ok(ran),
        }
    }

    /// Ends every process and removes what lies outside of the directory. With `purge` the directory goes too.
    ///
    /// # Errors
    /// When a process survives or a file cannot be removed.
    pub fn down(mut self, purge: bool) -> Result<(), Error> {
        for index in 0..self.record.sites.len() {
            if let Err(error) = self.end(index, false) {
                tracing::warn!(%error, "it did not end by itself and is killed");
                self.end(index, true)?;
            }
        }
        for site in &self.record.sites {
            if !site.run.starts_with(&self.dir) {
                remove_tree(&site.run)?;
            }
        }
        // The record says that the directory is ours: nothing else is ever removed.
        if purge && self.dir.join(RECORD).exists() {
            remove_tree(&self.dir)?;
        }
        Ok(())
    }

    /// Allots the next incarnation of a site's stream. It is on stable storage before this returns, so that none is
    /// ever allotted twice (invariant 3).
    pub(super) fn allot_incarnation(&mut self, index: usize) -> Result<u64, Error> {
        self.record.sites[index].incarnation += 1;
        self.save()?;
        Ok(self.record.sites[index].incarnation)
    }

    fn pid_path(&self, site: &Site) -> PathBuf {
        self.site_dir(site).join("shipper.pid")
    }

    fn save(&self) -> Result<(), Error> {
        let path = self.dir.join(RECORD);
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|e| Error::Record { path: path.clone(), why: e.to_string() })?;
        let saved = private_file::replace(&self.dir, RECORD, &text).or_else(|error| match error.kind() {
            io::ErrorKind::StorageFull => overwrite(&path, &text),
            _ => Err(error),
        });
        saved.map_err(file_error(path))
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

/// Refuses a directory that holds anything but a cluster.
fn check_is_ours(dir: &Path) -> Result<(), Error> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file_error(dir.to_owned())(error)),
    };
    let foreign = entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK));
    if foreign && !dir.join(RECORD).exists() {
        return Err(Error::Foreign { dir: dir.to_owned() });
    }
    Ok(())
}

fn found(dir: &Path, names: &[SiteName], base_port: Option<u16>) -> Result<Record, Error> {
    let mut sorted: Vec<&SiteName> = names.iter().collect();
    sorted.sort();
    sorted.dedup();
    if names.is_empty() || names.len() > ports::MAX_SITES || sorted.len() != names.len() {
        return Err(Error::Sites(format!("give --sites from 1 to {} different names", ports::MAX_SITES)));
    }
    let cluster = layout::new_cluster_id();
    let ports = ports::choose(names.len(), base_port)?;
    let sites: Vec<Site> = names
        .iter()
        .zip(ports)
        .enumerate()
        .map(|(index, (name, ports))| {
            let id = SiteId(u8::try_from(index + 1).unwrap_or(u8::MAX));
            let run = layout::run_directory(dir, name, &cluster);
            Site { name: name.clone(), id, ports, run, incarnation: 0, process: None }
        })
        .collect();
    Ok(Record { schema: SCHEMA.to_owned(), cluster, sites })
}

fn default_sites() -> Vec<SiteName> {
    ["site-a", "site-b"].iter().filter_map(|name| SiteName::new(*name).ok()).collect()
}

fn names_of(sites: &[Site]) -> String {
    sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn read(dir: &Path) -> Result<Option<Record>, Error> {
    let path = dir.join(RECORD);
    let bytes = match private_file::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path)(error)),
    };
    let bad = |why: String| Error::Record { path: path.clone(), why };
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if record.schema != SCHEMA {
        return Err(bad(format!("it is {:?}, this version reads {SCHEMA:?}", record.schema)));
    }
    Ok(Some(record))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(file_error(path.clone()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        anstream::eprintln!("waiting for another `cfs dev` command on {}", dir.display());
        flock(&file, FlockOperation::LockExclusive).map_err(|e| file_error(path)(e.into()))?;
    }
    Ok(file)
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path.to_owned())(error)),
        _ => Ok(()),
    }
}

fn file_error(path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path, source }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
