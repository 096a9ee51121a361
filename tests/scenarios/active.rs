//! Active-active: every data site takes appends, conflicts merge, and it ends as it began.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Said, eventually, quiet};
use crate::load::Load;

/// A tree that both sites hold before they part.
const TREE: &str = r#"{"mkdir":{"parent":0,"name":"/","inode":1}}
{"mkdir":{"parent":1,"name":"d","inode":2}}
{"mkdir":{"parent":1,"name":"e","inode":3}}
{"create":{"parent":1,"name":"f","inode":7,"kind":"file","mode":420}}
{"create":{"parent":1,"name":"g","inode":8,"kind":"file","mode":420}}
{"create":{"parent":1,"name":"doc","inode":40,"kind":"file","mode":420}}
"#;
/// The same names, a directory into the other, a file that goes here and is changed there, one that goes at both and comes anew at one: at the one site ...
const ONE: &str = r#"{"create":{"parent":1,"name":"new","inode":20,"kind":"file","mode":384}}
{"mkdir":{"parent":1,"name":"dir","inode":21}}
{"create":{"parent":21,"name":"in","inode":22,"kind":"file","mode":384}}
{"rename":{"from_parent":1,"from_name":"d","to_parent":3,"to_name":"d","inode":2,"kind":"directory"}}
{"unlink":{"parent":1,"name":"f","inode":7,"last":true}}
{"set_attr":{"inode":8,"mode":384}}
{"unlink":{"parent":1,"name":"doc","inode":40,"last":true}}
"#;
/// ... and at the other, later.
const OTHER: &str = r#"{"create":{"parent":1,"name":"new","inode":30,"kind":"file","mode":448}}
{"mkdir":{"parent":1,"name":"dir","inode":31}}
{"create":{"parent":31,"name":"in","inode":32,"kind":"file","mode":448}}
{"rename":{"from_parent":1,"from_name":"e","to_parent":2,"to_name":"e","inode":3,"kind":"directory"}}
{"set_attr":{"inode":7,"mode":448}}
{"set_attr":{"inode":8,"mode":448}}
{"unlink":{"parent":1,"name":"doc","inode":40,"last":true}}
{"create":{"parent":1,"name":"doc","inode":41,"kind":"file","mode":448}}
"#;

impl Cluster {
    /// Switches once the leadership has gone to the witness, where it stays.
    fn mode(&self, at: &str, mode: &str) -> Said {
        eventually("the witness to lead", PATIENCE, || {
            let leader = self.leader();
            if leader == "site-w" { Ok(()) } else { Err(format!("{leader:?} leads\n{}", self.logs())) }
        });
        self.admin(at, &["config", "--active-active-mode", mode])
    }

    /// The same, again until every site is heard: a leader that was elected a moment ago may not have.
    fn switched(&self, at: &str, mode: &str) -> Said {
        eventually("the mode to be switched", PATIENCE, || {
            let said = self.mode(at, mode);
            if said.code == 0 { Ok(said) } else { Err(format!("{said:?}\n{}", self.logs())) }
        })
    }

    /// Waits until a probe of a site answers so.
    fn wait_probe(&self, site: &str, path: &str, wanted: u16) {
        eventually("a probe to answer otherwise", PATIENCE, || match self.probe(site, "GET", path) {
            Ok(code) if code == wanted => Ok(()),
            other => Err(format!("{site} answers {other:?} to {path}, not {wanted}\n{}", self.logs())),
        });
    }

    fn cut_off(&self, site: &str) {
        for other in self.sites().filter(|other| *other != site) {
            self.partition(site, other);
        }
    }

    /// Names of the conflicts in a site's trail.
    fn conflicts(&self, site: &str) -> BTreeSet<String> {
        let names = self.audited(site, "conflict").into_iter();
        names.map(|record| record["event"].as_str().expect("a name").to_owned()).collect()
    }
}

/// "Must show" 4 on real sites: both write the same names, rename a directory into the other, delete and change the same file
/// while they are cut apart. Healed, the digests are equal, the cycle is mended by entries, each lost write is in both trails
/// under one name, and one is written back at the site that does not coordinate. Switched off, one site alone goes on.
#[test]
fn what_both_sites_of_a_cut_wrote_converges() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (one, epoch) = cluster.primary_and_epoch();
    let other = cluster.other(&one);
    let said = cluster.admin(&other, &["config", "--partition-policy", "continue"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = cluster.switched(&other, "on");
    assert!(said.code == 0 && said.out.contains("active_active_mode = on (was off): live"), "{said:?}");
    let said = cluster.mode(&one, "on");
    assert!(said.code == 0 && said.out.contains("it was so already"), "{said:?}");
    for (site, role) in [(&one, "PRIMARY"), (&other, "ACTIVE")] {
        cluster.wait_probe(site, "/primary", 200);
        let status = cluster.status(site);
        assert_eq!((&status["role"], &status["epoch"]), (&role.into(), &(epoch + 1).into()), "{status:#}");
        assert_eq!((&status["active_active"], &status["partition_policy"]), (&true.into(), &"continue".into()));
    }
    cluster.append_ops(&one, TREE);
    cluster.converge();
    cluster.cut_off(&other);
    eventually("the site to notice that it is cut off", PATIENCE, || {
        let status = cluster.status(&other);
        if status["quorum"] == "ok" { Err(format!("{status:#}")) } else { Ok(()) }
    });
    // It goes on, says so, and advises nothing that would make two sides of it.
    assert_eq!(cluster.status(&other)["status"], "READY");
    let health = cluster.admin(&other, &["health"]);
    assert!(health.out.contains("appends go on here") && !health.out.contains("--force"), "{health:?}");
    cluster.append_ops(&one, ONE);
    cluster.append_ops(&other, OTHER);
    let said = cluster.mode(&one, "off");
    // Heard a moment ago, it is found to be lost before it has drained; then all go on as before.
    assert!(said.code == 1 && said.err.contains(&other), "{said:?}");
    cluster.wait_probe(&one, "/primary", 200);
    cluster.heal();
    eventually("both sites to hold the same", 2 * PATIENCE, || {
        let (a, b) = (cluster.cursors(&one), cluster.cursors(&other));
        let idle = a.iter().all(|(_, source, applied)| source == applied);
        if a == b && idle { Ok(()) } else { Err(format!("{a:?}, {b:?}\n{}", cluster.logs())) }
    });
    // Each directory went into the other: whichever order the entries came in, both sites see the same cycle.
    let checked = |site: &str, more: &[&str]| {
        cluster.at(site, &[&["admin", "meta", "consistency-check", "-o", "json"], more].concat()).json()
    };
    for site in [&one, &other] {
        let report = checked(site, &[]);
        assert_eq!((&report["result"], &report["structure"]["cycles"]), (&"MATCH".into(), &2.into()), "{report:#}");
    }
    let report = checked(&other, &["--repair"]);
    assert_eq!(report["structure"]["sound"], true, "{report:#}\n{}", cluster.logs());
    cluster.converge();
    let report = checked(&one, &[]);
    assert_eq!((&report["result"], &report["structure"]["sound"]), (&"MATCH".into(), &true.into()), "{report:#}");
    let lost = eventually("both trails to have the same conflicts", PATIENCE, || {
        let (a, b) = (cluster.conflicts(&one), cluster.conflicts(&other));
        if a == b && a.len() >= 3 { Ok(a) } else { Err(format!("{one}: {a:#?}\n{other}: {b:#?}")) }
    });
    let records = cluster.audited(&other, "conflict");
    let mode = |record: &&Value| record["register"] == "mode" && record["inode_id"] == 8;
    let mode = records.iter().find(mode).unwrap_or_else(|| panic!("{records:#?}"));
    for (register, name) in [("entry", "new"), ("entry", "dir")] {
        let found = records.iter().any(|record| record["register"] == register && record["name"] == name);
        assert!(found, "{name}: {records:#?}");
    }
    let lost_mode = mode["value"]["number"].as_u64().expect("a mode");
    let shown = |site: &str| cluster.at(site, &["admin", "meta", "lookup", "8", "-o", "json"]).json()["mode"].clone();
    for site in [&one, &other] {
        assert_eq!(shown(site), 384 + 448 - lost_mode, "the other value holds at {site}: {lost:?}");
    }
    // What was written to a file that the other site removed is no lost write; it is found at the removed inode.
    assert!(!records.iter().any(|record| record["register"] == "mode" && record["inode_id"] == 7), "{records:#?}");
    let removed = cluster.at(&one, &["admin", "meta", "lookup", "7", "--detailed"]);
    assert!(removed.out.contains("(removed)") && removed.out.contains("0700"), "{removed:?}");
    // A deletion that lost is no ground to remove what has come in its place.
    let deletion = |record: &&Value| record["name"] == "doc" && record["value"] == "tombstone";
    let deletion = records.iter().find(deletion).unwrap_or_else(|| panic!("{records:#?}"));
    for more in [&[][..], &["--force"]] {
        let event = deletion["event"].as_str().expect("a name");
        let said = cluster.audit(&other, &[&["restore", event], more].concat());
        let names = said.err.contains("inode 40") && said.err.contains("inode 41");
        assert!(said.code == 1 && names, "{said:?}\n{}", cluster.logs());
    }
    assert_eq!(cluster.at(&one, &["admin", "meta", "lookup", "41", "-o", "json"]).json()["mode"], 448);
    let event = mode["event"].as_str().expect("a name");
    let said = cluster.audit(&other, &["restore", event]);
    assert_eq!(said.code, 0, "{said:?}");
    cluster.converge();
    for site in [&one, &other] {
        assert_eq!(shown(site), lost_mode, "the lost value holds again at {site}");
    }
    let said = cluster.switched(&other, "off");
    assert!(said.code == 0 && said.out.contains("active_active_mode = off (was on): live"), "{said:?}");
    cluster.wait_probe(&one, "/primary", 200);
    cluster.wait_probe(&other, "/primary", 503);
    assert_eq!(cluster.primary_and_epoch(), (one.clone(), epoch + 2));
    cluster.append_ops(&one, r#"{"set_attr":{"inode":8,"mode":420}}"#);
    cluster.converge();
    assert_eq!(shown(&other), 420);
}

/// The loss of a site changes no epoch and stops nobody else: the site that coordinated is killed under load, the producers go
/// on at the other one, which coordinates now. With `partition_policy = fence`, the default, a site that is cut off stops.
/// Whoever comes back goes on, and nothing that was acknowledged is missing.
#[test]
fn a_lost_site_moves_coordination_alone_and_a_cut_off_one_stops() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (one, before) = cluster.primary_and_epoch();
    let other = cluster.other(&one);
    let said = cluster.switched(&one, "on");
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    let epoch = before + 1;
    let mut load = Load::start(&cluster, &one, "local", 100);
    let first = load.tenures().first().expect("a tenure").clone();
    assert_eq!(first.epoch, epoch);
    let second = if first.site == one { &other } else { &one };
    // Coordination goes to the site that the producers are at, so that losing it loses both.
    if first.site != one {
        eventually("coordination to move", PATIENCE, || {
            let said = cluster.admin(&one, &["failover", "--to", &first.site, "--yes"]);
            if said.code == 0 { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
        });
    }
    let status = cluster.status(second);
    assert_eq!((&status["primary"], &status["epoch"]), (&first.site.as_str().into(), &epoch.into()), "{status:#}");
    cluster.signal(&first.site, Signal::KILL);
    load.until(&cluster, "the producers to go on elsewhere", PATIENCE, |tenure| tenure.site == *second);
    eventually("the other site to coordinate", PATIENCE, || {
        let status = cluster.status(second);
        let there = status["primary"] == second.as_str() && status["role"] == "PRIMARY";
        if there { Ok(()) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    });
    cluster.kill(&first.site);
    cluster.start(&first.site);
    cluster.wait_ready();
    cluster.wait_probe(&first.site, "/primary", 200);
    load.until_more(&cluster);
    let outcome = load.finish();
    assert!(outcome.tenures().iter().all(|tenure| tenure.epoch == epoch), "{:?}", outcome.tenures());
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    cluster.cut_off(&first.site);
    cluster.wait_probe(&first.site, "/primary", 503);
    cluster.wait_probe(second, "/primary", 200);
    cluster.heal();
    cluster.wait_probe(&first.site, "/primary", 200);
    assert_eq!(cluster.primary_and_epoch(), (second.clone(), epoch));
}
