//! Starting, ending and pausing what runs in a cluster, and changing the faults of its links.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cfs_config::Config;
use cfs_model::SiteName;
use rustix::process::Signal;

use super::cluster::Cluster;
use super::error::{Error, file_error};
use super::faults::{self, Fault, Faults};
use super::ports;
use super::process::{self, Process};
use super::record::{Part, Record, Site};

/// How long processes may take to end, what they hand over before apart.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How what runs is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In good order, by SIGTERM: the control process first, which hands over the primary's role, then the shipper.
    HandOver,
    /// In good order and all at once, by SIGINT: nothing is handed over.
    Now,
    /// By SIGKILL.
    Kill,
}

impl Cluster {
    /// Starts what does not run of a site, or only one part of it, and the fault proxy if it does not run. Returns whether
    /// anything of the site was started. Blocks briefly.
    ///
    /// # Errors
    /// When a process cannot be started; when a port is in use.
    pub fn start_parts(&mut self, index: usize, only: Option<Part>) -> Result<bool, Error> {
        self.start_proxy()?;
        let site = &self.record.sites[index];
        let wanted = |part: &&Part| only.is_none_or(|only| only == **part) && !site.runs(**part);
        let parts: Vec<Part> = site.parts().iter().filter(wanted).copied().collect();
        let in_use: Vec<u16> = parts.iter().flat_map(|part| site.ports_of(*part)).collect();
        ports::check_free(&in_use)?;
        for part in &parts {
            self.start_part(index, *part)?;
        }
        Ok(!parts.is_empty())
    }

    /// Starts what does not run of a site. Blocks briefly.
    ///
    /// # Errors
    /// Those of [`Cluster::start_parts`].
    pub fn start(&mut self, index: usize) -> Result<bool, Error> {
        self.start_parts(index, None)
    }

    fn start_part(&mut self, index: usize, part: Part) -> Result<(), Error> {
        let site = &self.record.sites[index];
        let (config, log) = (self.config_path(site), self.log_path(site, part));
        let what = format!("the {} process of {}", part.as_str(), site.name);
        let command = format!("__{}", part.as_str());
        let args = [OsStr::new(&command), OsStr::new("--detach"), OsStr::new("--config"), config.as_os_str()];
        let process = process::spawn(&what, &args, &log)?;
        let pid_file = self.pid_path(site, part);
        *self.record.sites[index].process_mut(part) = Some(process);
        self.keep(process, &pid_file)
    }

    /// Starts the fault proxy unless it runs, and waits until it has the rules in force. Blocks.
    fn start_proxy(&mut self) -> Result<(), Error> {
        // Without other sites there is no link.
        if self.proxy().is_some() || self.sites().len() < 2 {
            return Ok(());
        }
        let listens: Vec<u16> = self.record.routes().iter().map(|route| route.listen).collect();
        ports::check_free(&listens)?;
        let args = [OsStr::new("__proxy"), OsStr::new("--detach"), OsStr::new("--dir"), self.dir.as_os_str()];
        let process = process::spawn("the fault proxy", &args, &self.proxy_log())?;
        let pid_file = self.dir.join("proxy.pid");
        self.record.proxy = Some(process);
        self.keep(process, &pid_file)?;
        Ok(faults::await_applied(&self.dir, process, 0, &self.proxy_log())?)
    }

    /// Records a process that was just started.
    fn keep(&self, process: Process, pid_file: &Path) -> Result<(), Error> {
        if let Err(error) = self.save() {
            // A process that no record names would outlive the cluster.
            process::end(&[process], Signal::KILL, STOP_LIMIT)?;
            return Err(error);
        }
        if let Err(error) = std::fs::write(pid_file, format!("{}\n", process.pid)) {
            tracing::warn!(%error, path = %pid_file.display(), "the file with its pid cannot be written; the record has it");
        }
        Ok(())
    }

    /// Ends what runs of a site, or only one part of it. Returns whether anything ran. Blocks until it is gone.
    ///
    /// # Errors
    /// When something is still there after 15 s, or for [`End::HandOver`] as much longer as a handover may take.
    pub fn end_parts(&mut self, index: usize, only: Option<Part>, how: End) -> Result<bool, Error> {
        let site = &self.record.sites[index];
        let parts: Vec<Part> =
            site.parts().iter().filter(|part| only.is_none_or(|only| only == **part)).copied().collect();
        let of = |parts: &[Part]| parts.iter().filter_map(|part| site.process(*part)).collect::<Vec<_>>();
        let ran = match how {
            End::Kill => process::end(&of(&parts), Signal::KILL, STOP_LIMIT)?,
            End::Now => process::end(&of(&parts), Signal::INT, STOP_LIMIT)?,
            End::HandOver => {
                let (control, others): (Vec<Part>, Vec<Part>) = parts.iter().partition(|part| **part == Part::Control);
                // While the role moves, the shipper is needed.
                let limit = STOP_LIMIT + self.handover_limit(site);
                let ran =
                    process::end_telling(&of(&control), Signal::TERM, limit, || self.tell_of_handover(site, limit))?;
                process::end(&of(&others), Signal::TERM, STOP_LIMIT)? || ran
            }
        };
        for part in &parts {
            *self.record.sites[index].process_mut(*part) = None;
        }
        self.save()?;
        for part in parts {
            remove_file(self.pid_path(&self.record.sites[index], part))?;
        }
        Ok(ran)
    }

    /// A primary looks for somebody who takes its role over, for as long as it may.
    fn tell_of_handover(&self, site: &Site, limit: Duration) {
        let down = self.sites().iter().filter(|other| other.name != site.name && !other.is_up());
        let down: Vec<&str> = down.map(|other| other.name.as_str()).collect();
        let because = if down.is_empty() { String::new() } else { format!(" ({} does not run)", down.join(", ")) };
        anstream::eprintln!(
            "waiting for {} to hand its role over{because}, {} s at most; `--now` ends it without",
            site.name,
            limit.as_secs()
        );
    }

    fn handover_limit(&self, site: &Site) -> Duration {
        let config = Config::load_with(Some(&self.config_path(site)), &[], []);
        config.map_or(Duration::ZERO, |config| Duration::from_millis(config.control.handover_ms))
    }

    /// Ends what runs of a site. Blocks until it is gone.
    ///
    /// # Errors
    /// Those of [`Cluster::end_parts`].
    pub fn end(&mut self, index: usize, how: End) -> Result<bool, Error> {
        self.end_parts(index, None, how)
    }

    /// Stops what runs of a site in its tracks (SIGSTOP), or lets it go on (SIGCONT). Returns whether anything runs.
    ///
    /// # Errors
    /// When a process cannot be signalled.
    pub fn pause(&self, index: usize, pause: bool) -> Result<bool, Error> {
        let site = &self.record.sites[index];
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        let mut any = false;
        for process in site.parts().iter().filter_map(|part| site.process(*part)) {
            any |= process.signal(signal)?;
        }
        Ok(any)
    }

    /// Ends every process and removes what lies outside of the directory. With `purge` the directory goes too.
    ///
    /// # Errors
    /// When a process survives or a file cannot be removed.
    pub fn down(mut self, purge: bool) -> Result<(), Error> {
        let all = self.processes();
        if let Err(error) = process::end(&all, Signal::INT, STOP_LIMIT) {
            tracing::warn!(%error, "it did not end by itself and is killed");
            process::end(&all, Signal::KILL, STOP_LIMIT)?;
        }
        for index in 0..self.record.sites.len() {
            self.end(index, End::Kill)?;
        }
        process::end(self.record.proxy.as_slice(), Signal::TERM, STOP_LIMIT)?;
        self.record.proxy = None;
        self.save()?;
        remove_file(self.dir.join("proxy.pid"))?;
        faults::remove(&self.dir)?;
        for site in &self.record.sites {
            if !site.run.starts_with(&self.dir) {
                remove_tree(&site.run)?;
            }
        }
        // The record says that the directory is ours: nothing else is ever removed.
        if purge && !Record::is_gone(&self.dir) {
            remove_tree(&self.dir)?;
        }
        Ok(())
    }

    fn processes(&self) -> Vec<Process> {
        let of_site = |site: &Site| site.parts().iter().filter_map(|part| site.process(*part)).collect::<Vec<_>>();
        self.record.sites.iter().flat_map(of_site).collect()
    }

    /// What is wrong with the links.
    ///
    /// # Errors
    /// When the rules do not read.
    pub fn faults(&self) -> Result<Faults, Error> {
        Ok(Faults::read(&self.dir)?)
    }

    /// Changes what is wrong with the link between two sites: with bytes from the first to the second and, unless
    /// `one_way`, with those that travel back. In force on return. Blocks.
    ///
    /// # Errors
    /// When the fault proxy does not run or does not answer; [`Error::NoSite`].
    pub fn change_link(
        &self,
        from: &str,
        to: &str,
        one_way: bool,
        change: impl Fn(Fault) -> Fault,
    ) -> Result<(), Error> {
        let [from, to] = [self.index(from)?, self.index(to)?].map(|index| self.record.sites[index].name.clone());
        if from == to {
            return Err(Error::Sites(format!("{from} has no link to itself: name two sites")));
        }
        self.change_faults(|faults| {
            let mut one = |from: &SiteName, to: &SiteName| faults.set(from, to, change(faults.of(from, to)));
            one(&from, &to);
            if !one_way {
                one(&to, &from);
            }
        })
    }

    /// Heals every link. In force on return. Blocks.
    ///
    /// # Errors
    /// When the fault proxy does not run or does not answer.
    pub fn heal(&self) -> Result<(), Error> {
        self.change_faults(Faults::clear)
    }

    fn change_faults(&self, change: impl FnOnce(&mut Faults)) -> Result<(), Error> {
        let proxy = self.proxy().ok_or_else(|| faults::Error::NoProxy { dir: self.dir.clone() })?;
        let faults = faults::change(&self.dir, change)?;
        Ok(faults::await_applied(&self.dir, proxy, faults.generation(), &self.proxy_log())?)
    }

    fn proxy_log(&self) -> PathBuf {
        self.dir.join("proxy.log")
    }

    fn pid_path(&self, site: &Site, part: Part) -> PathBuf {
        self.site_dir(site).join(format!("{}.pid", part.as_str()))
    }
}

fn remove_file(path: PathBuf) -> Result<(), Error> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path)(error)),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(path.to_owned())(error)),
        _ => Ok(()),
    }
}
