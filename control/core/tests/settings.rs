//! Settings that operators change for the whole cluster: all or nothing, audited, and kept when a newer version sets them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use cfs_control_core::command::Founding;
use cfs_control_core::state::{Settings, Site};
use cfs_control_core::{Command, Kind, Outcome, State};
use cfs_model::{ClusterId, Level, SiteId, SiteName};

fn site(id: u8, name: &str) -> Site {
    Site {
        id: SiteId(id),
        name: SiteName::new(name).unwrap(),
        witness: name == "site-w",
        node: u64::from(id),
        peer: String::new(),
        producer: String::new(),
        control: String::new(),
        http: String::new(),
        priority: 100,
    }
}

fn apply(state: &mut State, kind: Kind) -> Outcome {
    state.apply(&Command { at_ms: 1, by: "root@host".into(), kind })
}

/// Two data sites and a witness.
fn cluster() -> State {
    let mut state = State::default();
    let founder = Founding {
        cluster: ClusterId([7; 16]),
        group: 5,
        site: site(1, "site-a"),
        settings: Settings::default(),
        level: Level::THIS,
        parent: None,
    };
    assert_eq!(apply(&mut state, Kind::Found(Box::new(founder))), Outcome::Done);
    for (id, name) in [(2, "site-b"), (3, "site-w")] {
        assert!(matches!(apply(&mut state, Kind::Enrol { site: site(id, name) }), Outcome::Allotted(_)));
    }
    state
}

fn set(state: &mut State, level: Level, values: &[(&str, Option<&str>)]) -> Outcome {
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
    apply(state, Kind::Configure { level, values: values.collect() })
}

const NOW: Level = Level::THIS;
const NEXT: Level = Level(NOW.0 + 1);

#[test]
fn several_change_together_and_the_trail_says_who_what_before_and_after() {
    let mut state = cluster();
    let values = [("compression", Some("zstd:5")), ("audit_retention", Some("4w")), ("lease_ms", Some("2000"))];
    assert_eq!(set(&mut state, NOW, &values), Outcome::Done);
    assert_eq!(state.settings["compression"], "zstd:5");
    assert_eq!(state.settings["audit_retention"], "28d", "kept as it is printed");
    assert_eq!((state.lease_ms, state.settings_version), (2000, 1));
    let event = state.events.back().unwrap();
    assert_eq!((event.what.as_str(), event.by.as_str()), ("settings", "root@host"));
    assert_eq!(
        event.text,
        "audit_retention: each site's own -> 28d, compression: each site's own -> zstd:5, lease_ms: 1000 -> 2000"
    );
    let before = state.clone();
    assert_eq!(set(&mut state, NOW, &values), Outcome::Done);
    assert_eq!(state, before, "the same again is nothing new");
}

#[test]
fn one_bad_value_changes_nothing_and_every_bad_one_is_named() {
    let mut state = cluster();
    let before = state.clone();
    let values = [
        ("batch_size", Some("1000")),
        ("compression", Some("gzip")),
        ("durability", Some("remote(2)")),
        ("batchsize", Some("1")),
        ("lease_ms", None),
    ];
    let Outcome::Refused(why) = set(&mut state, NOW, &values) else { panic!("it was taken") };
    for says in ["zstd:LEVEL", "1 are enrolled", "did you mean batch_size?", "lease_ms is one value"] {
        assert!(why.contains(says), "{why} does not say {says}");
    }
    assert_eq!(state, before);
}

#[test]
fn a_value_is_given_back_to_the_sites() {
    let mut state = cluster();
    set(&mut state, NOW, &[("restart_grace_ms", Some("5000"))]);
    assert_eq!(state.restart_grace_ms(), Some(5000));
    assert_eq!(set(&mut state, NOW, &[("restart_grace_ms", None)]), Outcome::Done);
    assert_eq!((state.restart_grace_ms(), state.settings_version), (None, 2));
    assert_eq!(state.events.back().unwrap().text, "restart_grace_ms: 5000 -> each site's own");
}

/// DESIGN §5: the lease may be lowered again only once the longer one has run out.
#[test]
fn a_lease_lowered_twice_waits_and_takes_the_rest_of_the_command_with_it() {
    let mut state = cluster();
    assert_eq!(set(&mut state, NOW, &[("lease_ms", Some("800"))]), Outcome::Done);
    let before = state.clone();
    let outcome = set(&mut state, NOW, &[("lease_ms", Some("500")), ("batch_size", Some("9"))]);
    assert!(matches!(outcome, Outcome::Refused(why) if why.contains("1000 ms may still run")));
    assert_eq!(state, before);
}

/// A member of this version applies what a leader of the next one decided; a leader of this version does not propose it.
#[test]
fn what_only_a_newer_version_knows_is_kept_when_that_version_says_so_and_refused_otherwise() {
    let mut state = cluster();
    let values = [("tomorrow", Some("yes")), ("compression", Some("brotli"))];
    assert!(matches!(set(&mut state, NOW, &values), Outcome::Refused(_)));
    assert_eq!(set(&mut state, NEXT, &values), Outcome::Done);
    assert_eq!((state.settings["tomorrow"].as_str(), state.settings["compression"].as_str()), ("yes", "brotli"));
    let long = "x".repeat(300);
    assert!(matches!(set(&mut state, NEXT, &[("tomorrow", Some(&long))]), Outcome::Refused(_)));
}

#[test]
fn a_state_from_before_settings_reads() {
    let mut json = serde_json::to_value(cluster()).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.remove("settings");
    fields.remove("settings_version");
    let state: State = serde_json::from_value(json).unwrap();
    assert_eq!((state.settings, state.settings_version), (BTreeMap::new(), 0));
}

/// What an older member does not know waits; a member that came meanwhile may be older.
#[test]
fn a_setting_waits_for_the_level_that_knows_it() {
    let mut state = cluster();
    state.level = Level::FIRST;
    let policy = [("partition_policy", Some("continue")), ("batch_size", Some("9"))];
    let before = state.clone();
    let refused = set(&mut state, NOW, &policy);
    assert!(
        matches!(&refused, Outcome::Refused(why) if why.contains("waits until every site knows level 2")),
        "{refused:?}"
    );
    assert_eq!(state, before);

    let nodes: Vec<u64> = state.sites.values().map(|site| site.node).collect();
    let raise = |nodes: &[u64]| Kind::Raise { level: NOW, nodes: nodes.to_vec() };
    assert!(matches!(apply(&mut state, raise(&nodes[..2])), Outcome::Refused(_)), "one was not asked");
    assert_eq!(apply(&mut state, raise(&nodes)), Outcome::Done);
    assert_eq!(state.events.back().unwrap().what, "level");
    assert!(matches!(apply(&mut state, raise(&nodes)), Outcome::Refused(_)), "it never falls, and rises once");
    assert_eq!(set(&mut state, NOW, &policy), Outcome::Done);
    assert!(NOW.reaches(state.level, "site-c").is_ok() && Level::FIRST.reaches(state.level, "site-c").is_err());
}
