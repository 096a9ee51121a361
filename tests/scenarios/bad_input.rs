//! What cannot be done is refused with what, why and what next, and changes nothing.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use cfs_model::{ClusterId, SiteName};
use cfs_rpc::ca::{Authority, Validity, install};
use cfs_rpc::identity::{Identity, Role};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, PATIENCE, Running, Said, command, eventually, quiet};
use crate::peers::authority;

/// Nothing in a cluster that an order could have changed.
fn unchanged(cluster: &Cluster, before: &(String, u64, Vec<Value>)) {
    let (primary, epoch) = cluster.primary_and_epoch();
    let changes = cluster.changes("site-a");
    assert_eq!((&primary, epoch, &changes), (&before.0, before.1, &before.2), "{}", cluster.logs());
}

pub(crate) fn before(cluster: &Cluster) -> (String, u64, Vec<Value>) {
    let (primary, epoch) = cluster.primary_and_epoch();
    (primary, epoch, cluster.changes("site-a"))
}

/// A refusal says what, why and what next, and names all of `words`.
pub(crate) fn refused(said: Said, words: &[&str]) -> String {
    let text = said.failed();
    assert!(text.contains("error") && text.contains("next:"), "it does not say what comes next:\n{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not named:\n{text}");
    }
    text
}

fn failover(cluster: &Cluster, at: &str, to: &str) -> Said {
    cluster.admin(at, &["failover", "--to", to, "--yes"])
}

/// Orders that make no sense, given at every site.
#[test]
fn orders_that_make_no_sense_change_nothing() {
    let cluster = Cluster::up_with_witness();
    let was = before(&cluster);
    let primary = was.0.clone();
    let replica = cluster.other(&primary);
    for site in ["site-a", "site-b", "site-w"] {
        refused(failover(&cluster, site, "site-z"), &["site-z"]);
        refused(failover(&cluster, site, "site-w"), &["site-w", "witness"]);
        let already = failover(&cluster, site, &primary);
        assert!(
            already.code == 0 && format!("{}{}", already.out, already.err).contains("primary already"),
            "{already:?}"
        );
        let unconfirmed = cluster.admin(site, &["failover", "--to", &replica]);
        assert!(unconfirmed.failed().contains("--yes"), "without a terminal it does not name the flag");
        // Nobody is asked about a site that is no name at all.
        let odd = cluster.admin(site, &["failover", "--to", "Site A", "--yes"]);
        assert_ne!(odd.code, 0, "{odd:?}");
    }
    refused(cluster.admin(&primary, &["rejoin", "--primary", &replica]), &["primary"]);
    refused(cluster.admin(&primary, &["rejoin", "--primary", &primary]), &["primary"]);
    let rejoined = cluster.admin(&replica, &["rejoin", "--primary", &primary]);
    assert!(rejoined.code == 0 && rejoined.out.contains("has rejoined and is a replica"), "{rejoined:?}");
    let followed = cluster.admin(&replica, &["history", "--follow", "4711"]);
    assert!(followed.failed().contains("4711"), "an operation that never was");
    unchanged(&cluster, &was);

    cluster.kill_at_once(&replica);
    eventually("the site to be known as down", PATIENCE, || {
        let said = failover(&cluster, &primary, &replica);
        assert_ne!(said.code, 0, "a dead site became primary: {said:?}");
        let named = said.err.contains("next:") && said.err.contains(&replica);
        if named { Ok(()) } else { Err(format!("{said:?}")) }
    });
    // At a site that is alone the answer is as quick.
    let asked = Instant::now();
    refused(failover(&cluster, "site-w", &replica), &[&replica]);
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    unchanged(&cluster, &was);
    cluster.start(&replica);
    cluster.wait_ready();
    unchanged(&cluster, &was);
}

/// Two operators at once, at different sites: the role moves once, and both are told the truth.
#[test]
fn two_operators_move_the_role_once() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    for _ in 0..2 {
        let (primary, epoch) = cluster.primary_and_epoch();
        let target = cluster.other(&primary);
        let words = ["admin", "replication", "failover", "--to", &target, "--yes"];
        let both = [cluster.spawn("site-a", &words), cluster.spawn("site-w", &words)];
        let said = both.map(Running::finish);
        assert!(said.iter().any(|said| said.code == 0), "{said:?}\n{}", cluster.logs());
        for said in said {
            assert!(said.code == 0 || said.err.contains("next:"), "{said:?}");
        }
        assert_eq!(cluster.primary_and_epoch(), (target, epoch + 1), "{}", cluster.logs());
        cluster.wait_ready();
    }
}

/// A control process that no `cfs dev` made.
struct Stranger {
    place: TempDir,
    process: Option<Running>,
}

impl Stranger {
    /// With this name and number, and certificates of this authority; it knows all sites but those whose name or number it
    /// has itself.
    fn new(cluster: &Cluster, authority: &Authority, name: &str, id: u8) -> Self {
        let place = tempfile::tempdir().unwrap();
        let ports: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
        let port = |index: usize| ports[index].local_addr().unwrap().port();
        let (state, run) = (place.path().join("state"), place.path().join("run"));
        fs::create_dir(&run).unwrap();
        let mut text = format!(
            "[site]\nname = {name:?}\nid = {id}\n[cluster]\nid = \"{}\"\n[paths]\nstate = {state:?}\nrun = {run:?}\n\
             [listen]\npeer = \"127.0.0.1:{}\"\ncontrol = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n\
             shipper_http = \"127.0.0.1:{}\"\nproducer = \"127.0.0.1:{}\"\n",
            authority.cluster(),
            port(0),
            port(1),
            port(2),
            port(3),
            port(4),
        );
        for (number, peer) in (1..).zip(cluster.sites()).filter(|(number, peer)| *number != id && *peer != name) {
            let (kind, shipper) = match peer {
                "site-w" => ("witness", String::new()),
                _ => ("data", format!("peer = \"127.0.0.1:{}\"\n", cluster.port(peer, "peer"))),
            };
            let control = cluster.port(peer, "control");
            text.push_str(&format!(
                "[[peers]]\nname = {peer:?}\nid = {number}\nkind = {kind:?}\ncontrol = \"127.0.0.1:{control}\"\n{shipper}"
            ));
        }
        drop(ports);
        fs::write(place.path().join("repl.toml"), text).unwrap();
        let validity = Validity::lasting(SystemTime::now(), Duration::from_secs(3600));
        for role in Role::ALL {
            let who = Identity { cluster: authority.cluster(), site: SiteName::new(name).unwrap(), role };
            install(&state.join("tls"), role, authority.cert_pem(), &authority.issue(&who, validity).unwrap()).unwrap();
        }
        Self { place, process: None }
    }

    fn command(&self, words: &[&str]) -> Running {
        let config = self.place.path().join("repl.toml");
        let config = ["--config", config.to_str().unwrap()];
        Running::spawn(command(config.iter().copied().chain(words.iter().copied())))
    }

    /// Starts it and asks it to join.
    fn enroll(&mut self) -> Said {
        self.process = Some(self.command(&["__control"]));
        eventually("the control process to listen", PATIENCE, || {
            let there = self.place.path().join("run/control.sock").exists();
            if there { Ok(()) } else { Err("no socket".to_owned()) }
        });
        self.command(&["admin", "replication", "enroll", "--primary", "site-a"]).finish()
    }
}

/// Invariant 9: whoever has a name or a number that is taken, or belongs to another cluster, is not let in.
#[test]
fn sites_that_are_not_what_they_say_are_not_enrolled() {
    let cluster = Cluster::up_with_witness();
    let was = before(&cluster);
    let ours = authority(&cluster);
    let members = |cluster: &Cluster| -> Vec<(String, u64)> {
        let status = cluster.status("site-a");
        let sites = status["sites"].as_array().expect("sites").iter();
        sites.map(|site| (site["site"].as_str().unwrap().to_owned(), site["id"].as_u64().unwrap())).collect()
    };
    let held = members(&cluster);
    refused(Stranger::new(&cluster, &ours, "site-c", 2).enroll(), &["2"]);
    refused(Stranger::new(&cluster, &ours, "site-b", 9).enroll(), &["site-b"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    // Another cluster; and the same cluster's id under another authority.
    let theirs = Authority::create(&elsewhere.path().join("other"), ClusterId([9; 16]), now).unwrap();
    let forged = Authority::create(&elsewhere.path().join("forged"), ours.cluster(), now).unwrap();
    for authority in [&theirs, &forged] {
        refused(Stranger::new(&cluster, authority, "site-c", 4).enroll(), &["site-a"]);
    }
    assert_eq!(members(&cluster), held);
    unchanged(&cluster, &was);
    // What was refused is really due to what was wrong.
    let mut honest = Stranger::new(&cluster, &ours, "site-c", 4);
    let enrolled = honest.enroll();
    assert_eq!(enrolled.code, 0, "{enrolled:?}\n{}", cluster.logs());
}

/// A configuration whose numbers differ from the others' is noticed; nobody else is disturbed.
#[test]
fn a_site_whose_configuration_disagrees_disturbs_nobody() {
    let cluster = Cluster::up_with_witness();
    let was = before(&cluster);
    cluster.stop("site-b");
    let config = cluster.path("site-b", "repl.toml");
    let sound = fs::read_to_string(&config).unwrap();
    let taken = sound.replace(
        &format!("control = \"127.0.0.1:{}\"", cluster.port("site-b", "control")),
        &format!("control = \"127.0.0.1:{}\"", cluster.port("site-b", "peer")),
    );
    assert_ne!(taken, sound);
    fs::write(&config, &taken).unwrap();
    let clash = cluster.dev(&["start", "site-b"]).failed();
    assert!(clash.contains("listen.control") && clash.contains("listen.peer"), "{clash}");

    let other = sound.replace("name = \"site-a\"\nid = 1\n", "name = \"site-a\"\nid = 7\n");
    assert_ne!(other, sound);
    fs::write(&config, &other).unwrap();
    let said = cluster.dev(&["start", "site-b"]);
    eventually("the disagreement to be told", PATIENCE, || {
        let status = cluster.admin("site-b", &["status"]);
        let all = format!("{}{}{}{}", said.err, status.out, cluster.log("site-b"), cluster.control_log("site-b"));
        let told = all.lines().any(|line| line.contains("site-a") && line.contains('7'));
        if told { Ok(()) } else { Err(all) }
    });
    assert_eq!(cluster.status("site-a")["epoch"], was.1);
    cluster.stop("site-b");
    fs::write(&config, sound).unwrap();
    cluster.start("site-b");
    cluster.wait_ready();
    cluster.converge();
    unchanged(&cluster, &was);
}

/// The directory in use below a site's control directory.
fn in_use(cluster: &Cluster, site: &str) -> PathBuf {
    let control = cluster.path(site, "state/control");
    let current = fs::read_to_string(control.join("current")).expect("the directory in use is named");
    let name = current.lines().next().unwrap_or_default().trim().to_owned();
    control.join(name)
}

/// What is at `to` is replaced.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").arg("--sparse=always").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Invariant 6: a control process never goes on with a state that is another node's, damaged or newer than itself.
#[test]
fn a_raft_directory_that_is_not_sound_is_refused() {
    let cluster = Cluster::up_with_witness();
    let was = before(&cluster);
    let place = tempfile::tempdir().unwrap();
    let (control, kept) = (cluster.path("site-b", "state/control"), place.path().join("control"));
    cluster.stop("site-b");
    copy(&control, &kept);
    let node = |change: &dyn Fn(&mut Value)| {
        let path = in_use(&cluster, "site-b").join("node.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(&path, record.to_string()).unwrap();
    };
    let refuses = |words: &[&str]| {
        // What earlier attempts said is no answer to this one.
        fs::write(cluster.path("site-b", "control.log"), "").unwrap();
        let said = cluster.dev(&["start", "site-b"]).failed();
        for word in words {
            assert!(said.contains(word), "{word:?} is not named:\n{said}");
        }
        cluster.dev(&["stop", "--now", "site-b"]).ok();
        copy(&kept, &control);
        assert_eq!(cluster.status("site-a")["epoch"], was.1);
    };

    copy(&cluster.path("site-w", "state/control"), &control);
    refuses(&["site-w", "site-b"]);
    node(&|record| record["format"] = 99.into());
    refuses(&["99"]);
    node(&|record| record["node"] = 77.into());
    refuses(&["77"]);
    node(&|record| record["cluster"] = "0102".into());
    refuses(&["damaged"]);
    // The database's first pages are no database's.
    let data = in_use(&cluster, "site-b").join("data.mdb");
    let file = fs::OpenOptions::new().write(true).open(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 16384], 0).unwrap();
    drop(file);
    refuses(&["damaged", "rejoin --primary"]);

    cluster.start("site-b");
    cluster.wait_ready();
    cluster.converge();
    unchanged(&cluster, &was);
}
