//! Steps from one membership to another.

use cfs_control_core::state::Site;
use cfs_model::{SiteId, SiteName};

use super::*;

/// Sites with the given node ids, in order; the last is a witness if `witness`. Site 1 is primary.
fn state(nodes: &[NodeId], witness: bool) -> State {
    let mut state = State { group: 1, primary: Some(SiteId(1)), vote_home: Some(SiteId(1)), ..State::default() };
    for (at, node) in nodes.iter().enumerate() {
        let number = u8::try_from(at + 1).expect("few");
        let name = format!("site-{number}");
        let site = Site {
            id: SiteId(number),
            name: SiteName::new(name).expect("a name"),
            witness: witness && at + 1 == nodes.len(),
            node: *node,
            peer: String::new(),
            producer: String::new(),
            control: format!("127.0.0.1:{number}"),
            http: String::new(),
            priority: 0,
        };
        state.sites.insert(site.id, site);
    }
    state
}

/// Does what the planner says until it is done, and lists the steps.
fn run(state: &State, now: &mut Now) -> Vec<String> {
    let mut steps = Vec::new();
    for _ in 0..20 {
        let step = next(state, now);
        match &step {
            Step::Done => return steps,
            Step::WaitFor(nodes) => {
                steps.push(format!("wait {nodes:?}"));
                return steps;
            }
            Step::Add(node, member) | Step::Correct(node, member) => {
                now.nodes.insert(*node, member.clone());
                now.ready.insert(*node);
                steps.push(format!("node {node}"));
            }
            Step::Voters(nodes) => {
                assert!(nodes.contains(&now.leader), "a leader never removes itself");
                now.voters = vec![nodes.clone()];
                steps.push(format!("voters {nodes:?}"));
            }
            Step::GiveLead(nodes) => {
                now.leader = *nodes.first().expect("somebody");
                steps.push(format!("lead {}", now.leader));
            }
            Step::Remove(nodes) => {
                assert!(!nodes.contains(&now.leader) && now.voters[0].is_disjoint(nodes));
                now.nodes.retain(|node, _| !nodes.contains(node));
                steps.push(format!("remove {nodes:?}"));
            }
        }
    }
    panic!("never done: {steps:?}");
}

fn founded() -> Now {
    let member = state(&[1], false).sites[&SiteId(1)].member();
    Now { leader: 1, voters: vec![[1].into()], nodes: [(1, member)].into(), ready: [1].into() }
}

#[test]
fn one_site_grows_to_three_voters() {
    let mut now = founded();
    assert_eq!(run(&state(&[1, 2], false), &mut now), ["node 2"], "a second data site learns");
    assert_eq!(run(&state(&[1, 2, 3], true), &mut now), ["node 3", "voters {1, 2, 3}"]);
    assert_eq!(run(&state(&[1, 2, 3], true), &mut now), [""; 0]);
}

#[test]
fn nobody_votes_before_it_has_caught_up() {
    let mut now = founded();
    let wanted = state(&[1, 2, 3], true);
    now.nodes.insert(2, wanted.sites[&SiteId(2)].member());
    now.nodes.insert(3, wanted.sites[&SiteId(3)].member());
    now.ready.insert(3);
    assert_eq!(next(&wanted, &now), Step::WaitFor([2].into()));
    now.ready.insert(2);
    assert_eq!(next(&wanted, &now), Step::Voters([1, 2, 3].into()));
}

#[test]
fn the_vote_of_a_cluster_of_two_moves_and_the_lead_goes_first() {
    let mut now = founded();
    let mut wanted = state(&[1, 2], false);
    run(&wanted, &mut now);
    wanted.vote_home = Some(SiteId(2));
    assert_eq!(run(&wanted, &mut now), ["voters {1, 2}", "lead 2", "voters {2}"]);
}

#[test]
fn a_site_that_was_wiped_is_replaced_under_its_new_number() {
    let mut now = founded();
    run(&state(&[1, 2, 3], true), &mut now);
    assert_eq!(run(&state(&[1, 4, 3], true), &mut now), ["node 4", "voters {1, 3, 4}", "remove {2}"]);
}

#[test]
fn a_change_that_stopped_half_way_is_finished_first() {
    let mut now = founded();
    let wanted = state(&[1, 2, 3], true);
    run(&wanted, &mut now);
    now.voters = vec![[1].into(), [1, 2, 3].into()];
    assert_eq!(next(&wanted, &now), Step::Voters([1, 2, 3].into()));
    now.voters = vec![[1, 2, 3].into(), [2, 3, 4].into()];
    assert_eq!(next(&wanted, &now), Step::GiveLead([2, 3, 4].into()), "who leaves does not finish it");
}

#[test]
fn a_corrected_address_is_taken_over() {
    let mut now = founded();
    let mut wanted = state(&[1], false);
    wanted.sites.get_mut(&SiteId(1)).expect("there").control = "127.0.0.1:99".into();
    assert_eq!(run(&wanted, &mut now), ["node 1"]);
    assert_eq!(now.nodes[&1].control, "127.0.0.1:99");
}

#[test]
fn after_a_forced_recovery_two_voters_are_not_better_than_one() {
    let mut now = founded();
    // Site 2 is still away and has no node in this group.
    assert_eq!(run(&state(&[1, 0, 2], true), &mut now), ["node 2"]);
    assert_eq!(run(&state(&[1, 3, 2], true), &mut now), ["node 3", "voters {1, 2, 3}"]);
}

#[test]
fn a_group_that_is_not_founded_is_left_alone() {
    assert_eq!(next(&State::default(), &founded()), Step::Done);
}
