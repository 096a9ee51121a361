//! The audit trail over real clusters: what was lost is in every site's, under one name; it survives what sites survive; and
//! whoever tampers with it is found out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Said, eventually, quiet};

impl Cluster {
    /// `cfs admin replication audit WORDS` at a site.
    pub(crate) fn audit(&self, site: &str, words: &[&str]) -> Said {
        self.admin(site, &[&["audit"], words].concat())
    }

    /// Records of a kind in a site's trail, oldest first.
    pub(crate) fn audited(&self, site: &str, kind: &str) -> Vec<Value> {
        let said = self.audit(site, &["--filter", kind]);
        assert_eq!(said.code, 0, "{said:?}");
        said.json_lines()
    }

    /// Appends operations at a site, one line each.
    pub(crate) fn append_ops(&self, site: &str, lines: &str) {
        let mut appending = self.spawn_with_input(site, &["journal", "append", "--producer", site, "-o", "jsonl"]);
        appending.write(lines);
        appending.close_input();
        let said = appending.finish();
        assert_eq!(said.code, 0, "{said:?}\n{}", self.logs());
    }
}

fn names(records: &[Value]) -> BTreeSet<String> {
    records.iter().map(|record| record["event"].as_str().expect("a name").to_owned()).collect()
}

/// A tree of two files that both sites hold.
pub(crate) const BASE: &str = r#"{"mkdir":{"parent":0,"name":"/","inode":1}}
{"create":{"parent":1,"name":"f","inode":7,"kind":"file","mode":420}}
{"create":{"parent":1,"name":"g","inode":8,"kind":"file","mode":420}}
"#;
/// What only the site that dies has, ...
pub(crate) const UNSHIPPED: &str = r#"{"set_attr":{"inode":7,"mode":384}}
{"create":{"parent":1,"name":"new","inode":9,"kind":"file","mode":384}}
{"set_attr":{"inode":8,"uid":77}}
"#;
/// ... and what is written after it is gone.
pub(crate) const AFTER: &str = r#"{"set_attr":{"inode":7,"mode":448}}
{"create":{"parent":1,"name":"new","inode":10,"kind":"file","mode":448}}
"#;

/// The primary writes what does not get to the other site, dies, and returns after the other one wrote the same registers.
fn lose_writes(cluster: &Cluster) -> (String, String) {
    let old = cluster.primary();
    let other = cluster.other(&old);
    cluster.append_ops(&old, BASE);
    cluster.converge();
    eventually("the witness to lead", PATIENCE, || {
        let leader = cluster.leader();
        if leader == "site-w" { Ok(()) } else { Err(format!("{leader:?} leads\n{}", cluster.logs())) }
    });
    cluster.partition(&old, &other);
    cluster.append_ops(&old, UNSHIPPED);
    cluster.kill_at_once(&old);
    eventually("the other site to be primary", PATIENCE, || {
        let primary = cluster.primary();
        if primary == other { Ok(()) } else { Err(format!("{primary} is\n{}", cluster.logs())) }
    });
    cluster.append_ops(&other, AFTER);
    // Not before: what the dead site had sent may still be on the link, and would be seen by whoever writes now.
    cluster.heal();
    cluster.start(&old);
    cluster.converge();
    cluster.wait_ready();
    (old, other)
}

/// Invariant 7: what lost a merge after a failover is in the trail of every site that applied it, under the same name, with
/// inode and value; decisions are there too. A kill -9 takes nothing away and doubles nothing; the chain holds.
#[test]
fn lost_merges_and_decisions_are_in_every_trail_and_survive_kills() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (old, other) = lose_writes(&cluster);
    let lost = eventually("both trails to have the same conflicts", PATIENCE, || {
        let (a, b) = (cluster.audited(&old, "conflict"), cluster.audited(&other, "CONFLICT"));
        let both = names(&a) == names(&b) && a.iter().any(|record| record["register"] == "entry");
        if both { Ok(a) } else { Err(format!("{old}: {a:#?}\n{other}: {b:#?}")) }
    });
    let of = |register: &str| lost.iter().find(|record| record["register"] == register).expect("it is there");
    assert_eq!((&of("mode")["inode_id"], &of("mode")["value"]["number"]), (&7.into(), &384.into()), "{lost:#?}");
    let entry = of("entry");
    assert_eq!(
        (&entry["inode_id"], &entry["name"], &entry["value"]["entry"]["inode"]),
        (&1.into(), &"new".into(), &9.into())
    );
    for record in &lost {
        assert_eq!((&record["kind"], &record["site"]), (&"conflict".into(), &old.as_str().into()), "{record}");
        assert!(record["stamp"]["lsn"].is_u64() && record["epoch"].is_u64() && record["time"].is_string(), "{record}");
    }
    // As the runbook greps and counts.
    let all = cluster.audit(&other, &["--since", "24 hours ago"]).ok();
    assert_eq!(all.lines().filter(|line| line.contains("CONFLICT")).count(), lost.len(), "{all}");
    assert_eq!(cluster.audit(&other, &["--filter", "resync"]).ok(), "");
    assert_eq!(cluster.audit(&other, &["--filter", "conflict", "--tail", "1"]).ok().lines().count(), 1);
    assert_eq!(cluster.audit(&other, &["--oldest"]).ok().lines().count(), 1);
    for site in [&old, &other] {
        eventually("the change of primary to be audited", PATIENCE, || {
            let opened = cluster.audited(site, "open");
            let there = opened.iter().any(|record| record["site"] == other.as_str() && record["decision"] == "open");
            if there { Ok(()) } else { Err(format!("{site}: {opened:#?}\n{}", cluster.logs())) }
        });
    }
    let decisions = |site: &str| {
        let all = cluster.audit(site, &[]).json_lines();
        let names =
            all.iter().filter_map(|record| record["event"].as_str()?.strip_prefix("decision-").map(str::to_owned));
        let names: Vec<String> = names.collect();
        (names.len(), names.iter().collect::<BTreeSet<_>>().len())
    };
    let before = decisions(&old);
    for site in [&old, &other] {
        cluster.kill_at_once(site);
        let said = cluster.audit(site, &["--filter", "conflict"]);
        assert_eq!((said.code, said.out.lines().count()), (0, lost.len()), "with the shipper down: {said:?}");
        assert!(said.err.contains("does not run"), "{said:?}");
        cluster.start(site);
        cluster.wait_ready();
    }
    std::thread::sleep(Duration::from_secs(3));
    for site in [&old, &other] {
        assert_eq!(names(&cluster.audited(site, "conflict")), names(&lost), "{site}");
        assert_eq!(cluster.audited(site, "conflict").len(), lost.len(), "nothing is recorded twice");
        let said = cluster.audit(site, &["verify"]);
        assert!(said.code == 0 && said.out.contains("RESULT: SOUND"), "{said:?}");
    }
    let after = decisions(&old);
    assert!(after.0 == after.1 && after.0 >= before.0, "{before:?}, {after:?}");
    // What the trail does not have is derived from the store, under the same names.
    cluster.stop(&old);
    std::fs::remove_dir_all(cluster.path(&old, "state/audit")).expect("removed");
    cluster.start(&old);
    cluster.wait_ready();
    eventually("the conflicts to be derived again", PATIENCE, || {
        let again = cluster.audited(&old, "conflict");
        if names(&again) == names(&lost) && again.len() == lost.len() { Ok(()) } else { Err(format!("{again:#?}")) }
    });
    // The witness has none, and says so.
    let said = cluster.audit("site-w", &[]);
    assert!(said.code == 1 && said.err.contains("witness"), "{said:?}");
    for (words, part) in [
        (&["--since", "soon"][..], "no point in time"),
        (&["--since", "2999-01-01"], "future"),
        (&["--until", "2999-01-01T00:00:00Z"], "future"),
    ] {
        let said = cluster.audit(&old, words);
        assert!(said.code != 0 && said.out.is_empty() && said.err.contains(part), "{words:?}: {said:?}");
    }
}

/// A lost value is written again by the primary, which settles the conflict on every site; what came late is named on every
/// site alike. Whatever cannot be restored is refused and changes nothing.
#[test]
fn a_lost_value_is_restored_and_late_entries_are_named() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (old, other) = lose_writes(&cluster);
    let late = eventually("both trails to name what came late", PATIENCE, || {
        let (a, b) = (cluster.audited(&old, "late"), cluster.audited(&other, "late"));
        if names(&a) == names(&b) && !a.is_empty() { Ok(a) } else { Err(format!("{old}: {a:#?}\n{other}: {b:#?}")) }
    });
    let entries: u64 =
        late.iter().map(|l| l["last_lsn"].as_u64().unwrap() - l["first_lsn"].as_u64().unwrap() + 1).sum();
    assert_eq!(entries, 3, "exactly what was not shipped: {late:#?}");
    let primary = cluster.primary();
    assert_eq!(primary, other);
    let mode = eventually("the conflict to be audited", PATIENCE, || {
        let lost = cluster.audited(&primary, "conflict");
        let mode = lost.iter().find(|record| record["register"] == "mode" && record["inode_id"] == 7);
        mode.map(|record| record["event"].as_str().expect("a name").to_owned()).ok_or_else(|| format!("{lost:#?}"))
    });
    let said = cluster.audit(&old, &["restore", &mode]);
    assert!(said.code == 1 && said.err.contains(&format!("run it on {primary}")), "{said:?}");
    let said = cluster.audit(&primary, &["restore", "lost-9.9-9-00000000"]);
    assert!(said.code == 1 && said.err.contains("there is no event"), "{said:?}");
    let said = cluster.audit(&primary, &["restore", &mode, "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    cluster.converge();
    for site in [&old, &other] {
        let shown = cluster.at(site, &["admin", "meta", "lookup", "7", "-o", "json"]).json();
        assert_eq!(shown["mode"], 384, "the lost value holds again at {site}: {shown}");
        eventually("the conflict to be settled", PATIENCE, || {
            let settled = cluster.audited(site, "superseded");
            if settled.iter().any(|record| record["of"] == mode.as_str()) {
                Ok(())
            } else {
                Err(format!("{site}: {settled:#?}"))
            }
        });
    }
    assert_eq!(cluster.audited(&primary, "restore").len(), 1);
    let said = cluster.audit(&primary, &["restore", &mode]);
    assert!(said.code == 1 && said.err.contains("has settled it"), "{said:?}");
    cluster.audit(&primary, &["restore", &mode, "--force"]).ok();
    let collected = cluster.admin(&primary, &["gc", "--audit-only", "-o", "json"]).json();
    assert_eq!(collected["audit_records"], 0, "nothing is that old");
}

/// "Must show" 6 on a real site: what is done to the files shows, with the shipper up and down; what a peer holds shows that
/// a trail was begun anew.
#[test]
fn tampering_with_the_files_is_found() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let site = cluster.primary();
    eventually("the other site to hold a checkpoint", PATIENCE, || {
        let said = cluster.audit(&site, &["verify", "-o", "json"]);
        let verdict: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
        let held = verdict["held"].as_object().is_some_and(|held| held.values().any(|count| count.as_u64() > Some(0)));
        if held && verdict["sound"] == true { Ok(()) } else { Err(format!("{verdict:#}\n{}", cluster.logs())) }
    });
    cluster.stop(&site);
    let dir = cluster.path(&site, "state/audit");
    let segment = std::fs::read_dir(&dir).expect("a trail").filter_map(|entry| {
        let path = entry.expect("readable").path();
        path.file_name()?.to_str()?.starts_with("0000").then_some(path)
    });
    let segment = segment.min().expect("a segment");
    let whole = std::fs::read_to_string(&segment).expect("text");
    let lines: Vec<&str> = whole.lines().collect();
    assert!(lines.len() > 2, "{whole}");
    let without = |at: usize| {
        lines.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, line)| format!("{line}\n")).collect()
    };
    let edited: String = whole.replacen("\"severity\":\"INFO\"", "\"severity\":\"WARNING\"", 1);
    let restamped: String = whole.replacen("\"time\":\"20", "\"time\":\"19", 1);
    let cut: String = lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect();
    for (what, text) in [("missing", without(1)), ("edited", edited), ("edited", restamped), ("truncated", cut)] {
        std::fs::write(&segment, &text).expect("written");
        let said = cluster.audit(&site, &["verify"]);
        assert!(said.code == 1 && said.out.contains(&format!("PROBLEM {what}")), "{what}: {said:?}");
    }
    std::fs::write(&segment, &whole).expect("written");
    assert_eq!(cluster.audit(&site, &["verify"]).code, 0);
    // Everything gone, keys and checkpoints too: here it looks like a new site, and the other one knows better.
    std::fs::remove_dir_all(&dir).expect("removed");
    cluster.start(&site);
    cluster.wait_ready();
    let said = cluster.audit(&site, &["verify"]);
    assert!(said.code == 1 && said.out.contains("PROBLEM replaced"), "{said:?}");
}
