//! Two sites without a witness: the primary needs nobody, and whoever takes over does so by an operator's word.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, eventually, limit_ms, quiet};
use crate::load::{Load, Outcome, RATE};
use crate::producers::{Session, socket};

/// The replica's loss pauses nothing, the status says why failover is by hand, and by hand it works there and back.
#[test]
fn the_loss_of_the_replica_stops_nobody_and_failover_is_by_hand() {
    let _alone = quiet();
    let cluster = Cluster::up();
    cluster.wait_ready();
    let (_, epoch) = cluster.primary_and_epoch();
    for site in ["site-a", "site-b"] {
        let status = cluster.status(site);
        assert_eq!(status["automatic"], false, "{status:#}");
        assert!(status["why_not_automatic"].as_str().is_some_and(|why| why.contains("witness")), "{status:#}");
    }
    let mut load = Load::start(&cluster, "site-a", "local", RATE);
    cluster.kill_at_once("site-b");
    std::thread::sleep(Duration::from_secs(2));
    cluster.start("site-b");
    load.until_more(&cluster);
    let outcome = load.finish();
    let gap = outcome.longest_gap_ms();
    assert!(gap < limit_ms(250) as f64, "writes paused for {gap} ms\n{}", cluster.logs());
    assert_eq!(outcome.tenures().len(), 1, "{:?}", outcome.tenures());
    cluster.converge();
    cluster.wait_ready();

    // The vote moves with the role.
    for (from, to) in [("site-a", "site-b"), ("site-b", "site-a")] {
        let load = Load::start(&cluster, from, "local", RATE);
        cluster.switch_to("site-b", to);
        let outcome = load.finish();
        eprintln!("{from} to {to} without a witness: longest gap {:.0} ms", outcome.longest_gap_ms());
        assert_eq!(cluster.primary(), to, "{}", cluster.logs());
        cluster.converge();
        cluster.expect_nothing_missing(&outcome);
        // Whoever is primary now needs nobody.
        let other = cluster.other(to);
        cluster.kill_at_once(&other);
        let mut load = Load::start(&cluster, to, "local", RATE / 5);
        load.until_more(&cluster);
        load.finish();
        cluster.start(&other);
        cluster.wait_ready();
    }
    assert_eq!(cluster.epoch(), epoch + 2);
}

fn split_brain(cluster: &Cluster, site: &str) -> Value {
    let said = cluster.admin(site, &["split-brain", "status", "-o", "json"]);
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

/// Entries that site-a acknowledged while nobody else heard it.
fn written_in_the_dark(cluster: &Cluster) -> Outcome {
    cluster.partition("site-a", "site-b");
    let mut load = Load::start(cluster, "site-a", "local", RATE / 5);
    load.until_more(cluster);
    std::thread::sleep(Duration::from_secs(1));
    let outcome = load.finish();
    assert!(outcome.tenures().iter().all(|tenure| tenure.site == "site-a"), "{:?}", outcome.tenures());
    outcome
}

/// Invariants 2, 4 and 7: the primary is lost with entries that nobody else has. The survivor waits for an operator, a
/// forced failover makes it primary, the other one returns fenced and is reported, and its rejoin discards nothing.
#[test]
fn a_forced_failover_fences_whoever_returns_and_loses_nothing() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    for site in ["site-a", "site-b"] {
        assert_eq!(cluster.split_brain_metric(site), 0.0, "it is exported from the start");
        let said = cluster.admin(site, &["split-brain", "status", "-o", "json"]).json();
        assert_eq!((&said["split_brain"], &said["state"]), (&0.into(), &"none".into()), "{said:#}");
    }
    let (_, epoch) = cluster.primary_and_epoch();
    let both = {
        let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
        load.until_more(&cluster);
        load.finish()
    };
    cluster.converge();
    let dark = written_in_the_dark(&cluster);
    cluster.kill_at_once("site-a");
    cluster.heal();

    // Nobody takes over by itself, and not by a command that does not say so either.
    std::thread::sleep(Duration::from_secs(4));
    let status = cluster.status("site-b");
    assert_eq!((&status["role"], &status["epoch"]), (&"REPLICA".into(), &epoch.into()), "{status:#}");
    assert!(status["quorum"].as_str().is_some_and(|quorum| quorum.contains("site-a")), "{status:#}");
    let refused = cluster.admin("site-b", &["failover", "--to", "site-b", "--yes"]).failed();
    assert!(refused.contains("next:"), "{refused}");
    let unconfirmed = cluster.admin("site-b", &["failover", "--force", "--to", "site-b"]);
    assert!(unconfirmed.err.contains("site-a may still accept writes"), "{unconfirmed:?}");
    let unconfirmed = unconfirmed.failed();
    assert!(unconfirmed.contains("--yes"), "{unconfirmed}");
    assert_eq!(cluster.status("site-b")["epoch"], epoch);

    let forced = cluster.admin("site-b", &["failover", "--force", "--to", "site-b", "--yes", "-o", "json"]).json();
    let raised = forced["epoch"].as_u64().expect("an epoch");
    assert!(raised > epoch + 1, "the generation is raised too: {forced:#}");
    let mut load = Load::start(&cluster, "site-b", "local", RATE / 5);
    load.until_more(&cluster);
    let alone = load.finish();
    assert_eq!((&*alone.tenures()[0].site, alone.tenures()[0].epoch), ("site-b", raised));
    // Once more changes nothing.
    let again = cluster.admin("site-b", &["failover", "--force", "--to", "site-b", "--yes", "-o", "json"]).json();
    assert_eq!((&again["nothing_to_do"], &again["epoch"]), (&true.into(), &raised.into()), "{again:#}");

    returns_fenced(&cluster, raised);
    let rejoined = cluster.admin("site-a", &["rejoin", "--primary", "site-b"]);
    assert_eq!(rejoined.code, 0, "{rejoined:?}\n{}", cluster.logs());
    cluster.converge();
    cluster.wait_ready();
    for outcome in [&both, &dark, &alone] {
        cluster.expect_nothing_missing(outcome);
    }
    let rejoined = cluster.admin("site-a", &["rejoin", "--primary", "site-b"]);
    assert_eq!(rejoined.code, 0, "a site that is back already says so: {rejoined:?}");
    assert_eq!(cluster.primary_and_epoch().0, "site-b");
    for site in ["site-a", "site-b"] {
        assert_eq!(split_brain(&cluster, site)["detected"], false, "{:#}", split_brain(&cluster, site));
    }
    assert_eq!(cluster.split_brain_metric("site-b"), 1.0, "it shows for five minutes at least");
    // And the role can go home.
    cluster.switch_to("site-a", "site-a");
    cluster.wait_ready();
}

fn returns_fenced(cluster: &Cluster, epoch: u64) {
    // It does not become ready.
    let _ = cluster.dev(&["start", "site-a"]);
    let status = cluster.wait_status("site-a", "FENCED", PATIENCE);
    assert!(status["next"].as_str().is_some_and(|next| next.contains("rejoin --primary site-b")), "{status:#}");
    for site in ["site-a", "site-b"] {
        eventually("the split-brain to be reported", PATIENCE, || {
            let report = split_brain(cluster, site);
            let next = report["next"].as_str().unwrap_or_default();
            let known = report["split_brain"] == 1
                && next.contains("rejoin")
                && report["sides"].as_array().is_some_and(|s| s.len() >= 2);
            if known { Ok(()) } else { Err(format!("{site}: {report:#}\n{}", cluster.logs())) }
        });
        assert_eq!(cluster.split_brain_metric(site), 1.0, "{site}");
        assert_ne!(cluster.admin(site, &["health"]).code, 0, "{site} calls that healthy");
    }
    // Invariant 2: it takes no appends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        use cfs_rpc::v1::ProducerHello;
        use cfs_rpc::v1::append_request::Kind as Request;
        use cfs_rpc::v1::append_response::Kind as Response;
        let mut session = Session::open(&socket(cluster, "site-a")).await;
        let hello =
            ProducerHello { protocol: 1, producer: "lost".into(), durability: String::new(), ..Default::default() };
        session.send(Request::Hello(hello)).await;
        assert!(!matches!(session.answer().await, Ok(Some(Response::Hello(_)))), "it takes producers");
    });
    // A failover to it is refused, and so is a planned one from it.
    for site in ["site-a", "site-b"] {
        let refused = cluster.admin(site, &["failover", "--to", "site-a", "--yes"]).failed();
        assert!(refused.contains("next:"), "{refused}");
    }
    // It changes neither members nor settings, and nobody's values are preferred but the winner's.
    for words in [&["remove", "site-b", "--yes"][..], &["config", "--compression", "lz4"]] {
        let refused = cluster.admin("site-a", words).failed();
        assert!(refused.contains("FENCED") && refused.contains("rejoin --primary site-b"), "{words:?}: {refused}");
    }
    let words = ["failover", "--force", "--to", "site-b", "--prefer", "site-zz", "--yes"];
    let refused = cluster.admin("site-b", &words).failed();
    assert!(refused.contains("PREFER") && refused.contains("--prefer site-b"), "{refused}");
    assert_eq!(cluster.status("site-b")["epoch"], epoch);
}

/// A site that was sealed says by whom and for whom, names the command for the other site, and what there is if that does not
/// come back.
fn expect_sealed(cluster: &Cluster, why: &str, command: &str) {
    let status = cluster.status("site-b");
    let said = status["why"].as_str().unwrap_or_default();
    assert!(said.starts_with(why) && said.contains('@') && said.ends_with("ago)"), "{status:#}");
    assert_eq!((&status["split_brain"], &status["automatic"]), (&false.into(), &Value::Null), "{status:#}");
    let report = split_brain(cluster, "site-b");
    assert_eq!((&report["detected"], &report["fenced"]), (&false.into(), &true.into()), "{report:#}");
    for next in [&status["next"], &report["next"]] {
        let next = next.as_str().unwrap_or_default();
        assert!(next.starts_with(command), "{next}");
        assert!(next.ends_with("on site-b: cfs admin replication failover --force --to site-b"), "{next}");
    }
}

/// Sealed for each other, the first word at the primary or at the replica: both sites name the same command, it works where it
/// is named, also after both were restarted, and the other site takes part again by itself.
#[test]
fn sites_that_were_sealed_for_each_other_name_what_leads_out() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    for [first, last] in [["site-a", "site-b"], ["site-b", "site-a"]] {
        let epoch = cluster.epoch();
        cluster.partition("site-a", "site-b");
        for (here, target) in [(first, last), (last, first)] {
            let sealed = || {
                let said = cluster.admin(here, &["failover", "--force", "--to", target, "--yes"]);
                let text = format!("{}{}", said.out, said.err);
                match text.contains("is sealed") {
                    true => Ok(()),
                    // It was heard a moment before the cut.
                    false => Err(text),
                }
            };
            eventually("the other site not to answer", PATIENCE, sealed);
        }
        for site in ["site-a", "site-b"] {
            let _ = cluster.dev(&["restart", site]);
        }
        cluster.heal();
        // The last word was given at `last`, for `first`.
        let command = format!("on {first}: cfs admin replication failover --force --to {first}");
        for site in ["site-a", "site-b"] {
            eventually("both sites to name the same command", PATIENCE, || {
                let (status, report) = (cluster.status(site), split_brain(&cluster, site));
                let named = status["next"] == command && report["next"] == command && status["status"] == "FENCED";
                if named { Ok(()) } else { Err(format!("{site}: {status:#}\n{report:#}\n{}", cluster.logs())) }
            });
        }
        let forced = cluster.admin(first, &["failover", "--force", "--to", first, "--yes"]);
        assert_eq!(forced.code, 0, "{forced:?}\n{}", cluster.logs());
        cluster.wait_ready();
        assert_eq!(cluster.primary(), first);
        assert!(cluster.epoch() > epoch);
        cluster.converge();
    }
}

/// The runbook's recovery, on the wrong site: it seals the local site first and never drops the target.
#[test]
fn a_forced_failover_on_the_wrong_site_seals_it_and_names_the_command() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    let (primary, epoch) = cluster.primary_and_epoch();
    assert_eq!(primary, "site-a");
    cluster.kill_at_once("site-a");
    let words = ["failover", "--force", "--to", "site-a", "--yes"];
    let unreachable = cluster.admin("site-b", &words);
    let text = format!("{}{}", unreachable.out, unreachable.err);
    assert!(text.contains("failover --force --to site-a") && text.contains("on site-a"), "{unreachable:?}");
    let status = cluster.status("site-b");
    assert_ne!(status["status"], "READY", "it is sealed: {status:#}");
    // It asked for the other's role, so it does not take it itself.
    assert_ne!(status["role"], "PRIMARY", "{status:#}");
    // That is no split-brain: it says what it is, and the command, also when it is repeated.
    let why = "sealed by an operator, who wants site-a to be primary";
    let command = "on site-a: cfs admin replication failover --force --to site-a";
    expect_sealed(&cluster, why, command);
    // Whose word it was outlasts a restart.
    cluster.kill_at_once("site-b");
    let _ = cluster.dev(&["start", "site-b"]);
    cluster.wait_status("site-b", "FENCED", PATIENCE);
    expect_sealed(&cluster, why, command);
    let health = cluster.admin("site-b", &["health"]);
    assert!(health.out.contains(why) && !health.out.contains("CFS-H006"), "{health:?}");
    let repeated = cluster.admin("site-b", &words);
    assert!(repeated.code == 0 && repeated.out.contains(command), "{repeated:?}");
    let plan = cluster.admin("site-b", &["failover", "--force", "--to", "site-a", "--dry-run", "-o", "json"]).json();
    assert!(plan["predicted_gap_ms"].is_null(), "{plan:#}");

    let _ = cluster.dev(&["start", "site-a"]);
    let on_target = cluster.admin("site-a", &words);
    assert_eq!(on_target.code, 0, "{on_target:?}\n{}", cluster.logs());
    for site in ["site-a", "site-b"] {
        let again = cluster.admin(site, &words);
        assert_eq!(again.code, 0, "repeated at {site}: {again:?}\n{}", cluster.logs());
    }
    let mut load = Load::start(&cluster, "site-a", "local", RATE / 5);
    load.until_more(&cluster);
    let outcome = load.finish();
    assert!(outcome.tenures().iter().all(|tenure| tenure.site == "site-a"), "{:?}", outcome.tenures());
    let rejoined = cluster.admin("site-b", &["rejoin", "--primary", "site-a"]);
    assert_eq!(rejoined.code, 0, "{rejoined:?}\n{}", cluster.logs());
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    assert!(cluster.epoch() >= epoch, "invariant 6");
}

/// The primary is cut off, goes on alone as the only voter of its group, and the other site was made primary by force. Whoever
/// then types the same command at the old one stops it first, although the target cannot be reached from there and the old
/// group has its majority: itself.
#[test]
fn the_old_primary_is_sealed_by_the_command_for_the_site_that_was_forced() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    let (_, epoch) = cluster.primary_and_epoch();
    let dark = written_in_the_dark(&cluster);
    let words = ["failover", "--force", "--to", "site-b", "--yes"];
    let forced = cluster.admin("site-b", &words);
    assert_eq!(forced.code, 0, "{forced:?}\n{}", cluster.logs());
    // Nobody has told it.
    let status = cluster.status("site-a");
    assert_eq!((&status["role"], &status["epoch"]), (&"PRIMARY".into(), &epoch.into()), "{status:#}");

    let planned = cluster.admin("site-a", &["failover", "--force", "--to", "site-b", "--dry-run"]);
    assert!(planned.out.contains("site-a is sealed") && planned.out.contains("on site-b"), "{planned:?}");
    assert_eq!(cluster.status("site-a")["role"], "PRIMARY", "a dry run changed it");
    let unreachable = cluster.admin("site-a", &words);
    let text = format!("{}{}", unreachable.out, unreachable.err);
    assert!(text.contains("on site-b: cfs admin replication failover --force --to site-b"), "{unreachable:?}");
    eventually("site-a to take no more appends", PATIENCE, || {
        let status = cluster.status("site-a");
        let sealed = status["role"] != "PRIMARY" && status["status"] != "READY";
        if sealed { Ok(()) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    });

    // Nothing is decided on what site-b said before the cut.
    let silent = cluster.admin("site-a", &["rejoin", "--primary", "site-b"]);
    assert!(silent.code != 0 && silent.err.contains("UNREACHABLE"), "{silent:?}\n{}", cluster.logs());

    cluster.heal();
    eventually("site-a to join the side that was chosen", PATIENCE, || {
        let said = cluster.admin("site-a", &words);
        let joined = said.code == 0 && said.out.contains("site-a is a member");
        if joined { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    });
    cluster.converge();
    cluster.wait_ready();
    let rejoined = cluster.admin("site-a", &["rejoin", "--primary", "site-b"]);
    assert_eq!(rejoined.code, 0, "{rejoined:?}\n{}", cluster.logs());
    cluster.expect_nothing_missing(&dark);
    assert_eq!(cluster.primary_and_epoch().0, "site-b");
}
