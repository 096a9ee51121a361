//! A store whose file was damaged: it is found, it leads to the inode, and one command repairs it.

use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::load::{Load, RATE};
use crate::process::Said;

const TARGET: &str = "where-nothing-else-points-to";
/// That of another link, in the same directory.
const OTHER_TARGET: &str = "where-but-one-more-points-to";
/// From a link's target back to the set of its fields: length, device, kind, mark, a version, number of versions, set.
const SET_OF_FIELDS: usize = 4 + 33 + 2;

/// A tree with a link whose target is like no other bytes in the store.
fn tree(place: &Path) -> io::Result<()> {
    for directory in ["d", "d/e", "f"] {
        fs::create_dir(place.join(directory))?;
        for file in 0..20 {
            fs::write(place.join(directory).join(file.to_string()), b"x")?;
        }
    }
    std::os::unix::fs::symlink(OTHER_TARGET, place.join("d/other"))?;
    std::os::unix::fs::symlink(TARGET, place.join("d/link"))
}

fn cluster_with_a_link(place: &Path) -> (Cluster, u64) {
    let cluster = Cluster::up();
    cluster.wait_ready();
    tree(place).unwrap();
    cluster.import(place).ok();
    cluster.expect_identical();
    let inode = inode_of(&cluster, "/d/link");
    (cluster, inode)
}

/// The inode that a path below `/d` leads to.
fn inode_of(cluster: &Cluster, path: &str) -> u64 {
    let listed = cluster.at("site-a", &["admin", "meta", "ls", "/d", "-o", "jsonl"]).ok();
    let entries: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = entries.iter().find(|entry| entry["path"] == path).expect("the entry");
    entry["inode"].as_u64().expect("a number")
}

/// Flips a bit of the byte `back` before every place where the store's file has the link's target. Pages that the
/// store no longer uses may hold it too.
fn damage(cluster: &Cluster, site: &str, back: usize) {
    damage_at(cluster, site, TARGET, &|bytes, at| bytes[at - back] ^= if back == 0 { 0x02 } else { 0x80 });
}

/// Changes the store's file wherever it has these bytes.
fn damage_at(cluster: &Cluster, site: &str, what: &str, change: &dyn Fn(&mut [u8], usize)) {
    cluster.stop(site);
    let path = cluster.path(site, "state/meta/data.mdb");
    let mut bytes = fs::read(&path).unwrap();
    let places: Vec<usize> =
        (0..bytes.len() - what.len()).filter(|at| bytes[*at..].starts_with(what.as_bytes())).collect();
    assert!(!places.is_empty(), "the store does not hold {what}");
    for at in places {
        change(&mut bytes, at);
    }
    fs::write(&path, bytes).unwrap();
    cluster.start(site);
}

fn check(cluster: &Cluster, site: &str, mode: &[&str]) -> (Said, Value) {
    let words = [&["admin", "meta", "consistency-check", "--timeout", "30", "-o", "json"], mode].concat();
    let said = cluster.at(site, &words);
    let report = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (said, report)
}

/// Both sites find it, say where it is, and both say whose copy it is.
fn expect_found(cluster: &Cluster, damaged: &str, inode: u64) {
    for site in ["site-a", "site-b"] {
        let (said, report) = check(cluster, site, &[]);
        assert_eq!((said.code, &report["result"]), (1, &"DIFFER".into()), "{site}: {said:?}\n{}", cluster.logs());
        let found = report["differing"]["inodes"].as_array().expect("a list");
        let numbers: Vec<_> = found.iter().map(|found| found["inode"].as_u64()).collect();
        assert_eq!(numbers, [Some(inode)], "{site}: {report:#}");
        assert_eq!(found[0]["damaged"], json!([damaged]), "{site}: {report:#}");
        assert_eq!((&report["differing"]["count"], &report["differing"]["complete"]), (&1.into(), &true.into()));
        assert!(said.err.contains(&format!("resync --inode {inode}")), "{said:?}");
        let (alone, _) = check(cluster, site, &["--local"]);
        assert_eq!(alone.code, i32::from(site == damaged), "{site} alone: {alone:?}");
    }
}

fn resync(cluster: &Cluster, site: &str, inode: u64, more: &[&str]) -> Said {
    let inode = inode.to_string();
    cluster.at(site, &[&["admin", "replication", "resync", "--inode", &inode], more].concat())
}

fn target(cluster: &Cluster, site: &str, inode: u64) -> Value {
    let words = ["admin", "meta", "lookup", &inode.to_string(), "-o", "json"];
    cluster.at(site, &words).json()["target"].clone()
}

/// Invariant 5: one flipped byte in a value is found from either site, leads to its inode, and is repaired from the site
/// that verifies; on the replica and, while it takes appends, on the primary.
#[test]
fn a_flipped_byte_is_found_located_and_repaired() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, inode) = cluster_with_a_link(place.path());
    for (damaged, sound) in [("site-b", "site-a"), ("site-a", "site-b")] {
        damage(&cluster, damaged, 0);
        cluster.wait_ready();
        expect_found(&cluster, damaged, inode);
        assert_eq!(target(&cluster, sound, inode), TARGET);
        assert_ne!(target(&cluster, damaged, inode), TARGET);

        expect_compared(&cluster, damaged, sound, inode, "DIFFERS");

        // The sound copy is not replaced by the damaged one, whether that is asked for or not.
        for more in [&[][..], &["--from", damaged]] {
            let refused = resync(&cluster, sound, inode, more).failed();
            assert!(refused.contains("damaged") && refused.contains("next:"), "{refused}");
        }
        assert_eq!(target(&cluster, sound, inode), TARGET);
        for (from, why) in [(damaged, "is the site to be repaired"), ("site-z", "is no site that holds data")] {
            let refused = resync(&cluster, damaged, inode, &["--from", from]).failed();
            assert!(refused.contains(why), "{refused}");
        }

        let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
        load.until_more(&cluster);
        let said = resync(&cluster, damaged, inode, &[]);
        assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
        for step in ["REQUESTED:", "SOURCE:", "REPAIRED:", "VERIFIED:", "1 rows repaired"] {
            assert!(said.out.contains(step), "no {step}: {said:?}");
        }
        load.until_more(&cluster);
        load.finish();
        cluster.expect_identical();
        assert_eq!(target(&cluster, damaged, inode), TARGET);
        expect_told(&cluster, damaged, inode);
        expect_compared(&cluster, damaged, sound, inode, "EQUAL");

        let again = resync(&cluster, damaged, inode, &["-o", "json"]).json();
        assert_eq!((&again["changed"], &again["source"]), (&0.into(), &sound.into()), "{again:#}");
    }
    let never = resync(&cluster, "site-b", u64::MAX - 1, &[]).failed();
    assert!(never.contains("nothing is known of inode") && never.contains("next:"), "{never}");
}

/// Sites that hold the same print the same bytes, and one can ask the others.
fn expect_compared(cluster: &Cluster, damaged: &str, sound: &str, inode: u64, verdict: &str) {
    let (number, equal) = (inode.to_string(), verdict == "EQUAL");
    for format in ["table", "json"] {
        let words = ["admin", "meta", "lookup", &number, "--detailed", "-o", format];
        let (one, other) = (cluster.at(damaged, &words).ok(), cluster.at(sound, &words).ok());
        assert_eq!(one == other, equal, "{one}\n{other}");
    }
    for site in [damaged, sound] {
        let said = cluster.at(site, &["admin", "meta", "lookup", &number, "--all-sites", "-o", "json"]);
        let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        assert_eq!((said.code, &report["sites"][0]["verdict"]), (i32::from(!equal), &verdict.into()), "{report:#}");
        let fields = if equal { json!([]) } else { json!(["life"]) };
        assert_eq!(report["sites"][0]["differing"], fields, "{report:#}");
    }
}

/// The steps of a repair are in the site's audit trail, in their order.
fn expect_told(cluster: &Cluster, site: &str, inode: u64) {
    let steps = eventually("the repair to be audited", PATIENCE, || {
        let told = cluster.audited(site, "resync");
        let of_it = told.into_iter().filter(|record| record["inode_id"] == inode);
        let steps: Vec<String> = of_it.filter_map(|record| record["phase"].as_str().map(str::to_owned)).collect();
        if steps.iter().any(|step| step == "VERIFIED") { Ok(steps) } else { Err(format!("{steps:?}")) }
    });
    // A refusal before was of this site's sound copy, and stands there as well.
    let end = steps.len().saturating_sub(4);
    assert_eq!(steps[end..], ["REQUESTED", "SOURCE", "REPAIRED", "VERIFIED"], "{steps:?}");
}

/// A value that does not decode stops what is applied to it, and nothing is lost by that: after the repair it goes on.
#[test]
fn a_value_that_does_not_decode_is_repaired_and_what_waited_for_it_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, inode) = cluster_with_a_link(place.path());
    damage(&cluster, "site-b", SET_OF_FIELDS);
    cluster.wait_ready();
    expect_found(&cluster, "site-b", inode);

    fs::remove_file(place.path().join("d/link")).unwrap();
    cluster.import(place.path()).ok();
    eventually("site-b to be stuck", PATIENCE, || {
        let status = cluster.status("site-b");
        let stuck = status["streams"].to_string().contains("does not decode");
        if stuck { Ok(()) } else { Err(format!("{status:#}")) }
    });
    let number = inode.to_string();
    let words = ["admin", "meta", "lookup", &number];
    let unreadable = cluster.at("site-b", &words).failed();
    assert!(unreadable.contains("does not decode") && unreadable.contains("resync"), "{unreadable}");
    let said = cluster.at("site-a", &["admin", "meta", "lookup", &number, "--all-sites"]);
    assert!(said.code == 1 && said.out.contains("site-b: UNREADABLE"), "{said:?}");

    let said = resync(&cluster, "site-b", inode, &[]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    cluster.expect_identical();

    // What was removed is told from what never was.
    for site in ["site-a", "site-b"] {
        let removed = cluster.at(site, &words).failed();
        assert!(removed.contains("was removed by the entry"), "{removed}");
        let left = cluster.at(site, &["admin", "meta", "lookup", &number, "--detailed"]);
        assert!(left.code == 1 && left.out.contains("(removed)"), "{left:?}");
        let never = cluster.at(site, &["admin", "meta", "lookup", "987654321987"]).failed();
        assert!(never.contains("was never seen here") && never.contains("next:"), "{never}");
    }
    cluster.stop("site-b");
    let alone = cluster.at("site-a", &["admin", "meta", "lookup", "1", "--all-sites"]);
    assert!(alone.out.contains("site-b: UNREACHABLE"), "{alone:?}");
}

/// A structure that is not sound is made so by entries, which every site applies; and `--repair` takes damage with it.
#[test]
fn a_structure_that_is_not_sound_is_repaired_by_entries() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, inode) = cluster_with_a_link(place.path());
    let root = cluster.at("site-a", &["admin", "meta", "ls", "/", "-o", "jsonl"]).ok();
    assert!(!root.contains("lost+found"));
    let root =
        cluster.at("site-a", &["admin", "meta", "lookup", &inode.to_string(), "--detailed", "-o", "json"]).json();
    let d = root["parents"][0]["parent"].as_u64().expect("the directory of the link");
    let dir = |name: &str, inode: u64| json!({"mkdir": {"parent": d, "name": name, "inode": inode}});
    let file = |parent: u64, name: &str, inode: u64| json!({"create": {"parent": parent, "name": name, "inode": inode, "kind": "file"}});
    let rename = |name: &str, to: u64, inode: u64| {
        let to_name = name;
        json!({"rename": {"from_parent": d, "from_name": name, "to_parent": to, "to_name": to_name, "inode": inode,
            "kind": "directory", "replaced": 0}})
    };
    let base = 7_000_000_000u64;
    let lines = [
        // Two directories that end up in each other, with a file in one.
        dir("one", base),
        dir("two", base + 1),
        file(base, "inside", base + 2),
        rename("one", base + 1, base),
        rename("two", base, base + 1),
        // A name that leads nowhere, and a file without a name.
        json!({"link": {"parent": d, "name": "nowhere", "inode": base + 3, "kind": "file"}}),
        file(d, "nameless", base + 4),
        json!({"unlink": {"parent": d, "name": "nameless", "inode": base + 4, "last": false}}),
    ];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let mut appending = cluster.spawn_with_input("site-a", &["journal", "append"]);
    appending.write(&(lines.join("\n") + "\n"));
    appending.close_input();
    let appended = appending.finish();
    assert_eq!(appended.code, 0, "{appended:?}");
    cluster.settle();
    let (said, report) = check(&cluster, "site-b", &[]);
    assert_eq!((said.code, &report["structure"]["sound"]), (0, &false.into()), "{report:#}");
    assert_eq!(
        (&report["structure"]["orphans"], &report["structure"]["dangling"]),
        (&1.into(), &1.into()),
        "{report:#}"
    );
    assert_eq!(report["structure"]["cycles"], 2, "{report:#}");

    damage(&cluster, "site-b", 0);
    cluster.wait_ready();
    let (said, report) = check(&cluster, "site-b", &["--repair"]);
    assert_eq!((said.code, &report["structure"]["sound"]), (0, &true.into()), "{said:?}\n{}", cluster.logs());
    let repairs = report["repairs"].as_array().expect("a list");
    assert!(repairs.iter().any(|step| step["what"] == "registers" && step["inode"] == inode), "{report:#}");
    cluster.expect_identical();
    let found = cluster.at("site-a", &["admin", "meta", "ls", "-R", "/lost+found", "-o", "jsonl"]).ok();
    for path in [format!("#{base}"), format!("#{base}/two"), format!("#{base}/inside"), format!("#{}", base + 4)] {
        assert!(found.contains(&format!("\"/lost+found/{path}\"")), "{path} is not in {found}");
    }
    for site in ["site-a", "site-b"] {
        eventually("each repair to be in the trail", PATIENCE, || {
            let trail = cluster.admin(site, &["audit", "--filter", "repair"]).ok();
            let moved = trail.contains(&format!("inode {base} was moved from"));
            let removed = trail.contains(&format!("inode {} lost its name \\\"nowhere\\\"", base + 3));
            let named = trail.contains(&format!("\"inode_id\":{},", base + 4));
            if moved && removed && named { Ok(()) } else { Err(format!("{site}: {trail}")) }
        });
    }
    let (_, again) = check(&cluster, "site-a", &["--repair"]);
    assert_eq!(again["repairs"], json!([]), "{again:#}");
}

/// A bit of the number under which a row stands: the sites say that it stands out of order, nothing goes astray, and one
/// command takes it out and fetches what it held.
#[test]
fn a_row_under_another_number_is_taken_out_and_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, inode) = cluster_with_a_link(place.path());
    // Without its highest bit it is below all those that it stands among.
    let lower = inode ^ 1 << inode.ilog2();
    damage_at(&cluster, "site-b", TARGET, &|bytes, at| {
        let from = at.saturating_sub(200);
        let key = bytes[from..at].windows(8).rposition(|window| window == inode.to_be_bytes());
        // A page that is not used any more may hold a part of the row alone.
        if let Some(key) = key {
            bytes[from + key..from + key + 8].copy_from_slice(&lower.to_be_bytes());
        }
    });
    cluster.wait_ready();
    for site in ["site-a", "site-b"] {
        let (said, report) = check(&cluster, site, &[]);
        assert_eq!((said.code, &report["disordered"]), (1, &json!(["site-b"])), "{site}: {report:#}");
        assert!(said.err.contains("--repair on site-b") && said.err.contains("--force-rebuild"), "{said:?}");
    }
    let refused = resync(&cluster, "site-a", inode, &["--from", "site-b", "--force"]).failed();
    assert!(refused.contains("do not stand where their keys belong"), "{refused}");
    let (said, report) = check(&cluster, "site-b", &["--repair"]);
    assert_eq!((said.code, &report["result"]), (0, &"MATCH".into()), "{said:?}\n{}", cluster.logs());
    assert_eq!(target(&cluster, "site-b", inode), TARGET);
    cluster.expect_identical();
}

/// Two sites, each damaged in another inode of the same part of the store: it is said which of the two is wrong at which
/// site, and each is taken from the other, whatever is asked for.
#[test]
fn damage_at_both_sites_in_neighbours_is_repaired_from_each_other() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, link) = cluster_with_a_link(place.path());
    let other = inode_of(&cluster, "/d/other");
    damage(&cluster, "site-b", 0);
    damage_at(&cluster, "site-a", OTHER_TARGET, &|bytes, at| bytes[at] ^= 0x02);
    cluster.wait_ready();
    for site in ["site-a", "site-b"] {
        let (said, report) = check(&cluster, site, &[]);
        let found = report["differing"]["inodes"].as_array().expect("a list");
        let damaged = |inode: u64| &found.iter().find(|found| found["inode"] == inode).expect("it is named")["damaged"];
        assert_eq!((said.code, found.len()), (1, 2), "{site}: {report:#}");
        assert_eq!((damaged(link), damaged(other)), (&json!(["site-b"]), &json!(["site-a"])), "{site}: {report:#}");
    }
    let refused = resync(&cluster, "site-a", link, &["--from", "site-b", "--force"]).failed();
    assert!(refused.contains(&format!("inode {link} is right here")), "{refused}");
    let said = resync(&cluster, "site-b", link, &["--from", "site-a", "--force"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    assert_eq!(target(&cluster, "site-b", link), TARGET);
    let (said, _) = check(&cluster, "site-a", &["--repair"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    assert_eq!(target(&cluster, "site-a", other), OTHER_TARGET);
    cluster.expect_identical();

    // No copy is right any more: nobody is blamed, and only who names one gets it.
    damage(&cluster, "site-b", 0);
    damage_at(&cluster, "site-a", TARGET, &|bytes, at| bytes[at] ^= 0x04);
    cluster.wait_ready();
    let (_, report) = check(&cluster, "site-a", &[]);
    let found = &report["differing"]["inodes"][0];
    assert_eq!((&found["inode"], &found["damaged"]), (&link.into(), &json!([])), "{report:#}");
    assert!(found["why"].as_str().expect("a reason").ends_with("is not known"), "{report:#}");
    for more in [&[][..], &["--force"]] {
        let refused = resync(&cluster, "site-b", link, more).failed();
        assert!(refused.contains("--from site-a --force"), "{refused}");
    }
    for (site, from) in [("site-b", &["--from", "site-a", "--force"][..]), ("site-a", &[])] {
        let said = resync(&cluster, site, link, from);
        assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
    }
    cluster.expect_identical();
}
