use crate::command::{Command, Founding, Kind};
use crate::state::{Settings, Site};

use super::*;

const NOW: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;

fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a name")
}

fn hash(n: usize) -> String {
    format!("{n:064x}")
}

fn founded() -> State {
    let mut state = State::default();
    let founder = Site {
        id: SiteId(1),
        name: site("site-a"),
        witness: false,
        node: 1,
        peer: String::new(),
        producer: String::new(),
        control: String::new(),
        http: String::new(),
        priority: 1,
    };
    let founding = Founding {
        cluster: cfs_model::ClusterId([1; 16]),
        group: 7,
        site: founder,
        settings: Settings::default(),
        level: cfs_model::Level::THIS,
        parent: None,
    };
    done(&mut state, Kind::Found(Box::new(founding)));
    state
}

fn apply(state: &mut State, kind: Kind) -> Outcome {
    state.apply(&Command { at_ms: NOW, by: "operator@host".into(), kind })
}

fn done(state: &mut State, kind: Kind) {
    assert_eq!(apply(state, kind), Outcome::Done);
}

/// A refusal changes nothing.
fn refused(state: &mut State, kind: Kind, why: &str) {
    let before = state.clone();
    match apply(state, kind) {
        Outcome::Refused(said) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(*state, before);
}

fn invite(n: usize, name: &str) -> Kind {
    Kind::Invite { hash: hash(n), site: site(name), now_ms: NOW, until_ms: NOW + 15 * MINUTE }
}

fn redeem(n: usize, name: &str, after_ms: u64) -> Kind {
    Kind::Redeem { hash: hash(n), site: site(name), now_ms: NOW + after_ms, what: "requests".into() }
}

/// Invariant 9: a token lets in the site that it names, once, in time.
#[test]
fn a_token_is_good_once_for_its_site_and_in_time() {
    let mut state = founded();
    refused(&mut state, redeem(1, "site-c", 0), "no invitation");
    done(&mut state, invite(1, "site-c"));
    refused(&mut state, redeem(2, "site-c", 0), "no invitation");
    refused(&mut state, redeem(1, "site-d", 0), "is for site-c, not for site-d");
    refused(&mut state, redeem(1, "site-c", 15 * MINUTE), "expired");
    done(&mut state, redeem(1, "site-c", 15 * MINUTE - 1));
    assert_eq!(state.invitations[&hash(1)].used_for.as_deref(), Some("requests"));
    refused(&mut state, redeem(1, "site-c", 0), "used already");
}

#[test]
fn invitations_that_make_no_sense_are_refused() {
    let mut state = founded();
    refused(&mut state, invite(1, "site-a"), "enrolled already");
    let kind = |hash: String, until_ms| Kind::Invite { hash, site: site("site-c"), now_ms: NOW, until_ms };
    refused(&mut state, kind("short".into(), NOW + MINUTE), "hash");
    refused(&mut state, kind(hash(1), NOW), "minutes at most");
    refused(&mut state, kind(hash(1), NOW + caps::MAX_INVITATION_MS + 1), "minutes at most");
    done(&mut state, invite(1, "site-c"));
    refused(&mut state, invite(1, "site-d"), "hash");
}

/// Invariant 10.
#[test]
fn invitations_are_bounded_and_forgotten() {
    let mut state = founded();
    for n in 0..caps::MAX_INVITATIONS {
        done(&mut state, invite(n, "site-c"));
    }
    refused(&mut state, invite(1000, "site-c"), "already");
    let later = NOW + caps::MAX_INVITATION_MS + 15 * MINUTE;
    done(&mut state, Kind::Invite { hash: hash(1000), site: site("site-c"), now_ms: later, until_ms: later + MINUTE });
    assert_eq!(state.invitations.len(), 1, "those long over are gone");
}

#[test]
fn a_state_of_an_earlier_version_has_no_invitations() {
    let mut json = serde_json::to_value(founded()).expect("it serialises");
    json.as_object_mut().expect("an object").remove("invitations");
    let state: State = serde_json::from_value(json).expect("it reads");
    assert!(state.invitations.is_empty());
}
