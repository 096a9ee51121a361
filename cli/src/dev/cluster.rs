//! A cluster's directory: making it, opening it, finding one's way in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use cfs_model::{SiteId, SiteName};
use cfs_rpc::private_file;
use rustix::fs::{FlockOperation, flock};

use super::error::{Error, file_error};
use super::process::Process;
use super::record::{Part, RECORD, Record, Site};
use super::{layout, ports};

const LOCK: &str = "dev.lock";
/// Most sites with a shipper of a cluster on one machine.
const MAX_DATA_SITES: usize = 5;

/// What a cluster is to be like. What is not said is as it is, or the default of a new cluster.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Sites that store data, the first primary first: site-a and site-b.
    pub sites: Option<Vec<SiteName>>,
    /// A site that only votes: none.
    pub witness: Option<SiteName>,
    /// The first port: one where all are free.
    pub base_port: Option<u16>,
    /// Sites are started and enrolled by hand; counts when the cluster is made.
    pub by_hand: bool,
}

/// A cluster. One that was opened is locked against other `cfs dev` commands that start or end processes, while this
/// exists; one that is only looked at is not.
#[derive(Debug)]
pub struct Cluster {
    pub(super) dir: PathBuf,
    pub(super) record: Record,
    lock: Option<File>,
}

impl Cluster {
    /// Opens the cluster in `dir`. Waits for other `cfs dev` commands on it; blocks.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Record`], [`Error::File`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let dir = existing(dir)?;
        let lock = lock(&dir)?;
        Self::read(dir, Some(lock))
    }

    /// Reads the record of the cluster in `dir` without waiting for anybody. What it shows may change at any time, and
    /// it must not start or end anything. Blocks briefly.
    ///
    /// # Errors
    /// Those of [`Cluster::open`].
    pub fn look(dir: &Path) -> Result<Self, Error> {
        Self::read(existing(dir)?, None)
    }

    fn read(dir: PathBuf, lock: Option<File>) -> Result<Self, Error> {
        // Another command may have purged it meanwhile.
        let record = Record::read(&dir)?.ok_or_else(|| Error::Missing { dir: dir.clone() })?;
        Ok(Self { dir, record, lock })
    }

    /// Opens the cluster in `dir`, or makes one there: ports, certificates and configuration, but no process. What an
    /// earlier attempt left unfinished is finished. Blocks.
    ///
    /// # Errors
    /// When `dir` holds anything else, or a cluster that is not as planned; when no ports are free; when files cannot be
    /// written.
    pub fn open_or_create(dir: &Path, plan: &Plan) -> Result<Self, Error> {
        check_is_ours(dir)?;
        let is_new = !dir.exists();
        let file = |path: &Path| file_error(path.to_owned());
        private_file::create_directory(dir).map_err(file(dir))?;
        let dir = std::fs::canonicalize(dir).map_err(file(dir))?;
        let lock = lock(&dir)?;
        let record = match Record::read(&dir)? {
            Some(record) => {
                check_plan(&dir, &record, plan)?;
                record
            }
            None => found(&dir, plan).inspect_err(|_| unmake(&dir, is_new))?,
        };
        let mut cluster = Self { dir, record, lock: Some(lock) };
        cluster.save()?;
        layout::complete(&cluster)?;
        if !cluster.record.founding_written {
            layout::write_founding(&cluster)?;
            // Before any process starts: what is consumed is never written again.
            cluster.record.founding_written = true;
            cluster.save()?;
        }
        Ok(cluster)
    }

    /// Lets other commands have the cluster; from now on it is only looked at.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Reads the record again if other commands may change it. Blocks briefly.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        if self.lock.is_none()
            && let Some(record) = Record::read(&self.dir)?
        {
            self.record = record;
        }
        Ok(())
    }

    /// Its directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.cluster
    }

    /// Its sites; the first one founds the cluster and is its first primary, a witness is the last.
    pub fn sites(&self) -> &[Site] {
        &self.record.sites
    }

    /// The fault proxy that was started last.
    pub fn proxy(&self) -> Option<Process> {
        self.record.proxy.filter(|process| process.is_alive())
    }

    /// The index of a site.
    ///
    /// # Errors
    /// [`Error::NoSite`].
    pub fn index(&self, name: &str) -> Result<usize, Error> {
        let found = self.record.sites.iter().position(|site| site.name.as_str() == name);
        found.ok_or_else(|| Error::NoSite { name: name.to_owned(), have: self.record.names() })
    }

    /// A site's own directory.
    pub fn site_dir(&self, site: &Site) -> PathBuf {
        self.dir.join(site.name.as_str())
    }

    /// A site's configuration file.
    pub fn config_path(&self, site: &Site) -> PathBuf {
        self.site_dir(site).join("repl.toml")
    }

    /// The Unix socket of a site's shipper.
    pub fn socket(&self, site: &Site) -> PathBuf {
        site.run.join("shipper.sock")
    }

    /// The Unix socket of a site's control process.
    pub fn control_socket(&self, site: &Site) -> PathBuf {
        site.run.join("control.sock")
    }

    /// Where a site's process writes its log.
    pub fn log_path(&self, site: &Site, part: Part) -> PathBuf {
        self.site_dir(site).join(format!("{}.log", part.as_str()))
    }

    pub(super) fn save(&self) -> Result<(), Error> {
        self.record.write(&self.dir)
    }
}

fn existing(dir: &Path) -> Result<PathBuf, Error> {
    let missing = || Error::Missing { dir: dir.to_owned() };
    let dir = std::fs::canonicalize(dir).map_err(|_| missing())?;
    if Record::is_gone(&dir) { Err(missing()) } else { Ok(dir) }
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

/// What was refused leaves nothing behind: nothing else was made yet.
fn unmake(dir: &Path, with_directory: bool) {
    // What cannot be removed is in nobody's way: an attempt that is not refused takes it over.
    let _ = std::fs::remove_file(dir.join(LOCK));
    if with_directory {
        let _ = std::fs::remove_dir(dir);
    }
}

/// Refuses a cluster that is not as planned.
fn check_plan(dir: &Path, record: &Record, plan: &Plan) -> Result<(), Error> {
    let data = record.sites.iter().filter(|site| !site.witness).map(|site| &site.name);
    let witness = record.sites.iter().find(|site| site.witness).map(|site| &site.name);
    let same = plan.sites.as_ref().is_none_or(|sites| sites.iter().eq(data))
        && plan.witness.as_ref().is_none_or(|planned| Some(planned) == witness);
    if !same {
        return Err(Error::OtherSites { dir: dir.to_owned(), have: record.names() });
    }
    let first = record.sites.first().map_or(0, |site| site.ports.peer);
    match plan.base_port {
        Some(planned) if planned != first => Err(Error::OtherPorts { dir: dir.to_owned(), have: first }),
        _ => Ok(()),
    }
}

fn found(dir: &Path, plan: &Plan) -> Result<Record, Error> {
    let data = plan.sites.clone().unwrap_or_else(default_sites);
    let names: Vec<&SiteName> = data.iter().chain(&plan.witness).collect();
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    if data.is_empty() || data.len() > MAX_DATA_SITES || sorted.len() != names.len() {
        return Err(Error::Sites(format!(
            "give --sites from 1 to {MAX_DATA_SITES} different names, and --witness another one"
        )));
    }
    let cluster = layout::new_cluster_id();
    let block = ports::choose(names.len(), plan.base_port)?;
    let sites = names
        .iter()
        .zip(block.sites)
        .enumerate()
        .map(|(index, (name, ports))| Site {
            name: (*name).clone(),
            id: SiteId(u8::try_from(index + 1).unwrap_or(u8::MAX)),
            witness: index >= data.len(),
            ports,
            run: layout::run_directory(dir, name, &cluster),
            enrolled: index == 0,
            control: None,
            shipper: None,
        })
        .collect();
    let mut record = Record::new(cluster, block.proxy, sites);
    record.by_hand = plan.by_hand;
    Ok(record)
}

fn default_sites() -> Vec<SiteName> {
    ["site-a", "site-b"].iter().filter_map(|name| SiteName::new(*name).ok()).collect()
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

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
