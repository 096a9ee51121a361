//! The primary role moves because an operator says so.

use serde_json::Value;

use crate::crashes::random_pause;
use crate::harness::{Cluster, PATIENCE, eventually, limit_ms, quiet, rounds};
use crate::load::{Load, Outcome, RATE};
use crate::producers::{Session, entry, socket};

/// Longest time between two acknowledged appends.
const MAX_GAP_MS: u64 = 250;
/// The same with `DELAY_MS` more between the two sites that store data.
const MAX_DELAYED_GAP_MS: u64 = 600;
const DELAY_MS: &str = "40";

/// What an operator could see of the cluster that a dry run might have changed.
fn seen(cluster: &Cluster, site: &str) -> (String, u64, Value, usize) {
    let status = cluster.status(site);
    let (primary, epoch) = cluster.primary_and_epoch();
    (primary, epoch, status["floor"].clone(), cluster.changes(site).len())
}

/// A dry run tells what would happen, at every site alike, and changes nothing.
fn dry_run_changes_nothing(cluster: &Cluster, to: &str) {
    let (from, epoch) = cluster.primary_and_epoch();
    for site in cluster.sites() {
        let before = seen(cluster, site);
        let plan = cluster.admin(site, &["failover", "--to", to, "--dry-run", "-o", "json"]).json();
        assert_eq!(
            (&plan["from"], &plan["to"], &plan["kind"]),
            (&from.as_str().into(), &to.into(), &"switchover".into()),
            "{plan:#}"
        );
        assert_eq!((&plan["epoch_before"], &plan["epoch_after"]), (&epoch.into(), &(epoch + 1).into()), "{plan:#}");
        assert!(plan["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{plan:#}");
        assert_eq!(plan["blockers"].as_array().map(Vec::len), Some(0), "{plan:#}");
        for key in ["entries_at_risk", "bytes_at_risk", "predicted_gap_ms"] {
            assert!(plan[key].is_u64(), "{key} is not told: {plan:#}");
        }
        assert_eq!(seen(cluster, site), before, "the dry run at {site} changed something");
    }
}

/// Moves the role there and back under load; the longest gap in ms.
fn there_and_back(cluster: &Cluster, rounds: usize, max_gap_ms: u64) -> f64 {
    let mut longest: f64 = 0.0;
    for round in 0..rounds {
        for back in [false, true] {
            let (old, epoch) = cluster.primary_and_epoch();
            let new = cluster.other(&old);
            let load = Load::start(cluster, &old, "local", RATE);
            random_pause(700);
            // Any site takes the order.
            let at = if back { "site-w" } else { new.as_str() };
            let done = cluster.switch_to(at, &new);
            assert_eq!(done["epoch"], epoch + 1, "{done:#}");
            random_pause(700);
            let outcome = load.finish();
            let gap = outcome.longest_gap_ms();
            eprintln!("round {round}: {old} to {new}, longest gap {gap:.0} ms, {:#}", done["write_gap_ms"]);
            let (before, after) = (outcome.of_epoch(epoch), outcome.of_epoch(epoch + 1));
            assert_eq!((&before.site, &after.site), (&old, &new));
            assert!(before.last_ms <= after.first_ms, "{:?}", outcome.tenures());
            assert!(gap < limit_ms(max_gap_ms) as f64, "nothing was acknowledged for {gap} ms\n{}", cluster.logs());
            longest = longest.max(gap);
            cluster.converge();
            nothing_is_lost_or_doubled(cluster, &outcome);
            cluster.expect_one_primary_per_epoch(&old, outcome.tenures());
            let change = cluster.changes(&new).pop().expect("a change");
            assert_eq!((&change["kind"], &change["outcome"]), (&"switchover".into(), &"opened".into()), "{change:#}");
            assert!(change["phases"].as_array().is_some_and(|phases| !phases.is_empty()), "{change:#}");
        }
    }
    longest
}

fn nothing_is_lost_or_doubled(cluster: &Cluster, outcome: &Outcome) {
    cluster.expect_nothing_missing(outcome);
    let mut entries = std::collections::BTreeMap::<(String, u64), usize>::new();
    for stream in ["site-a", "site-b"] {
        // A site that was never primary has no stream yet.
        let said = cluster.at("site-a", &["journal", "dump", "--stream", stream, "-o", "jsonl"]);
        for line in said.out.lines() {
            let line: Value = serde_json::from_str(line).expect("a line of the dump");
            *entries.entry((line["producer"].to_string(), line["seq"].as_u64().expect("a number"))).or_default() += 1;
        }
    }
    let double: Vec<_> = entries.iter().filter(|(_, count)| **count > 1).take(5).collect();
    assert!(double.is_empty(), "entries are in the journals twice: {double:?}");
}

/// Invariants 1, 4 and 8: a planned change of primary loses nothing, doubles nothing and hardly stops writers.
#[test]
fn the_role_moves_under_load_there_and_back() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    dry_run_changes_nothing(&cluster, "site-b");
    let longest = there_and_back(&cluster, 1, MAX_GAP_MS);
    eprintln!("planned: longest gap {longest:.0} ms");
    cluster.dev(&["delay", "site-a", "site-b", "--ms", DELAY_MS]).ok();
    let longest = there_and_back(&cluster, 1, MAX_DELAYED_GAP_MS);
    eprintln!("planned, with {DELAY_MS} ms between the sites: longest gap {longest:.0} ms");
}

#[test]
#[ignore = "campaign: many planned changes take several minutes"]
fn campaign_switchover() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let longest = there_and_back(&cluster, rounds(20), MAX_GAP_MS);
    cluster.dev(&["delay", "site-a", "site-b", "--ms", DELAY_MS]).ok();
    let delayed = there_and_back(&cluster, rounds(20), MAX_DELAYED_GAP_MS);
    eprintln!("planned: longest gap {longest:.0} ms; with {DELAY_MS} ms between the sites {delayed:.0} ms");
}

/// A target that cannot be ready in time: the operator is told, and the old primary goes on in the same epoch.
#[test]
fn a_switchover_that_takes_too_long_is_taken_back() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (old, epoch) = cluster.primary_and_epoch();
    let new = cluster.other(&old);
    let mut load = Load::start(&cluster, &old, "local", RATE);
    // What the old primary takes is at the target no sooner than this: not within a second. The leader is on another link.
    cluster.lead("site-w", 60);
    cluster.dev(&["delay", &old, &new, "--ms", "1500"]).ok();
    let asked = ["failover", "--to", &new, "--dry-run", "-o", "json"];
    let predicted = eventually("the delay to have been measured", PATIENCE, || {
        let said = cluster.admin("site-w", &asked);
        let plan: Value = serde_json::from_str(&said.out).map_err(|e| format!("{e}: {said:?}"))?;
        let gap = plan["predicted_gap_ms"].as_u64().unwrap_or(0);
        if gap >= 1500 && plan["blocked"] == false { Ok(gap) } else { Err(format!("{plan:#}")) }
    });
    let said = cluster.admin("site-w", &["failover", "--to", &new, "--yes", "--timeout", "1s"]);
    let text = said.failed();
    for part in ["next:", "ABORTED", &format!("{old} goes on as primary"), "--timeout 1000ms was too short", "predicts"]
    {
        assert!(text.contains(part), "{part}, {predicted} ms: {text}");
    }
    load.until_more(&cluster);
    assert_eq!(cluster.primary_and_epoch(), (old.clone(), epoch), "{}", cluster.logs());
    cluster.heal();
    load.until_more(&cluster);
    let outcome = load.finish();
    assert!(
        outcome.tenures().iter().all(|tenure| tenure.site == old && tenure.epoch == epoch),
        "{:?}",
        outcome.tenures()
    );
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    // And it can be had when nothing is in the way.
    assert_eq!(cluster.switch_to(&old, &new)["epoch"], epoch + 1);
    cluster.wait_ready();
}

/// The target hears the control processes and not the primary's shipper: it could never get what was taken last. That is
/// refused before a single writer has waited, and says which link it is.
#[test]
fn a_target_that_does_not_hear_the_primary_is_refused_before_writers_stop() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (old, epoch) = cluster.primary_and_epoch();
    let new = cluster.other(&old);
    cluster.lead("site-w", 120);
    let link = format!("nothing gets over the link from {old} to {new}");
    let blocked = |at: &str| {
        let plan = cluster.admin(at, &["failover", "--to", &new, "--dry-run", "-o", "json"]);
        let plan: Value = serde_json::from_str(&plan.out).map_err(|e| format!("{e}: {plan:?}"))?;
        let first = &plan["blockers"][0];
        let so = first["code"] == "LINK_DOWN" && first["why"].as_str().is_some_and(|why| why.contains(&link));
        if so { Ok(()) } else { Err(format!("{plan:#}\n{}", cluster.logs())) }
    };
    // The second cut holds up only what the primary sends.
    for cut in [&["partition", &old, &new][..], &["partition", &old, &new, "--one-way"]] {
        let load = Load::start(&cluster, &old, "local", RATE / 5);
        let changes = cluster.changes("site-w").len();
        cluster.dev(cut).ok();
        // At once, when nobody can have noticed yet.
        let refused = cluster.admin("site-w", &["failover", "--to", &new, "--yes"]).failed();
        assert!(refused.contains("LINK_DOWN") && refused.contains(&link), "{refused}");
        eventually("the cut to be known", PATIENCE, || blocked("site-w"));
        blocked(&old).expect("the same is said at the primary");
        for more in [&[][..], &["--force"]] {
            let words = [&["failover", "--to", &new, "--yes"][..], more].concat();
            let refused = cluster.admin("site-w", &words).failed();
            for part in ["LINK_DOWN", &link, "next:", "cfs preflight"] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
        assert_eq!((cluster.primary_and_epoch(), cluster.changes("site-w").len()), ((old.clone(), epoch), changes));
        let outcome = load.finish();
        let gap = outcome.longest_gap_ms();
        assert!(gap < limit_ms(1_000) as f64, "writers waited for {gap} ms\n{}", cluster.logs());
        cluster.heal();
        cluster.wait_ready();
    }
    assert_eq!(cluster.switch_to(&old, &new)["epoch"], epoch + 1);
    cluster.converge();
}

/// More entries than a target may have still to apply, and how many are sent at a time.
const FAR_BEHIND: u64 = 200_000;
const PART: u64 = 4096;

/// A target that has too much to apply is refused: writers would wait for it. It says how much that is and what to do, and
/// changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_too_far_behind_is_refused() {
    let cluster = Cluster::up_with_witness();
    let (old, epoch) = cluster.primary_and_epoch();
    let new = cluster.other(&old);
    // The leader hears both, and nothing gets from one to the other.
    cluster.lead("site-w", 120);
    cluster.partition(&old, &new);
    let (mut session, _) = Session::hello(&socket(&cluster, &old), "far", "").await;
    let mut first = 1;
    while first <= FAR_BEHIND {
        let entries = (first..first + PART).map(entry).collect();
        session.append(epoch, first, entries).await;
        first += PART;
        session.acked(first - 1).await;
    }
    let before = seen(&cluster, &old);
    for site in [&old, "site-w"] {
        let plan = cluster.admin(site, &["failover", "--to", &new, "--dry-run", "-o", "json"]);
        assert_eq!(plan.code, 1, "{plan:?}");
        let plan: Value = serde_json::from_str(&plan.out).expect("JSON");
        let lacks = plan["entries_to_apply"].as_u64().expect("a number");
        assert!(lacks > FAR_BEHIND, "{plan:#}");
        assert_eq!(
            (&plan["blockers"][0]["code"], &plan["blockers"][0]["forceable"]),
            (&"FAR_BEHIND".into(), &true.into())
        );
        // Nor would --force help while nothing gets there.
        let link = &plan["blockers"][1];
        assert_eq!((&link["code"], &link["forceable"]), (&"LINK_DOWN".into(), &false.into()), "{plan:#}");
        let refused = cluster.admin(site, &["failover", "--to", &new, "--yes"]).failed();
        for part in [format!("{new} has {lacks} entries to apply"), "lag --watch".into(), "--force".into()] {
            assert!(refused.contains(&part), "{part}: {refused}");
        }
    }
    assert_eq!(seen(&cluster, &old), before, "a refused failover changed something");
    session.append(epoch, first, vec![entry(first)]).await;
    session.acked(first).await;
}
