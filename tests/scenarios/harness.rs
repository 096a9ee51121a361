//! A cluster of real processes, and the commands an operator would give.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Tries to find ports that stay free until they are bound.
const ATTEMPTS: usize = 3;
/// How long something may take that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The answer of a command that must succeed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self.out
    }

    /// What a command that must fail had to say.
    pub(crate) fn failed(self) -> String {
        assert_ne!(self.code, 0, "it should have failed; stdout:\n{}\nstderr:\n{}", self.out, self.err);
        format!("{}{}", self.out, self.err)
    }

    pub(crate) fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} in {out}"))
    }

    pub(crate) fn json_lines(self) -> Vec<Value> {
        let out = self.ok();
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
    }
}

/// `cfs` without what the developer's own shell says about its configuration.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cfs"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CFS_")) {
        command.env_remove(name);
    }
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs `cfs` to its end.
pub(crate) fn cfs<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Said {
    Running::spawn(command(args)).finish()
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

/// A process of ours that ends with the scenario.
pub(crate) struct Running {
    child: Child,
    /// What it prints, read as it comes: a full pipe would stop it.
    printed: Option<[JoinHandle<Vec<u8>>; 2]>,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cfs starts");
        let out = read_all(child.stdout.take().expect("a pipe"));
        let err = read_all(child.stderr.take().expect("a pipe"));
        Self { child, printed: Some([out, err]) }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("it is our child");
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Said {
        let status = self.child.wait().expect("it is our child");
        let [out, err] =
            self.printed.take().expect("it was not finished before").map(|reader| reader.join().expect("it reads"));
        Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(out).expect("UTF-8"),
            err: String::from_utf8_lossy(&err).into_owned(),
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Writes to its standard input; a process that is gone reads nothing.
    pub(crate) fn write(&mut self, text: &str) {
        let _ = self.child.stdin.as_mut().expect("a pipe").write_all(text.as_bytes());
    }

    /// Ends its standard input.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("it reads");
        bytes
    })
}

/// Two or more sites on this machine. They end with it.
pub(crate) struct Cluster {
    place: Option<TempDir>,
    dir: PathBuf,
}

impl Cluster {
    /// Starts site-a and site-b in a folder of their own.
    pub(crate) fn up() -> Self {
        Self::up_with("site-a,site-b")
    }

    /// Starts these sites; the first is primary.
    pub(crate) fn up_with(sites: &str) -> Self {
        for attempt in 1..=ATTEMPTS {
            let place = tempfile::tempdir().expect("a folder");
            let cluster = Self { dir: place.path().join("c"), place: Some(place) };
            let said = cluster.dev(&["up", "--sites", sites]);
            if said.code == 0 {
                return cluster;
            }
            // Somebody else took a port between its choice and its use.
            assert!(said.err.contains("in use") && attempt < ATTEMPTS, "dev up: {}\n{}", said.err, cluster.logs());
        }
        unreachable!("the last attempt returns or panics")
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
        self.dev(&["stop", site]).ok();
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

    fn logs(&self) -> String {
        format!("site-a:\n{}\nsite-b:\n{}", self.log("site-a"), self.log("site-b"))
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
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a scenario did not run; CI runs as root and skips nothing.
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}
