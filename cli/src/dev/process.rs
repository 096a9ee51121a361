//! Processes that outlive the command that started them.
//!
//! A number alone does not name a process for long: each is remembered with its start time, and a number that was
//! reused is taken for dead and never signalled.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(10);
/// Whoever waits for longer is told why.
const NOTICE: Duration = Duration::from_secs(2);

/// A process that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    start_ticks: u64,
    /// When the machine started, in seconds since 1970: numbers and ticks begin anew then.
    boot_s: u64,
}

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What was to run.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended at once.
    #[error("{what} ended at once: see {log}", log = log.display())]
    EndedAtOnce {
        /// What was to run.
        what: String,
        /// Its log.
        log: PathBuf,
    },
    /// It could not be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// It does not end.
    #[error("process {pid} is still there long after the signal: `cfs dev kill` ends it at once")]
    StillThere {
        /// The process.
        pid: u32,
    },
}

/// Starts this same program with these arguments, so that it keeps running when this command ends, with its output in
/// `log`.
pub(super) fn spawn(what: &str, args: &[&OsStr], log: &Path) -> Result<Process, Error> {
    let start = |source| Error::Start { what: what.to_owned(), source };
    let output = OpenOptions::new().create(true).append(true).open(log).map_err(start)?;
    let mut command = Command::new(std::env::current_exe().map_err(start)?);
    command.args(args);
    // Settings of this shell are not meant for each site of a cluster.
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"CFS_"));
    for name in ours {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stderr(output.try_clone().map_err(start)?).stdout(output);
    let child = command.spawn().map_err(start)?;
    let gone = || Error::EndedAtOnce { what: what.to_owned(), log: log.to_owned() };
    Process::running(child.id()).ok_or_else(gone)
}

impl Process {
    /// The process that has this number now, unless it ended.
    pub(super) fn running(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let Stat { state, threads, start_ticks } = parse_stat(&stat)?;
        // After a signal the first thread may have ended while another, which waits for a disk, still holds files and
        // ports.
        let alive = !matches!(state, 'Z' | 'X' | 'x') || threads > 1;
        alive.then_some(Self { pid, start_ticks, boot_s: boot_time()? })
    }

    /// Whether this very process runs.
    pub fn is_alive(self) -> bool {
        // The boot time that the kernel tells may be off by one after the clock was set.
        Self::running(self.pid)
            .is_some_and(|now| now.start_ticks == self.start_ticks && now.boot_s.abs_diff(self.boot_s) <= 60)
    }

    /// Whether it was stopped by a signal and not continued.
    pub fn is_paused(self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        self.is_alive() && stat.and_then(|stat| parse_stat(&stat)).is_some_and(|stat| stat.state == 'T')
    }

    /// Sends a signal. Returns whether it runs.
    pub(super) fn signal(self, signal: Signal) -> Result<bool, Error> {
        let failed = |error: rustix::io::Errno| Error::Signal { pid: self.pid, source: error.into() };
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        // Opened before the check: what is signalled is what was checked, whatever happens to the number in between.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Waits until it is gone. Blocks.
    pub(super) fn await_end(self, deadline: Instant) -> Result<(), Error> {
        while self.is_alive() {
            if Instant::now() > deadline {
                return Err(Error::StillThere { pid: self.pid });
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Ends processes by a signal: all are signalled before any is waited for, so that they end together. A paused process is
/// woken for any but SIGKILL. Returns whether any ran. Blocks until all are gone.
pub(super) fn end(processes: &[Process], signal: Signal, limit: Duration) -> Result<bool, Error> {
    end_telling(processes, signal, limit, || {})
}

/// The same; `tell` is called once if it takes longer than a moment.
pub(super) fn end_telling(
    processes: &[Process],
    signal: Signal,
    limit: Duration,
    tell: impl FnOnce(),
) -> Result<bool, Error> {
    let deadline = Instant::now() + limit;
    let mut ran = false;
    for process in processes {
        ran |= process.signal(signal)?;
    }
    for process in processes.iter().filter(|process| signal != Signal::KILL && process.is_paused()) {
        process.signal(Signal::CONT)?;
    }
    let notice = Instant::now() + NOTICE;
    while Instant::now() < notice && processes.iter().any(|process| process.is_alive()) {
        std::thread::sleep(POLL);
    }
    if processes.iter().any(|process| process.is_alive()) {
        tell();
    }
    for process in processes {
        process.await_end(deadline)?;
    }
    Ok(ran)
}

struct Stat {
    state: char,
    threads: u64,
    start_ticks: u64,
}

/// What is needed of `/proc/PID/stat`. The name in it may hold anything, also parentheses.
fn parse_stat(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, threads, start_ticks: fields.nth(1)?.parse().ok()? })
}

fn boot_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let parsed = parse_stat(stat).expect("it is one");
        assert_eq!((parsed.state, parsed.threads, parsed.start_ticks), ('S', 1, 4242));
        assert!(parse_stat("7 (a").is_none());
    }

    const LIMIT: Duration = Duration::from_secs(5);

    fn sleeper() -> (std::process::Child, Process) {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let process = Process::running(child.id()).expect("it runs");
        (child, process)
    }

    #[test]
    fn a_reused_number_is_never_signalled() {
        let (mut child, process) = sleeper();
        let another = Process { start_ticks: process.start_ticks + 1, ..process };
        assert!(!another.is_alive());
        assert!(!end(&[another], Signal::KILL, LIMIT).expect("nothing to signal"));
        assert!(process.is_alive(), "the wrong process was killed");
        let another_boot = Process { boot_s: process.boot_s + 3600, ..process };
        assert!(!end(&[another_boot], Signal::KILL, LIMIT).expect("nothing to signal"));
        assert!(end(&[process], Signal::KILL, LIMIT).expect("it can be killed"));
        assert!(!end(&[process], Signal::TERM, LIMIT).expect("it is gone"));
        child.wait().expect("it is our child");
    }

    #[test]
    fn a_paused_process_ends_too() {
        let (mut first, one) = sleeper();
        let (mut second, two) = sleeper();
        assert!(one.signal(Signal::STOP).expect("it can be paused"));
        let deadline = Instant::now() + LIMIT;
        while !one.is_paused() {
            assert!(Instant::now() < deadline, "it is not paused");
            std::thread::sleep(POLL);
        }
        assert!(!two.is_paused());
        assert!(end(&[one, two], Signal::TERM, LIMIT).expect("both end"));
        first.wait().expect("it is our child");
        second.wait().expect("it is our child");
    }
}
