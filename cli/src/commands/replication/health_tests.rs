use std::collections::BTreeSet;

use cfs_rpc::v1::{StatusAnswer, StatusReply};

use super::super::fixture_tests::{gathered, json, shipper_alone, site, table};
use super::finding::{CHECKS, Level};
use super::*;

fn health(change: impl FnOnce(&mut StatusAnswer)) -> Health {
    health_of(&gathered(change), false)
}

fn codes(change: impl FnOnce(&mut StatusAnswer)) -> Vec<(&'static str, Level)> {
    health(change).findings.iter().map(|finding| (finding.code, finding.level)).collect()
}

fn shipper_of(answer: &mut StatusAnswer) -> &mut StatusReply {
    answer.shipper.as_mut().expect("a shipper")
}

#[test]
fn all_sites_are_named_and_healthy() {
    let text = table(&health(|_| {}));
    assert!(text.starts_with("Health: OK\nAll sites: HEALTHY\n"), "{text}");
    for site in ["site-a: HEALTHY PRIMARY", "site-b: HEALTHY REPLICA", "site-w: HEALTHY WITNESS"] {
        assert!(text.contains(site), "{site}: {text}");
    }
    assert_eq!(health(|_| {}).exit_code(), ExitCode::SUCCESS);
    // One that lags too far does not count as healthy, though it serves.
    let text = table(&health(|a| shipper_of(a).peers[0].lag_ms = 2001));
    assert!(text.contains("\nAll sites: NOT HEALTHY: site-b lags\n"), "{text}");
}

#[test]
fn each_fault_has_its_code_and_level() {
    use Level::{Critical, Unknown, Warning};
    type Fault = (&'static str, Level, fn(&mut StatusAnswer));
    let faults: [Fault; 32] = [
        ("CFS-H001", Warning, |a| a.sites[0].state = "DOWN".into()),
        ("CFS-H001", Critical, |a| {
            a.primary = "site-b".into();
            a.here.as_mut().expect("here").role = "REPLICA".into();
            a.sites[0].state = "DOWN".into();
        }),
        ("CFS-H002", Critical, |a| a.quorum = "site-b".into()),
        ("CFS-H003", Critical, |a| a.lease.as_mut().expect("a lease").held = false),
        ("CFS-H004", Warning, |a| a.automatic = false),
        ("CFS-H005", Warning, |a| shipper_of(a).peers[0].lag_ms = 501),
        ("CFS-H005", Critical, |a| shipper_of(a).peers[0].lag_ms = 2001),
        ("CFS-H006", Critical, |a| a.split_brain = true),
        ("CFS-H007", Critical, |a| a.sites[0].state = "FENCED".into()),
        ("CFS-H008", Warning, |a| a.sites[1].age_ms = u64::MAX),
        ("CFS-H009", Warning, |a| a.sites[0].state = "NO_SHIPPER".into()),
        ("CFS-H010", Critical, |a| shipper_of(a).status = "READ_ONLY".into()),
        ("CFS-H011", Warning, |a| a.sites[1].clock_skew_ms = Some(-101)),
        ("CFS-H012", Critical, |a| a.durability = "remote(2)".into()),
        ("CFS-H013", Warning, |a| a.sites[1].version = "0.2.0".into()),
        ("CFS-H014", Warning, |a| (a.sites[0].state, a.sites[0].gone_ms) = ("DOWN".into(), 900)),
        ("CFS-H014", Critical, |a| {
            a.primary = "site-b".into();
            a.here.as_mut().expect("here").role = "REPLICA".into();
            (a.sites[0].state, a.sites[0].gone_ms) = ("DOWN".into(), 900);
        }),
        ("CFS-H015", Unknown, |a| a.leader_age_ms = 5001),
        ("CFS-H016", Warning, |a| a.sites[0].enrolled = false),
        ("CFS-H017", Critical, |a| shipper_of(a).cursors[0].state = "stuck".into()),
        ("CFS-H018", Critical, |a| shipper_of(a).peers[0].state = "DIVERGED".into()),
        ("CFS-H020", Critical, |a| a.primary.clear()),
        ("CFS-H024", Warning, |a| a.sites[1].configured_id = 7),
        ("CFS-H025", Critical, |a| a.useless_certificates.push("/tls/control.pem has expired".into())),
        ("CFS-H030", Warning, |a| shipper_of(a).journal_bytes = 5_000_000_001),
        ("CFS-H030", Critical, |a| shipper_of(a).journal_bytes = 10_000_000_001),
        ("CFS-H031", Warning, |a| {
            shipper_of(a).journal_exhausted_in_s = Some(80_000);
            shipper_of(a).journal_exhausted_by = "site-b".into();
        }),
        ("CFS-H031", Critical, |a| {
            shipper_of(a).journal_exhausted_in_s = Some(3_599);
            shipper_of(a).journal_exhausted_by = "site-b".into();
        }),
        ("CFS-H032", Critical, |a| shipper_of(a).peers[0].behind = "stream 1.1 is kept from LSN 9 on".into()),
        ("CFS-H032", Critical, |a| shipper_of(a).behind = "stream 1.1 is kept from LSN 9 on".into()),
        ("CFS-H033", Warning, |a| shipper_of(a).tombstones = 1_000_001),
        ("CFS-H022", Warning, |a| a.warnings.push("certificates expire in 3 days".into())),
    ];
    for (code, level, fault) in faults {
        assert_eq!(codes(fault), [(code, level)], "{code}");
        let exit = [(Warning, 1), (Critical, 2), (Unknown, 3)].into_iter().find(|(of, _)| *of == level).expect("one").1;
        assert_eq!(health(fault).exit_code(), ExitCode::from(exit), "{code}");
        for finding in health(fault).findings {
            assert!(![finding.reason, finding.impact, finding.next].iter().any(String::is_empty), "{code}");
        }
    }
    assert_eq!(codes(|a| shipper_of(a).peers[0].lag_ms = 500), []);
    assert_eq!(codes(|a| a.durability = "remote(1)".into()), []);
    assert_eq!(codes(|a| shipper_of(a).journal_bytes = 5_000_000_000), []);
    assert_eq!(codes(|a| shipper_of(a).journal_exhausted_in_s = Some(86_400)), []);
    assert_eq!(codes(|a| a.here.as_mut().expect("here").state = "WAITING".into()), [("CFS-H019", Critical)]);
    assert_eq!(codes(|a| shipper_of(a).peers[0].state = "DOWN".into()), [("CFS-H021", Warning)]);
}

fn next_of(code: &str, change: impl FnOnce(&mut StatusAnswer)) -> String {
    let found = health(change).findings;
    found.into_iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("{code}")).next
}

#[test]
fn a_site_that_was_removed_says_only_how_it_comes_back() {
    let removed = |a: &mut StatusAnswer| {
        let here = a.here.as_mut().expect("here");
        (here.state, here.next) = ("REMOVED".into(), "cfs admin replication enroll --primary site-b".into());
        (a.quorum, a.leader_age_ms, a.automatic) =
            ("waiting for a majority: site-b, site-w not heard".into(), 9_000, false);
        a.sites.iter_mut().for_each(|site| site.state = "DOWN".into());
    };
    assert_eq!(codes(removed), [("CFS-H016", Level::Warning)]);
    assert_eq!(next_of("CFS-H016", removed), "cfs admin replication enroll --primary site-b");
}

#[test]
fn the_way_to_a_shipper_is_tried_where_it_is_configured() {
    assert_eq!(next_of("CFS-H021", |a| shipper_of(a).peers[0].state = "DOWN".into()), "nc -zv 10.0.0.2 9600");
}

#[test]
fn what_runs_and_hangs_is_not_started() {
    let refused =
        |a: &mut StatusAnswer| (a.sites[0].state, a.sites[0].why) = ("NO_SHIPPER".into(), "connection refused".into());
    assert_eq!(next_of("CFS-H009", refused), "on site-b: systemctl start claudefs-shipper");
    let hangs = |a: &mut StatusAnswer| {
        (a.sites[0].state, a.sites[0].why) = ("NO_SHIPPER".into(), "it did not answer within 2.5 s".into());
    };
    let next = next_of("CFS-H009", hangs);
    assert!(next.starts_with("on site-b: systemctl status claudefs-shipper;"), "{next}");
}

#[test]
fn a_site_that_goes_on_alone_is_not_told_to_force_anything() {
    let alone = |a: &mut StatusAnswer| {
        (a.active_active, a.partition_policy) = (true, "continue".into());
        (a.quorum, a.automatic) = ("site-b, site-w".into(), false);
        a.lease.as_mut().expect("a lease").held = false;
    };
    assert_eq!(codes(alone), [("CFS-H002", Level::Warning)]);
    let found = health(alone).findings.remove(0);
    assert!(found.impact.starts_with("appends go on here") && !found.next.contains("--force"), "{found:?}");
    let fenced = |a: &mut StatusAnswer| {
        alone(a);
        a.partition_policy = "fence".into();
    };
    assert!(codes(fenced).contains(&("CFS-H002", Level::Critical)));
}

#[test]
fn a_site_that_is_no_member_says_only_that() {
    let found = codes(|a| {
        a.here.as_mut().expect("here").state = "NOT_ENROLLED".into();
        a.sites.clear();
        (a.quorum, a.leader_age_ms, a.automatic) = (String::new(), u64::MAX, false);
        a.primary.clear();
    });
    // The two peers of the configuration are not known to be members either.
    assert_eq!(found.iter().filter(|(code, _)| *code == "CFS-H016").count(), found.len(), "{found:?}");
}

#[test]
fn without_a_majority_only_what_works_without_one_is_advised() {
    let next = |code: &str, change: fn(&mut StatusAnswer)| {
        let found = health(change).findings;
        found.into_iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("{code}")).next
    };
    let by_hand = |a: &mut StatusAnswer| a.automatic = false;
    assert_eq!(next("CFS-H004", by_hand), "after a loss: cfs admin replication failover --to site-b --dry-run");
    let lost = |a: &mut StatusAnswer| {
        (a.automatic, a.quorum) = (false, "waiting for a majority: site-b not heard".into());
        a.sites[0].state = "DOWN".into();
    };
    assert_eq!(next("CFS-H004", lost), "cfs admin replication failover --force --to site-a --dry-run");
    let force = "if that cannot be: cfs admin replication failover --force --to site-a";
    assert_eq!(next("CFS-H002", lost), format!("on site-b: systemctl start claudefs-repl; {force}"));
    // It is up, and nothing gets there.
    let cut_off = |a: &mut StatusAnswer| {
        (a.quorum, a.sites[0].age_ms) = ("waiting for a majority: site-b not heard".into(), 6_000);
        shipper_of(a).peers[0].answered_ms = Some(6_000);
    };
    assert!(next("CFS-H002", cut_off).starts_with("mend the link to site-b: cfs preflight"));
    // Two sites without a witness: the other one has the only vote.
    let one_voter = |a: &mut StatusAnswer| {
        a.automatic = false;
        a.sites.pop();
        a.sites[0].voter = false;
    };
    let force = "cfs admin replication failover --force --to site-b --dry-run";
    assert_eq!(next("CFS-H004", one_voter), format!("after the primary's loss, on site-b: {force}"));
}

#[test]
fn one_data_site_is_told_to_enrol_a_second() {
    let alone = |a: &mut StatusAnswer| {
        a.automatic = false;
        a.sites.remove(0);
        a.removed.push("site-b".into());
        shipper_of(a).peers.clear();
    };
    assert_eq!(next_of("CFS-H004", alone), "on site-b: cfs admin replication enroll --primary site-a");
    let mut nobody_else = gathered(alone);
    nobody_else.configured.remove(0);
    let found = health_of(&nobody_else, false).findings;
    let next = &found.iter().find(|finding| finding.code == "CFS-H004").expect("by hand").next;
    assert_eq!(next, "on a second data site: cfs admin replication enroll --primary site-a");
}

#[test]
fn a_site_that_is_no_member_yet_is_enrolled_through_the_primary() {
    let witness = |a: &mut StatusAnswer| (a.sites[1].enrolled, a.sites[1].state) = (false, "DOWN".into());
    assert_eq!(next_of("CFS-H016", witness), "on site-w: cfs admin replication enroll --witness --primary site-a");
    let unknown = |a: &mut StatusAnswer| drop(a.sites.pop());
    assert_eq!(next_of("CFS-H016", unknown), "on site-w: cfs admin replication enroll --witness --primary site-a");
}

#[test]
fn a_site_that_is_configured_under_another_number_is_named_with_both_and_the_file() {
    let wrong = |a: &mut StatusAnswer| {
        (a.sites[1].configured_id, a.config_file) = (7, "/etc/claudefs/repl.toml".into());
    };
    let found = health(wrong).findings.remove(0);
    assert_eq!(found.reason, "site-w is enrolled as number 3, and site-a has 7 for it: /etc/claudefs/repl.toml");
    assert!(found.next.starts_with("on site-a: in /etc/claudefs/repl.toml, `id = 3` in the [[peers]] of site-w"));
    assert_eq!(codes(|a| a.sites[1].configured_id = 3), []);
    assert_eq!(codes(|a| (a.sites[1].configured_id, a.sites[1].enrolled) = (7, false)), [("CFS-H016", Level::Warning)]);
}

#[test]
fn that_writes_go_on_is_said_only_with_a_majority() {
    let impact = |change: fn(&mut StatusAnswer)| {
        let found = health(change).findings;
        found.into_iter().find(|finding| finding.code == "CFS-H008").expect("the witness is down").impact
    };
    assert!(impact(|a| a.sites[1].state = "DOWN".into()).contains("writes go on"));
    let alone = impact(|a| {
        a.sites.iter_mut().for_each(|site| site.state = "DOWN".into());
        a.quorum = "waiting for a majority: site-b, site-w not heard".into();
    });
    assert!(!alone.contains("writes go on"), "{alone}");
    // After a force one site votes alone; and of five voters two may go.
    let forced = impact(|a| {
        (a.sites[1].state, a.sites[1].voter, a.sites[0].voter) = ("DOWN".into(), false, false);
    });
    assert!(forced.contains("writes go on: it has no vote") && !forced.contains("losing one more"), "{forced}");
    let five = impact(|a| {
        a.sites[1].state = "DOWN".into();
        a.sites.extend([site("site-c", 4, "REPLICA"), site("site-d", 5, "REPLICA")]);
    });
    assert!(five.contains("writes go on") && !five.contains("losing one more"), "{five}");
}

#[test]
fn while_a_leader_is_elected_nothing_is_forced() {
    let electing = |a: &mut StatusAnswer| {
        (a.quorum, a.electing, a.automatic) = ("waiting for a leader to be elected".into(), true, false);
        a.sites[1].state = "DOWN".into();
    };
    let found = health(electing).findings;
    let next = |code: &str| &found.iter().find(|finding| finding.code == code).expect(code).next;
    assert!(next("CFS-H002").starts_with("wait some seconds"), "{}", next("CFS-H002"));
    assert!(found.iter().all(|finding| !finding.next.contains("--force")), "{:?}", next("CFS-H004"));
}

#[test]
fn what_lacks_a_certificate_here_is_forced_nowhere() {
    let alone = |a: &mut StatusAnswer| {
        a.useless_certificates.push("the certificate of the control process of site-a has expired".into());
        (a.quorum, a.automatic) = ("waiting for a majority: site-b, site-w not heard".into(), false);
        a.sites.iter_mut().for_each(|site| site.state = "DOWN".into());
    };
    let found = health(alone).findings;
    assert!(found.iter().any(|finding| finding.code == "CFS-H002"), "{found:?}");
    assert!(found.iter().all(|finding| !finding.next.contains("failover")), "{found:?}");
    let first = found.first().expect("a finding");
    assert_eq!((first.code, first.site.as_str(), first.next.as_str()), ("CFS-H025", "site-a", "cfs admin tls status"));
    assert!(first.reason.contains("has expired"), "{first:?}");
    // While nobody answers it may be why.
    let nobody = Health::unknown(Some("site-a"), "neither answers", Some(first.clone()));
    let codes: Vec<&str> = nobody.findings.iter().map(|finding| finding.code).collect();
    assert_eq!((codes, nobody.verdict), (vec!["CFS-H025", "CFS-H023"], Level::Critical));
}

#[test]
fn where_no_shipper_runs_its_start_comes_before_its_lag() {
    let found = health(|a| {
        a.sites[0].state = "NO_SHIPPER".into();
        (a.sites[0].lag_ms, a.sites[0].lag_known) = (60_000, true);
        let shipper = a.shipper.as_mut().expect("a shipper");
        shipper.peers[0].lag_ms = 60_000;
    });
    let first = found.findings.first().expect("a finding");
    assert_eq!(first.next, "on site-b: systemctl start claudefs-shipper", "{first:?}");
}

#[test]
fn a_fenced_site_blames_itself_alone() {
    let fenced = |a: &mut StatusAnswer| {
        a.here.as_mut().expect("here").state = "FENCED".into();
        (a.split_brain, a.automatic, a.quorum) = (true, false, "waiting for a majority: site-b not heard".into());
        shipper_of(a).peers[0].state = "DOWN".into();
        shipper_of(a).peers[0].lag_ms = 60_000;
    };
    assert_eq!(codes(fenced), [("CFS-H007", Level::Critical), ("CFS-H006", Level::Critical)]);
    let health = health(fenced);
    assert_eq!(health.findings[0].site, "site-a");
    assert!(table(&health).contains("site-b: HEALTHY"), "{}", table(&health));
}

#[test]
fn the_worst_comes_first_and_is_the_verdict() {
    let found = codes(|a| {
        a.automatic = false;
        a.leader_age_ms = 9_000;
        a.split_brain = true;
    });
    let levels: Vec<Level> = found.iter().map(|(_, level)| *level).collect();
    assert_eq!(levels, [Level::Critical, Level::Warning, Level::Unknown]);
    let value = json(&health(|a| a.split_brain = true));
    assert_eq!((&value["verdict"], &value["findings"][0]["code"]), (&"CRITICAL".into(), &"CFS-H006".into()));
}

#[test]
fn what_does_not_answer_is_no_good_news() {
    let alone = health_of(&shipper_alone(), false);
    assert_eq!((alone.verdict, alone.findings[0].code), (Level::Critical, "CFS-H014"));
    let mut no_shipper = gathered(|_| {});
    no_shipper.shipper = None;
    assert_eq!(health_of(&no_shipper, false).findings[0].code, "CFS-H009");
    let nobody = Health::unknown(Some("site-a"), "neither answers", None);
    assert_eq!(nobody.exit_code(), ExitCode::from(3));
    assert!(table(&nobody).starts_with("Health: UNKNOWN\nUNKNOWN CFS-H023: neither answers\n"));
    assert_eq!(json(&nobody)["site"], "site-a");
    let unusable = Health::unknown(None, "the configuration is not read", None);
    assert_eq!(unusable.findings[0].next, "cfs config check");
}

#[test]
fn detailed_shows_every_check() {
    let text = table(&health_of(&gathered(|a| a.sites[1].clock_skew_ms = Some(400)), true));
    for (code, ..) in CHECKS {
        assert!(text.contains(&format!("Check: {code}")), "{code}");
    }
    assert!(text.contains("Check: CFS-H011 WARNING") && text.contains("Check: CFS-H001 OK"), "{text}");
    // What nobody could look at is not claimed.
    let text = table(&health_of(&shipper_alone(), true));
    for check in ["CFS-H002 UNKNOWN", "CFS-H003 UNKNOWN", "CFS-H006 UNKNOWN", "CFS-H014 CRITICAL", "CFS-H017 OK"] {
        assert!(text.contains(&format!("Check: {check}")), "{check}: {text}");
    }
}

#[test]
fn codes_are_those_that_are_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status.md")).expect("readable");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `CFS-H")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(|code| format!("CFS-H{code}")).collect();
    let known: BTreeSet<String> = CHECKS.iter().map(|(code, ..)| (*code).to_owned()).collect();
    assert_eq!(documented, known);
}
