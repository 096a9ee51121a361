//! Machines of their own: each site and the client in a network namespace, with no file shared between the client and
//! the sites. Certificates are copied by value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use cfs_model::{ClusterId, SiteName};
use cfs_rpc::ca::{Authority, Validity, install};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::private_file;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{self, PATIENCE, eventually, is_root, skipped};

const CLUSTER: &str = "6b1f0a52-93c4-4d0e-8a77-2f5e10c3d9ab";
/// Name, number, and whether it stores data. The client is last and no site.
const MACHINES: [(&str, u8, bool); 4] =
    [("site-a", 1, true), ("site-b", 2, true), ("site-w", 3, false), ("mds", 4, false)];
const CLIENT: &str = "mds";

/// Addresses exist only inside the namespaces that a [`Lan`] makes.
fn address(number: u8, port: u16) -> String {
    format!("10.77.0.{number}:{port}")
}

fn ip(words: &str) -> Result<(), String> {
    let said = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output();
    let said = said.map_err(|error| format!("ip: {error}"))?;
    let error = || format!("ip {words}: {}", String::from_utf8_lossy(&said.stderr).trim());
    if said.status.success() { Ok(()) } else { Err(error()) }
}

/// Namespaces on a bridge, which is in a namespace, too: nothing is seen from outside.
struct Lan {
    prefix: String,
}

impl Lan {
    fn new() -> Result<Self, String> {
        let lan = Self { prefix: format!("cfs{}", std::process::id()) };
        let hub = lan.namespace("hub");
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add br0 type bridge"))?;
        ip(&format!("-n {hub} link set br0 up"))?;
        for (name, number, _) in MACHINES {
            let namespace = lan.namespace(name);
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("link add v{number} netns {hub} type veth peer name eth0 netns {namespace}"))?;
            ip(&format!("-n {hub} link set v{number} master br0 up"))?;
            ip(&format!("-n {namespace} addr add 10.77.0.{number}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(lan)
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.prefix)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in MACHINES.map(|(name, ..)| name).into_iter().chain(["hub"]) {
            // It may not have been made.
            let _ = ip(&format!("netns del {}", self.namespace(name)));
        }
    }
}

/// Processes that end with the scenario.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Machines {
    /// In the order in which they are to end.
    running: Vec<(&'static str, Process)>,
    lan: Lan,
    place: TempDir,
}

impl Machines {
    fn new(lan: Lan) -> Self {
        let place = tempfile::tempdir().unwrap();
        let cluster: ClusterId = CLUSTER.parse().unwrap();
        let authority = Authority::create(&place.path().join("ca"), cluster, SystemTime::now()).unwrap();
        for (name, number, _) in MACHINES {
            let dir = place.path().join(name);
            private_file::create_directory(&dir).unwrap();
            fs::write(dir.join("repl.toml"), config(&dir, name, number)).unwrap();
            let roles: &[Role] = if name == CLIENT { &[Role::Producer] } else { &Role::ALL };
            for role in roles {
                let identity = Identity { cluster, site: SiteName::new(name).unwrap(), role: *role };
                let issued = authority.issue(&identity, Validity::lasting(SystemTime::now(), Validity::LEAF)).unwrap();
                install(&dir.join("tls"), *role, authority.cert_pem(), &issued).unwrap();
            }
        }
        let founding = format!("{{\"cluster\":\"{CLUSTER}\"}}");
        private_file::replace(&place.path().join("site-a"), "founding", founding.as_bytes()).unwrap();
        Self { running: Vec::new(), lan, place }
    }

    fn path(&self, machine: &str, rest: &str) -> PathBuf {
        self.place.path().join(machine).join(rest)
    }

    /// `cfs` on a machine, with that machine's configuration.
    fn command(&self, machine: &str, words: &[&str]) -> Command {
        let cfs = harness::command([""; 0]);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.lan.namespace(machine)]).arg(cfs.get_program());
        for (name, value) in cfs.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("--config").arg(self.path(machine, "repl.toml")).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, machine: &str, words: &[&str]) -> Result<String, String> {
        let said = self.command(machine, words).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        if said.status.success() { Ok(out.into_owned()) } else { Err(format!("{machine} {words:?}: {out}{err}")) }
    }

    fn start(&mut self, site: &'static str) {
        let data = MACHINES.iter().any(|(name, _, data)| *name == site && *data);
        for daemon in ["__shipper", "__control"].into_iter().filter(|daemon| data || *daemon != "__shipper") {
            let log =
                fs::File::options().create(true).append(true).open(self.path(site, &format!("{daemon}.log"))).unwrap();
            let mut command = self.command(site, &[daemon]);
            command.stdout(log.try_clone().unwrap()).stderr(log);
            self.running.push((site, Process(command.spawn().unwrap())));
        }
    }

    /// kill -9 of every process of a site.
    fn kill(&mut self, site: &str) {
        for (_, process) in self.running.iter_mut().filter(|(of, _)| *of == site) {
            process.kill();
        }
        self.running.retain(|(of, _)| *of != site);
    }

    fn logs(&self) -> String {
        let logs = MACHINES.iter().flat_map(|(name, ..)| ["__shipper", "__control"].map(|daemon| (*name, daemon)));
        let text = |(name, daemon)| {
            let log = fs::read_to_string(self.path(name, &format!("{daemon}.log"))).unwrap_or_default();
            format!("{name} {daemon}:\n{log}\n")
        };
        logs.map(text).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn config(dir: &Path, name: &str, number: u8) -> String {
    let kind = if name == "site-w" { "kind = \"witness\"\n" } else { "" };
    let listen = if name == CLIENT { String::new() } else { address(number, 9504) };
    let mut text = format!(
        "[site]\nname = \"{name}\"\nid = {number}\n{kind}\n[cluster]\nid = \"{CLUSTER}\"\n\n[paths]\nstate = \"{0}/state\"\n\
         run = \"{0}/run\"\ntls = \"{0}/tls\"\n\n[listen]\npeer = \"{1}\"\ncontrol = \"{2}\"\nhttp = \"\"\nshipper_http = \"\"\n\
         producer = \"{listen}\"\n",
        dir.display(),
        address(number, 9500),
        address(number, 9501),
    );
    for (peer, id, data) in MACHINES.into_iter().filter(|(peer, ..)| *peer != name && *peer != CLIENT) {
        text += &format!("\n[[peers]]\nname = \"{peer}\"\nid = {id}\ncontrol = \"{}\"\n", address(id, 9501));
        text += &match data {
            true => format!("peer = \"{}\"\nproducer = \"{}\"\n", address(id, 9500), address(id, 9504)),
            false => "kind = \"witness\"\n".to_owned(),
        };
    }
    text
}

/// Invariant 8, and 4 after the return: a producer on a machine of its own goes on at the other site when the primary's
/// whole site is killed; when that is back, every acknowledged entry is at both.
#[test]
fn a_client_on_its_own_machine_follows_the_primary() {
    if !is_root() {
        return skipped("network namespaces need root");
    }
    if harness::cfs(["__control", "--help"]).code != 0 {
        return skipped("this build has no control process (cfs __control)");
    }
    let lan = match Lan::new() {
        Ok(lan) => lan,
        Err(why) => return skipped(&format!("network namespaces cannot be made here: {why}")),
    };
    let mut machines = Machines::new(lan);
    for site in ["site-a", "site-b", "site-w"] {
        machines.start(site);
    }
    for (site, words) in [
        ("site-b", &["admin", "replication", "enroll", "--primary", "site-a"][..]),
        ("site-w", &["admin", "replication", "enroll", "--witness", "--primary", "site-a"]),
    ] {
        eventually(&format!("{site} enrols"), PATIENCE, || machines.run(site, words));
    }
    let record = machines.path(CLIENT, "record");
    let record = record.to_str().unwrap();
    let words =
        ["bench", "append", "--follow-primary", "--rate", "500", "--duration", "15", "--record", record, "-o", "json"];
    let bench = machines.command(CLIENT, &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let acknowledged = || fs::read_to_string(record).map_err(|e| e.to_string()).map(|text| text.lines().count());
    eventually("entries are acknowledged", PATIENCE, || {
        acknowledged().and_then(|lines| if lines > 1000 { Ok(()) } else { Err(format!("{lines} are")) })
    });
    machines.kill("site-a");

    let said = bench.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{out}{err}");
    let results: Value = serde_json::from_str(&out).unwrap();
    let primaries = results["primaries"].as_array().unwrap();
    let sites: Vec<_> = primaries.iter().map(|primary| primary["site"].as_str().unwrap()).collect();
    assert_eq!(sites, ["site-a", "site-b"], "{results}");
    let epochs: Vec<_> = primaries.iter().map(|primary| primary["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs[1], epochs[0] + 1, "{results}");
    assert_eq!(results["unknown"], 0);
    let gap = Duration::from_secs_f64(results["longest_gap_ms"].as_f64().unwrap() / 1000.0);
    assert!(gap < Duration::from_secs(5), "nothing was acknowledged for {gap:?}");

    machines.start("site-a");
    for site in ["site-a", "site-b"] {
        eventually(&format!("{site} holds every acknowledged entry"), PATIENCE, || {
            machines.run(site, &["bench", "verify", "--record", record])
        });
    }
}
