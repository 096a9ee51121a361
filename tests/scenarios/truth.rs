//! What status, health and probes say is so, also where a site sees only a part.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::hooks::{hook, use_hook};
use crate::load::{Load, RATE};

/// A silent site counts as such after this.
const CUT_SHOWS: Duration = Duration::from_secs(7);

/// The state of `peer` as `site` shows it.
fn peer_state(status: &Value, peer: &str) -> String {
    let peers = status["peers"].as_array().expect("peers");
    let found = peers.iter().find(|one| one["site"] == peer).expect("the peer");
    found["state"].as_str().expect("a state").to_owned()
}

fn health_codes(cluster: &Cluster, site: &str) -> Vec<String> {
    let said = cluster.admin(site, &["health", "-o", "json"]);
    let health: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let findings = health["findings"].as_array().expect("findings");
    let codes = findings.iter().map(|finding| finding["code"].as_str().expect("a code").to_owned());
    // Figures are of the last minutes, and of this machine: they say nothing of how sites are connected now.
    codes.filter(|code| !code.starts_with("CFS-H04")).collect()
}

/// Nothing but the cut is said of `peer` at `site`, which is a replica.
fn expect_the_cut_alone(cluster: &Cluster, site: &str, peer: &str) {
    eventually("the cut to be shown as what it is", PATIENCE, || {
        let status = cluster.status(site);
        let lag_ms = status["lag_ms"].as_u64();
        let codes = health_codes(cluster, site);
        let probe = cluster.probe(site, "GET", "/replica?lag=1900ms")?;
        let good = peer_state(&status, peer) == "UNHEARD"
            && status["lease"]["held"] == true
            && lag_ms.is_some_and(|lag| lag < 1900)
            && codes.iter().all(|code| code == "CFS-H021")
            && codes.len() == 1
            && probe == 200;
        if good { Ok(()) } else { Err(format!("{codes:?}, probe {probe}\n{status:#}\n{}", cluster.logs())) }
    });
}

/// A replica that is cut off from the primary alone, and fed through a third site, believes those who hear it.
#[test]
fn a_replica_behind_a_cut_believes_those_who_hear_the_primary() {
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let (primary, epoch) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    cluster.partition(&primary, &replica);
    let load = Load::start(&cluster, &primary, "local", RATE / 5);
    std::thread::sleep(CUT_SHOWS);
    load.finish();
    expect_the_cut_alone(&cluster, &replica, &primary);
    let status = cluster.status(&primary);
    assert_eq!(peer_state(&status, &replica), "UNHEARD", "{status:#}");
    let said = cluster.admin(&replica, &["lag"]);
    assert!(said.out.contains("in sync") && !said.out.contains("behind"), "{said:?}");
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch));
    cluster.heal();
    cluster.wait_ready();
    cluster.converge();
}

/// With a witness alone nothing can be fetched: the lag is small while nothing is missing, and grows once something is.
#[test]
fn behind_a_cut_the_lag_grows_once_something_is_missing() {
    let cluster = Cluster::up_with_witness();
    let (primary, _) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    let load = Load::start(&cluster, &primary, "local", RATE / 5);
    load.finish();
    cluster.converge();
    cluster.partition(&primary, &replica);
    std::thread::sleep(CUT_SHOWS);
    expect_the_cut_alone(&cluster, &replica, &primary);
    let mut load = Load::start(&cluster, &primary, "local", RATE / 5);
    load.until_more(&cluster);
    load.finish();
    eventually("the lag to grow", PATIENCE, || {
        let status = cluster.status(&replica);
        let probe = cluster.probe(&replica, "GET", "/replica?lag=1900ms")?;
        let grown = status["lag_ms"].as_u64().is_some_and(|lag| lag > 3000) && probe == 503;
        if grown { Ok(()) } else { Err(format!("probe {probe}, {status:#}\n{}", cluster.logs())) }
    });
    assert_eq!(peer_state(&cluster.status(&replica), &primary), "UNHEARD");
    cluster.heal();
    cluster.converge();
    cluster.wait_ready();
}

/// A leader that was elected a moment ago has heard nobody: it waits for reports before it calls a site down.
#[test]
fn the_role_can_be_moved_right_after_an_election() {
    let cluster = Cluster::up_with_witness();
    for round in 0..4 {
        let (primary, epoch) = cluster.primary_and_epoch();
        let other = cluster.other(&primary);
        let leader = if round % 2 == 0 { other.as_str() } else { "site-w" };
        let led = cluster.dev(&["leader", leader, "--hold", "30"]);
        let said = cluster.admin(leader, &["failover", "--to", &other, "--yes", "-o", "json"]);
        assert_eq!(said.code, 0, "round {round}, {leader} leads ({led:?}): {said:?}\n{}", cluster.logs());
        assert_eq!(cluster.primary_and_epoch(), (other, epoch + 1));
        assert_eq!(cluster.changes("site-w").last().expect("a change")["kind"], "switchover");
    }
}

/// The leadership moves after the plan and before the change begins: the order goes on with the new leader.
#[test]
fn an_order_follows_the_leadership() {
    let place = tempfile::tempdir().unwrap();
    let cluster = Cluster::up_with_witness();
    let sound = fs::read_to_string(cluster.path("site-b", "repl.toml")).unwrap();
    let asked = place.path().join("asked");
    let script = format!("echo . >> {}; sleep 0.7", asked.display());
    use_hook(&cluster, "site-b", &sound, "pre_promote", &hook(place.path(), "slow", &script));
    let asks = || fs::read_to_string(&asked).unwrap_or_default().lines().count();
    for (leader, next) in [("site-w", "site-a"), ("site-a", "site-w")] {
        cluster.lead(leader, 30);
        let (epoch, before) = (cluster.primary_and_epoch().1, asks());
        let ordered = cluster.spawn(leader, &["admin", "replication", "failover", "--to", "site-b", "--yes"]);
        eventually("the target to be asked", PATIENCE, || (asks() > before).then_some(()).ok_or_else(String::new));
        let led = cluster.dev(&["leader", next, "--hold", "30"]);
        let said = ordered.finish();
        assert_eq!(said.code, 0, "{leader} led, then {next} ({led:?}): {said:?}\n{}", cluster.logs());
        assert!(asks() > before + 1, "it was done before the leadership moved: {said:?}");
        assert_eq!(cluster.primary_and_epoch(), ("site-b".into(), epoch + 1));
        cluster.switch_to("site-w", "site-a");
        cluster.wait_ready();
    }
}

/// A shipper that hangs keeps its session: it is told by what it no longer says, and is no target.
#[test]
fn a_shipper_that_hangs_is_not_shown_as_well() {
    let cluster = Cluster::up_with_witness();
    cluster.wait_ready();
    let (primary, epoch) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    let load = Load::start(&cluster, &primary, "local", RATE / 5);
    cluster.signal_part(&replica, "shipper", Signal::STOP);
    eventually("every site to say that it hangs", PATIENCE, || {
        let own = cluster.status(&replica);
        let others = [&primary, "site-w"].map(|site| peer_state(&cluster.status(site), &replica));
        let codes = ["site-w", &primary, &replica].map(|site| health_codes(&cluster, site));
        let good = own["status"] == "NO_SHIPPER"
            && own["lag_ms"].is_null()
            && own["why"].as_str().is_some_and(|why| why.contains("runs and hangs"))
            && others.iter().all(|state| state == "NO_SHIPPER")
            && codes.iter().all(|codes| codes.contains(&"CFS-H009".to_owned()));
        if good { Ok(()) } else { Err(format!("{others:?}, {codes:?}\n{own:#}\n{}", cluster.logs())) }
    });
    assert_eq!(cluster.probe(&replica, "GET", "/replica?lag=3600s"), Ok(503));
    let dry = cluster.admin(&replica, &["failover", "--to", &replica, "--dry-run", "-o", "json"]);
    let plan: Value = serde_json::from_str(&dry.out).unwrap_or_else(|e| panic!("{e}: {dry:?}"));
    assert_eq!(
        (&plan["blockers"][0]["code"], plan["blockers"].as_array().map(Vec::len)),
        (&"NO_SHIPPER".into(), Some(1))
    );
    assert!(plan["entries_to_apply"].is_null() && plan["predicted_gap_ms"].is_null(), "{plan:#}");
    let ordered = cluster.admin(&primary, &["failover", "--to", &replica, "--yes"]);
    let said = ordered.failed();
    assert!(said.contains("NO_SHIPPER") && said.contains("systemctl restart"), "{said}");
    cluster.signal_part(&replica, "shipper", Signal::CONT);
    load.finish();
    cluster.wait_ready();
    cluster.converge();
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch));
}

/// A site that is configured under another number than it is enrolled under: the site that is wrong says so.
#[test]
fn a_configuration_with_another_number_for_a_site_is_told_of() {
    let cluster = Cluster::up_with_witness();
    cluster.wait_ready();
    let file = cluster.path("site-a", "repl.toml");
    let sound = fs::read_to_string(&file).unwrap();
    let wrong = sound.replace("id = 3\n", "id = 7\n");
    assert_ne!(sound, wrong, "{sound}");
    let restart = || cluster.dev(&["restart", "--now", "site-a", "--only", "control"]).ok();
    fs::write(&file, wrong).unwrap();
    restart();
    eventually("both numbers and the file to be named", PATIENCE, || {
        let said = cluster.admin("site-a", &["status"]);
        let says = ["Warning: site-w is enrolled as number 3, and site-a has 7 for it: ", file.to_str().unwrap()];
        let told = says.iter().all(|part| said.out.contains(part));
        let told = told && health_codes(&cluster, "site-a").contains(&"CFS-H024".to_owned());
        if told { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
    });
    assert!(!health_codes(&cluster, "site-b").contains(&"CFS-H024".to_owned()));
    fs::write(&file, sound).unwrap();
    restart();
    cluster.wait_ready();
    assert!(!cluster.admin("site-a", &["status"]).out.contains("Warning: site-w"));
}

/// Behind a cut both sides were acting on, nothing is made up of the one that is not heard.
#[test]
fn split_brain_status_says_since_when_a_side_is_not_heard() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    cluster.partition("site-a", "site-b");
    let dry = cluster.admin("site-b", &["failover", "--force", "--to", "site-b", "--dry-run"]);
    // The leader was heard a moment ago, and is asked in vain: that is said in time.
    assert!(!dry.err.contains("CFS-E102"), "{dry:?}");
    eventually("the survivor to be forced", 2 * PATIENCE, || {
        let said = cluster.admin("site-b", &["failover", "--force", "--to", "site-b", "--yes"]);
        if said.code == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let said = cluster.admin("site-b", &["split-brain", "status"]);
    assert!(said.out.contains("Side of site-a: not heard since 20"), "{said:?}");
    assert!(said.out.contains("last known: epoch 1, primary site-a"), "{said:?}");
}

/// Sites that shall vote and cannot be given their votes: failover is not called automatic, and by itself it becomes so.
#[test]
fn failover_is_called_automatic_once_every_vote_counts() {
    let cluster = Cluster::bare("site-a,site-b", Some("site-w"));
    for site in cluster.sites() {
        cluster.start(site);
    }
    let enrol = |site: &str, words: &[&str]| {
        eventually("the site to be enrolled", PATIENCE, || {
            let said = cluster.admin(site, &[&["enroll", "--primary", "site-a"], words].concat());
            if said.code == 0 { Ok(()) } else { Err(format!("{said:?}\n{}", cluster.logs())) }
        });
    };
    enrol("site-b", &[]);
    cluster.dev(&["kill", "site-b"]).ok();
    enrol("site-w", &["--witness"]);
    eventually("the missing votes to be told", PATIENCE, || {
        let status = cluster.status("site-a");
        let why = status["why_not_automatic"].as_str().unwrap_or_default();
        let told = status["automatic"] == false && why.contains("not voting yet: site-b, site-w");
        if told { Ok(()) } else { Err(format!("{status:#}\n{}", cluster.logs())) }
    });
    assert!(health_codes(&cluster, "site-a").contains(&"CFS-H004".to_owned()));
    cluster.start("site-b");
    cluster.wait_ready();
    for site in cluster.sites() {
        assert_eq!(cluster.status(site)["automatic"], true, "{site}");
    }
}
