//! A cluster of real processes, and the commands an operator would give. `cluster.rs` has what is asked of all of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::process::{Running, Said, cfs, command};

/// Tries to find ports that stay free until they are bound.
const ATTEMPTS: usize = 3;
/// Lines of each log that are shown after a failure.
const LOG_LINES: usize = 150;
/// How long something may take that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Held by scenarios that measure time, so that none of them runs beside another.
pub(crate) fn quiet() -> MutexGuard<'static, ()> {
    static QUIET: Mutex<()> = Mutex::new(());
    // One that failed has ended its processes all the same.
    QUIET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A limit of the product. Without optimisation, beside other scenarios, everything takes longer.
pub(crate) fn limit_ms(ms: u64) -> u64 {
    if cfg!(debug_assertions) { 5 * ms } else { ms }
}

/// How often campaigns repeat themselves: `CFS_ROUNDS`, or so often.
pub(crate) fn rounds(default: usize) -> usize {
    let set = std::env::var("CFS_ROUNDS").ok();
    set.map_or(default, |rounds| rounds.parse().expect("CFS_ROUNDS is a number"))
}

/// Whether `CFS_LONG` asks for the durations of a campaign.
pub(crate) fn is_long() -> bool {
    std::env::var_os("CFS_LONG").is_some_and(|value| value != "0")
}

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if Instant::now() > deadline => panic!("{what} did not happen within {limit:?}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Sites on this machine. They end with it.
pub(crate) struct Cluster {
    place: Option<TempDir>,
    dir: PathBuf,
    /// Sites that store data; the first founded the cluster.
    data: Vec<String>,
    witness: Option<String>,
}

impl Cluster {
    /// Starts site-a and site-b in a folder of their own.
    pub(crate) fn up() -> Self {
        Self::up_with("site-a,site-b")
    }

    /// Starts these sites; the first is primary.
    pub(crate) fn up_with(sites: &str) -> Self {
        Self::up_as(sites, None)
    }

    /// Makes the files of these sites; nothing runs, and nobody is enrolled.
    pub(crate) fn bare(sites: &str, witness: Option<&str>) -> Self {
        Self::made(&[&["up", "--bare", "--sites", sites][..], &with_witness(witness)].concat(), sites, witness)
    }

    /// Starts site-a, site-b and the witness site-w: failover is automatic.
    pub(crate) fn up_with_witness() -> Self {
        let cluster = Self::up_as("site-a,site-b", Some("site-w"));
        cluster.wait_ready();
        cluster
    }

    fn up_as(sites: &str, witness: Option<&str>) -> Self {
        Self::made(&[&["up", "--sites", sites][..], &with_witness(witness)].concat(), sites, witness)
    }

    fn made(words: &[&str], sites: &str, witness: Option<&str>) -> Self {
        for attempt in 1..=ATTEMPTS {
            let place = tempfile::tempdir().expect("a folder");
            let data = sites.split(',').map(str::to_owned).collect();
            let (dir, witness) = (place.path().join("c"), witness.map(str::to_owned));
            let cluster = Self { dir, place: Some(place), data, witness };
            let said = cluster.dev(words);
            if said.code == 0 {
                return cluster;
            }
            // Somebody else took a port between its choice and its use.
            assert!(said.err.contains("in use") && attempt < ATTEMPTS, "dev up: {}\n{}", said.err, cluster.logs());
        }
        unreachable!("the last attempt returns or panics")
    }

    /// Sites that store data.
    pub(crate) fn data_sites(&self) -> impl Iterator<Item = &str> {
        self.data.iter().map(String::as_str)
    }

    /// All sites.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &str> {
        self.data.iter().chain(&self.witness).map(String::as_str)
    }

    /// `cfs dev VERB --dir ... REST`
    pub(crate) fn dev(&self, words: &[&str]) -> Said {
        let (verb, rest) = words.split_first().expect("a verb");
        let mut args = vec![OsStr::new("dev"), OsStr::new(verb), OsStr::new("--dir"), self.dir.as_os_str()];
        args.extend(rest.iter().map(OsStr::new));
        cfs(args)
    }

    pub(crate) fn kill(&self, site: &str) {
        self.dev(&["kill", site]).ok();
    }

    pub(crate) fn stop(&self, site: &str) {
        self.dev(&["stop", "--now", site]).ok();
    }

    pub(crate) fn start(&self, site: &str) {
        // A cluster of another scenario may have taken the port of a site that was down, and ends soon.
        let said = eventually("the ports of the site", PATIENCE, || {
            let said = self.dev(&["start", site]);
            if said.err.contains("in use") { Err(said.err) } else { Ok(said) }
        });
        assert_eq!(said.code, 0, "{}\n{}", said.err, self.logs());
    }

    /// A file or folder of a site.
    pub(crate) fn path(&self, site: &str, rest: &str) -> PathBuf {
        self.dir.join(site).join(rest)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command for one site.
    pub(crate) fn command(&self, site: &str, words: &[&str]) -> Command {
        let config = self.path(site, "repl.toml");
        let mut args = vec![OsStr::new("--config"), config.as_os_str()];
        args.extend(words.iter().map(OsStr::new));
        command(args)
    }

    /// Runs a command for one site to its end.
    pub(crate) fn at(&self, site: &str, words: &[&str]) -> Said {
        self.spawn(site, words).finish()
    }

    /// Starts a command for one site.
    pub(crate) fn spawn(&self, site: &str, words: &[&str]) -> Running {
        Running::spawn(self.command(site, words))
    }

    /// The same with a pipe to write to.
    pub(crate) fn spawn_with_input(&self, site: &str, words: &[&str]) -> Running {
        let mut command = self.command(site, words);
        command.stdin(Stdio::piped());
        Running::spawn(command)
    }

    pub(crate) fn import(&self, tree: &Path) -> Said {
        self.at("site-a", &["journal", "import", "--tree", tree.to_str().expect("UTF-8")])
    }

    pub(crate) fn status(&self, site: &str) -> Value {
        self.at(site, &["admin", "replication", "status", "-o", "json"]).json()
    }

    /// What `cfs dev status` says of a site: ports, socket, process.
    pub(crate) fn layout(&self, site: &str) -> Value {
        let status = self.dev(&["status", "-o", "json"]).json();
        let sites = status["sites"].as_array().expect("sites");
        sites.iter().find(|s| s["site"] == site).expect("the site").clone()
    }

    pub(crate) fn port(&self, site: &str, port: &str) -> u16 {
        u16::try_from(self.layout(site)["ports"][port].as_u64().expect("a port")).expect("a port")
    }

    pub(crate) fn log(&self, site: &str) -> String {
        std::fs::read_to_string(self.path(site, "shipper.log")).unwrap_or_default()
    }

    pub(crate) fn control_log(&self, site: &str) -> String {
        std::fs::read_to_string(self.path(site, "control.log")).unwrap_or_default()
    }

    /// The end of every log.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for site in self.sites() {
            for (process, log) in [("control", self.control_log(site)), ("shipper", self.log(site))] {
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                text.push_str(&format!("--- {process} of {site}, its last lines:\n{end}\n"));
            }
        }
        text
    }

    /// (stream, how far it is known to go, how far it is applied) at one site.
    pub(crate) fn cursors(&self, site: &str) -> Vec<(String, u64, u64)> {
        let status = self.status(site);
        let number = |value: &Value| value.as_u64().expect("a number");
        let streams = status["streams"].as_array().expect("streams").iter();
        let mut cursors: Vec<_> = streams
            .map(|s| (s["stream"].as_str().expect("a stream").to_owned(), number(&s["source"]), number(&s["applied"])))
            .collect();
        cursors.sort();
        cursors
    }

    /// Waits until everything that either site knows is applied at both.
    pub(crate) fn settle(&self) {
        eventually("both sites at the same position", PATIENCE, || {
            let (a, b) = (self.cursors("site-a"), self.cursors("site-b"));
            let idle = a.iter().chain(&b).all(|(_, source, applied)| source == applied);
            if a == b && idle { Ok(()) } else { Err(format!("site-a {a:?}, site-b {b:?}\n{}", self.logs())) }
        });
    }

    /// Invariants 3 and 5: at equal cursors the digests are equal, from either side, and so are the registers.
    pub(crate) fn expect_identical(&self) {
        self.settle();
        for site in ["site-a", "site-b"] {
            for mode in [&[][..], &["--local"]] {
                let words = [&["admin", "meta", "consistency-check"], mode].concat();
                let said = self.at(site, &words);
                assert!(said.code == 0 && said.out.contains("RESULT: MATCH"), "{site} {mode:?}: {said:?}");
            }
        }
    }

    /// Invariant 3: stops both and compares their journals byte by byte.
    pub(crate) fn expect_same_journals(&self) {
        self.stop("site-a");
        self.stop("site-b");
        let journal = |site| self.path(site, "state/journal").to_str().expect("UTF-8").to_owned();
        let said = cfs(["journal", "verify", &journal("site-a"), "--against", &journal("site-b")]);
        assert_eq!(said.code, 0, "{said:?}");
    }

    /// The metrics page of a site.
    pub(crate) fn metrics(&self, site: &str) -> Metrics {
        Metrics(http_get(self.port(site, "shipper_http"), "/metrics"))
    }
}

fn with_witness(witness: Option<&str>) -> Vec<&str> {
    witness.map_or(vec![], |name| vec!["--witness", name])
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Also after a failure: no process survives its scenario.
        let said = self.dev(&["down"]);
        if std::thread::panicking() {
            eprintln!("{}\n{}", said.err, self.logs());
        }
        if let Some(place) = self.place.take() {
            let _ = place.close();
        }
    }
}

/// A page of metrics.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The sample with this name, labels included.
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.split(' ').next()?.parse().expect("a number"))
    }

    pub(crate) fn errors(&self) -> f64 {
        self.get("claudefs_replication_errors_total").expect("errors are counted")
    }
}

/// Body of an answer over plain HTTP/1.1.
pub(crate) fn http_get(port: u16, path: &str) -> String {
    let (code, body) = http(port, "GET", path).expect("it answers");
    assert_eq!(code, 200, "{path}: {body}");
    body
}

/// Code and body of an answer over plain HTTP/1.1.
pub(crate) fn http(port: u16, method: &str, path: &str) -> Result<(u16, String), String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer but {answer:?}"))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(|| format!("no code in {head:?}"))?, body.to_owned()))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a scenario did not run; CI runs as root and skips nothing.
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}
