//! Sites that come back where coming back takes an operator's word.

use std::fs;

use serde_json::Value;

use crate::enrolment::start_only;
use crate::harness::{Cluster, PATIENCE, eventually, quiet};
use crate::load::{Load, RATE};

/// Invariants 4 and 7: with `auto_rejoin = off` a primary that died stays fenced when it is back, cannot be made primary,
/// and keeps what only it has until `rejoin`.
#[test]
fn without_auto_rejoin_an_old_primary_waits_for_its_operator() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    cluster.admin("site-w", &["config", "--auto-rejoin", "off"]).ok();
    let (old, epoch) = cluster.primary_and_epoch();
    let new = cluster.other(&old);
    let mut load = Load::start(&cluster, &new, "local", RATE / 5);
    load.until_more(&cluster);
    cluster.kill_at_once(&old);
    load.until_after(&cluster, epoch);
    cluster.start(&old);
    let status = cluster.wait_status(&old, "FENCED", PATIENCE);
    assert_eq!(status["role"], "REPLICA", "{status:#}");
    // It is held, and says so: there is no split-brain.
    assert!(status["why"].as_str().is_some_and(|why| why.contains("auto_rejoin is off")), "{status:#}");
    assert_eq!(status["split_brain"], false, "{status:#}");
    for site in [&old, &new] {
        let said = cluster.admin(site, &["split-brain", "status"]);
        assert!(said.code == 0 && said.out.contains("Split-brain: none"), "{said:?}");
        let health = cluster.admin(site, &["health"]);
        let told = health.out.contains("auto_rejoin is off") && health.out.contains("rejoin --primary");
        assert!(told && !health.out.contains("CFS-H006"), "{health:?}");
    }
    let refused = cluster.admin(&new, &["failover", "--to", &old, "--yes"]).failed();
    assert!(refused.contains("FENCED") && refused.contains("rejoin --primary"), "{refused}");
    let mut appending = cluster.spawn_with_input(&old, &["journal", "append", "-o", "jsonl"]);
    appending.write("{\"mkdir\":{\"parent\":1,\"name\":\"fenced\",\"inode\":78}}\n");
    appending.close_input();
    let said = appending.finish().failed();
    assert!(said.contains(&format!("{new} is")), "{said}");
    let outcome = load.finish();
    let rejoined = cluster.admin(&old, &["rejoin", "--primary", &new]);
    assert_eq!(rejoined.code, 0, "{rejoined:?}\n{}", cluster.logs());
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    assert_eq!(cluster.primary_and_epoch(), (new, epoch + 1));
}

/// A site whose log says that it is primary and leads, and which has just started, does not answer by its log.
#[test]
fn a_site_that_has_just_started_knows_whom_it_rejoins() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (old, epoch) = cluster.primary_and_epoch();
    let new = cluster.other(&old);
    for round in 1..=3 {
        cluster.lead(&old, 60);
        cluster.kill_at_once(&old);
        eventually("the other site to take over", PATIENCE, || {
            let status = cluster.status(&new);
            if status["primary"] == *new { Ok(()) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
        });
        let starting = start_only(&cluster, &old);
        let said = eventually("its control process to answer", PATIENCE, || {
            let said = cluster.admin(&old, &["rejoin", "--primary", &new]);
            if said.code != 0 && !said.err.contains("error [") { Err(format!("{said:?}")) } else { Ok(said) }
        });
        assert_eq!(said.code, 0, "round {round}: {said:?}\n{}", cluster.logs());
        starting.finish().ok();
        cluster.wait_ready();
        cluster.switch_to(&new, &old);
        cluster.wait_ready();
    }
    assert_eq!(cluster.primary_and_epoch(), (old, epoch + 6));
}

/// Invariant 1: an only voter that was away for long acknowledges nothing until the other site answers, which might have
/// been made primary by force meanwhile, or until the operator says that it was not.
#[test]
fn a_sole_voter_that_was_away_for_long_goes_on_by_the_operators_word() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    let (_, epoch) = cluster.primary_and_epoch();
    let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
    load.until_more(&cluster);
    let before = load.finish();
    cluster.converge();
    for alone in [true, false] {
        for site in ["site-a", "site-b"] {
            cluster.kill_at_once(site);
        }
        was_away_for_two_minutes(&cluster, "site-a");
        cluster.start("site-a");
        let said = eventually("the way out to be named", PATIENCE, || {
            let said = cluster.admin("site-a", &["status", "-o", "json"]);
            if said.out.contains("--alone") { Ok(said.json()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
        });
        assert_eq!(said["epoch"], epoch, "{said:#}");
        if alone {
            let unsaid = cluster.admin("site-a", &["failover", "--to", "site-a", "--alone"]).failed();
            assert!(unsaid.contains("--yes"), "{unsaid}");
            assert_eq!(cluster.status("site-a")["status"], "WAITING", "it went on although nobody confirmed");
            let said = cluster.admin("site-a", &["failover", "--to", "site-a", "--alone", "--yes"]);
            assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
        } else {
            cluster.start("site-b");
        }
        let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
        load.until_more(&cluster);
        let after = load.finish();
        if alone {
            cluster.start("site-b");
        }
        cluster.converge();
        cluster.wait_ready();
        cluster.expect_nothing_missing(&before);
        cluster.expect_nothing_missing(&after);
        assert_eq!(cluster.primary_and_epoch(), ("site-a".to_owned(), epoch));
    }
}

/// Sets back a dead site's mark of life.
fn was_away_for_two_minutes(cluster: &Cluster, site: &str) {
    let mark = cluster.path(site, "state/control/alive.json");
    let text = fs::read_to_string(&mark).unwrap_or_else(|e| panic!("{}: {e}", mark.display()));
    let mut value: Value = serde_json::from_str(&text).expect("a mark of life");
    let alive_ms = value["boot_ms"].as_u64().expect("milliseconds since boot");
    value["boot_ms"] = alive_ms.checked_sub(120_000).expect("the machine has run for two minutes").into();
    fs::write(&mark, value.to_string()).expect("written");
}

/// Invariants 4 and 5: a site is removed by force while it holds acknowledged entries that nobody else has. What comes after the
/// end of its stream is taken by nobody: enrolled again it copies a store, its old data stay, and it can be primary.
#[test]
fn a_removed_site_that_held_more_comes_back_with_the_others_store() {
    let cluster = Cluster::up_with_witness();
    cluster.append_ops("site-a", "{\"mkdir\":{\"parent\":0,\"name\":\"/\",\"inode\":1,\"mode\":493}}\n");
    cluster.converge();
    cluster.partition("site-a", "site-b");
    cluster.append_ops("site-a", "{\"mkdir\":{\"parent\":1,\"name\":\"alone\",\"inode\":12,\"mode\":493}}\n");
    cluster.kill_at_once("site-a");
    eventually("site-b to be primary", PATIENCE, || {
        let status = cluster.status("site-b");
        if status["role"] == "PRIMARY" { Ok(()) } else { Err(format!("{status:#}")) }
    });
    eventually("site-a to be removed", PATIENCE, || {
        let said = cluster.admin("site-b", &["remove", "site-a", "--force", "--yes"]);
        if said.code == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    eventually("its stream to be closed", PATIENCE, || {
        let said = cluster.admin("site-b", &["history", "--events"]);
        if said.out.contains("stream 1.1 ends at") { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    });
    // Not before: what the cut holds back would still arrive.
    cluster.heal();
    let _ = cluster.dev(&["start", "site-a"]);
    cluster.wait_status("site-a", "REMOVED", PATIENCE);
    for words in [&["failover", "--to", "site-b", "--dry-run"][..], &["remove", "site-b", "--yes"]] {
        let refused = cluster.admin("site-a", words);
        let says = refused.err.contains("[REMOVED]") && refused.err.contains("enroll --primary site-b");
        assert!(refused.code != 0 && says, "{words:?}: {refused:?}");
    }
    let enrolled = cluster.admin("site-a", &["enroll", "--primary", "site-b"]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}\n{}", cluster.logs());
    eventually("site-a to hold what site-b holds", 2 * PATIENCE, || {
        let said = cluster.admin("site-a", &["bootstrap-status", "-o", "json"]);
        let done = said.out.contains("\"COMPLETE\"") && cluster.status("site-a")["status"] == "READY";
        if done { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    });
    let aside = cluster.admin("site-a", &["bootstrap-status"]);
    assert!(aside.out.contains("before-rebuild") && aside.out.contains("closed it at"), "{aside:?}");
    cluster.expect_identical();

    let moved = cluster.admin("site-b", &["failover", "--to", "site-a", "--yes"]);
    assert_eq!(moved.code, 0, "{moved:?}\n{}", cluster.logs());
    cluster.append_ops("site-a", "{\"mkdir\":{\"parent\":1,\"name\":\"again\",\"inode\":13,\"mode\":493}}\n");
    cluster.expect_identical();
}
