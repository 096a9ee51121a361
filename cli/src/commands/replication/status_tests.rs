use super::super::fixture_tests::{gathered, json, shipper_alone, site, table};
use super::super::gather::NEVER;
use super::*;

fn lines(detailed: bool, change: impl FnOnce(&mut cfs_rpc::v1::StatusAnswer)) -> Vec<String> {
    table(&Status::of(&gathered(change), detailed)).lines().map(str::to_owned).collect()
}

fn line_of<'a>(lines: &'a [String], name: &str) -> &'a str {
    lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn the_table_begins_with_the_runbooks_lines() {
    let expected = [
        "Site: site-a (LOCAL)",
        "Status: READY",
        "Role: PRIMARY",
        "Lag: 0ms",
        "Peers: site-b [HEALTHY], site-w [HEALTHY]",
    ];
    assert_eq!(lines(false, |_| {})[..5], expected);
    let two_sites = |a: &mut cfs_rpc::v1::StatusAnswer| drop(a.sites.pop());
    let mut alone = gathered(two_sites);
    alone.configured.pop();
    let alone = table(&Status::of(&alone, false));
    assert!(
        alone.starts_with("Site: site-a (LOCAL)\nStatus: READY\nRole: PRIMARY\nLag: 0ms\nPeers: site-b [HEALTHY]\n")
    );
}

#[test]
fn what_the_runbook_does_not_show_follows() {
    let healthy = lines(false, |_| {});
    assert_eq!(line_of(&healthy, "As of"), "now");
    assert_eq!(line_of(&healthy, "Lease"), "held by site-a, 812ms of 1000ms left");
    assert_eq!(line_of(&healthy, "Failover"), "automatic");
    assert_eq!(line_of(&healthy, "Leader"), "site-w");
    assert_eq!(line_of(&healthy, "Split-brain"), "none");
    assert_eq!(line_of(&healthy, "Next"), "nothing to do");
    let ill = lines(false, |a| {
        a.leader_age_ms = 12_400;
        a.automatic = false;
        a.why_not_automatic = "there is no witness".into();
        a.quorum = "site-b or site-w".into();
        a.op = 5;
        a.op_text = "sealing".into();
        a.split_brain = true;
        a.warnings = vec!["site-w may be old".into()];
    });
    assert_eq!(line_of(&ill, "As of"), "heard from the leader (site-w) 12 s ago");
    assert_eq!(line_of(&ill, "Failover"), "by hand: there is no witness");
    assert_eq!(line_of(&ill, "Quorum"), "none; awaited: site-b or site-w");
    assert_eq!(line_of(&ill, "Operation"), "5 in progress: sealing");
    assert!(line_of(&ill, "Split-brain").starts_with("DETECTED"));
    assert_eq!(line_of(&ill, "Warning"), "site-w may be old");
    assert_ne!(line_of(&ill, "Next"), "nothing to do");
}

/// Two sites without a witness, at the replica.
fn survivor(a: &mut cfs_rpc::v1::StatusAnswer) {
    a.here = Some(site("site-b", 2, "REPLICA"));
    let here = a.here.as_mut().expect("here");
    (here.state, here.why, here.voter) = ("WAITING".into(), "waiting for a majority: site-a not heard".into(), false);
    a.sites = vec![site("site-a", 1, "PRIMARY")];
    (a.sites[0].state, a.sites[0].age_ms) = ("DOWN".into(), 9_000);
    (a.quorum, a.leader, a.leader_age_ms) = (here.why.clone(), String::new(), 9_000);
    (a.automatic, a.why_not_automatic) = (false, "there are two data sites and no witness".into());
    a.lease.as_mut().expect("a lease").held = false;
    let shipper = a.shipper.as_mut().expect("a shipper");
    (shipper.site, shipper.role, shipper.lag_ms) = ("site-b".into(), "REPLICA".into(), 9_000);
    (shipper.peers[0].site, shipper.peers[0].state) = ("site-a".into(), "DOWN".into());
}

#[test]
fn the_survivor_of_two_sites_names_what_works_without_the_other() {
    let force = "cfs admin replication failover --force --to site-b";
    let next = line_of(&lines(false, survivor), "Next").to_owned();
    assert_eq!(next, format!("on site-a: systemctl start claudefs-repl; if that cannot be: {force}"));
}

#[test]
fn that_a_majority_is_missing_is_told_by_its_age_or_not_at_all() {
    let as_of = |age_ms| {
        let said = lines(false, |a| (a.leader, a.leader_age_ms) = ("site-a".into(), age_ms));
        line_of(&said, "As of").to_owned()
    };
    assert_eq!(as_of(7_000), "a majority followed this site's control process 7 s ago");
    assert_eq!(as_of(NEVER), "no leader was heard since this site's control process started");
    let alone = lines(false, |a| (a.leader, a.quorum) = ("site-a".into(), "waiting for a majority".into()));
    assert_eq!(line_of(&alone, "Leader"), "site-a, which no majority follows");
}

#[test]
fn detailed_lists_every_site_and_who_hears_whom() {
    let all = lines(true, |a| a.sites[0].lag_known = false);
    let row = all.iter().find(|line| line.starts_with("site-b ")).expect("a row");
    for part in ["READY", "REPLICA", "unknown", "voter", "yes", "site-a@9/9"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    assert!(all.iter().any(|line| line.starts_with("site-w ") && line.contains("leader") && line.contains("n/a")));
    assert!(all.iter().any(|line| line == "Heard: site-a -> site-b (shipper): 70ms ago"), "{all:?}");
}

#[test]
fn one_process_alone_is_enough_and_the_other_is_named() {
    let text = table(&Status::of(&shipper_alone(), false));
    assert!(text.starts_with("Site: site-a (LOCAL)\nStatus: NO_CONTROL\n"), "{text}");
    assert!(text.contains("claudefs-control does not answer"), "{text}");
    assert!(text.contains("Lease, leader, quorum: not known"), "{text}");
    let mut without_shipper = gathered(|a| a.here.as_mut().expect("here").state = "NO_SHIPPER".into());
    without_shipper.shipper = None;
    let text = table(&Status::of(&without_shipper, false));
    assert!(text.contains("Status: NO_SHIPPER\n") && text.contains("claudefs-shipper does not answer"), "{text}");
    let value = json(&Status::of(&without_shipper, false));
    assert!(value["floor"] == 3 && value["process"].is_null() && value["shipper"]["answers"] == false, "{value}");
}

#[test]
fn what_stands_comes_before_what_is_over() {
    let next = |down: bool| {
        let gathered = gathered(|a| {
            a.shipper.as_mut().expect("a shipper").conflicts_1h = Some(100);
            if down {
                a.sites[0].state = "DOWN".into();
            }
        });
        Status::of(&gathered, false).next
    };
    assert_eq!(next(false), "cfs admin replication audit --filter conflict");
    assert!(next(true).starts_with("on site-b: systemctl status"), "{}", next(true));
}

#[test]
fn a_witness_shows_that_it_stores_nothing() {
    let mut witness = gathered(|a| {
        a.here = Some(site("site-w", 3, "WITNESS"));
        a.sites = vec![site("site-a", 1, "PRIMARY"), site("site-b", 2, "REPLICA")];
        a.leader_age_ms = NEVER;
    });
    witness.shipper = None;
    witness.configured.clear();
    let text = table(&Status::of(&witness, false));
    let expected =
        "Site: site-w (LOCAL)\nStatus: READY\nRole: WITNESS\nLag: n/a\nPeers: site-a [HEALTHY], site-b [HEALTHY]\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("As of: no leader was heard"), "{text}");
    assert!(!text.contains("Shipper:"), "{text}");
}

#[test]
fn json_has_the_keys_that_scripts_rely_on() {
    let value = json(&Status::of(&gathered(|_| {}), false));
    for key in [
        "schema site status why role primary epoch floor lag_ms peers unreachable streams cluster version entries_appended",
        "entries_applied tombstones journal_bytes store_bytes disk_free_bytes process lease automatic why_not_automatic",
        "leader leader_age_ms sites quorum warnings split_brain answered_by durability group reach control shipper next",
    ]
    .join(" ")
    .split(' ')
    {
        assert!(!value[key].is_null(), "{key}: {value}");
    }
    assert_eq!((&value["schema"], &value["status"]), (&"cfs.status/1".into(), &"READY".into()));
    assert_eq!((&value["peers"][0]["site"], &value["peers"][0]["state"]), (&"site-b".into(), &"HEALTHY".into()));
    for key in ["site", "state", "why", "lag_ms", "heard_ms", "rtt_us", "sent_bytes", "received_bytes"] {
        assert!(!value["peers"][0][key].is_null(), "{key}");
    }
    assert_eq!((&value["lease"]["left_ms"], &value["process"]["pid"]), (&812.into(), &7.into()));
    assert_eq!(value["operation"], serde_json::Value::Null);
    let op = json(&Status::of(&gathered(|a| a.op = 4), false));
    assert_eq!(op["operation"]["op"], 4);
}

#[test]
fn a_fenced_site_does_not_look_as_if_it_took_part() {
    let sealed = |a: &mut cfs_rpc::v1::StatusAnswer| {
        let here = a.here.as_mut().expect("here");
        here.state = "FENCED".into();
        here.why = "sealed by an operator, who wants site-b to be primary (root@host, 3 s ago)".into();
        here.next = "on site-b: cfs admin replication failover --force --to site-b".into();
        here.sealed_for = "site-b".into();
        (a.automatic, a.why_not_automatic) = (false, "there is no witness".into());
    };
    let said = lines(false, sealed);
    assert_eq!(line_of(&said, "Primary"), "site-a, before this site was fenced");
    assert_eq!(line_of(&said, "Failover"), "n/a (this site is fenced)");
    assert_eq!(line_of(&said, "Quorum"), "n/a (this site is fenced)");
    assert_eq!(line_of(&said, "Next"), "on site-b: cfs admin replication failover --force --to site-b");
    // One that is held is a member as before.
    let held = lines(false, |a| a.here.as_mut().expect("here").state = "FENCED".into());
    assert_eq!((line_of(&held, "Primary"), line_of(&held, "Quorum")), ("site-a", "ok"));
}
