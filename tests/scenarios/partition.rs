//! Links between sites that are cut, slow or saturated.

use std::time::Duration;

use crate::cluster::unix_ms;
use crate::crashes::random_pause;
use crate::harness::{Cluster, PATIENCE, eventually, is_long, limit_ms, quiet, rounds};
use crate::load::{Load, RATE, Tenure};

/// Which direction of the primary's links is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Both,
    /// Nothing that the primary sends arrives.
    Outward,
    /// Nothing arrives at the primary.
    Inward,
}

fn cut_off(cluster: &Cluster, site: &str, cut: Cut) {
    for other in cluster.sites().filter(|other| *other != site) {
        let said = match cut {
            Cut::Both => cluster.dev(&["partition", site, other]),
            Cut::Outward => cluster.dev(&["partition", site, other, "--one-way"]),
            Cut::Inward => cluster.dev(&["partition", other, site, "--one-way"]),
        };
        said.ok();
    }
}

/// The producers reach every site all the while: only the sites do not reach each other.
fn the_primary_is_cut_off(cluster: &Cluster, round: usize, cut: Cut, seen: &mut Vec<Tenure>) {
    let (old, epoch) = cluster.primary_and_epoch();
    let other = cluster.other(&old);
    if round.is_multiple_of(2) {
        cluster.lead(&old, 60);
    }
    let mut load = Load::start(cluster, &other, "local", RATE);
    random_pause(1000);
    let began = unix_ms();
    cut_off(cluster, &old, cut);
    let new = load.until_after(cluster, epoch);
    let took = new.first_ms.saturating_sub(began);
    assert_eq!((&new.site, new.epoch), (&other, epoch + 1), "{}", cluster.logs());
    assert!(took < limit_ms(4000), "{took} ms\n{}", cluster.logs());
    std::thread::sleep(Duration::from_millis(500));
    let old_status = cluster.status(&old);
    assert_ne!(old_status["lease"]["held"], true, "it is cut off and still holds a lease: {old_status:#}");
    cluster.heal();
    load.until_more(cluster);
    let outcome = load.finish();
    let last = outcome.of_epoch(epoch).last_ms;
    eprintln!(
        "round {round}: {old} cut off ({cut:?}); it stopped acknowledging {} ms later, {other} began {took} ms later",
        last.saturating_sub(began)
    );
    assert!(last <= new.first_ms, "{old} acknowledged until {last}, {other} from {}", new.first_ms);
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    seen.extend(outcome.tenures().iter().cloned());
}

fn cut_off_again_and_again(rounds: usize, cuts: &[Cut]) {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let mut seen = Vec::new();
    for round in 0..rounds {
        the_primary_is_cut_off(&cluster, round, cuts[round % cuts.len()], &mut seen);
    }
    cluster.expect_one_primary_per_epoch("site-w", &seen);
}

/// Invariants 1 and 2: a primary that is cut off from everyone stops acknowledging by itself before another one opens,
/// whichever direction is cut.
#[test]
fn a_primary_that_is_cut_off_stops_before_another_opens() {
    cut_off_again_and_again(rounds(2), &[Cut::Both, Cut::Outward]);
}

#[test]
#[ignore = "campaign: twenty cuts in each direction"]
fn campaign_partition() {
    cut_off_again_and_again(rounds(20), &[Cut::Both]);
    cut_off_again_and_again(rounds(20), &[Cut::Outward, Cut::Inward]);
}

/// A primary that the quorum sees keeps its role, although its replica does not see it.
#[test]
fn a_cut_between_the_data_sites_alone_moves_nothing() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (primary, epoch) = cluster.primary_and_epoch();
    let load = Load::start(&cluster, &primary, "local", RATE);
    // Where it goes by itself: whoever leads must hear both.
    eventually("the witness to lead", PATIENCE, || {
        let leader = cluster.leader();
        if leader == "site-w" { Ok(()) } else { Err(format!("{leader:?} leads\n{}", cluster.logs())) }
    });
    cluster.partition("site-a", "site-b");
    std::thread::sleep(Duration::from_secs(if is_long() { 60 } else { 6 }));
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch), "{}", cluster.logs());
    cluster.heal();
    let outcome = load.finish();
    assert_eq!(outcome.tenures().len(), 1, "it flapped: {:?}", outcome.tenures());
    cluster.converge();
    cluster.wait_ready();
    assert_eq!(cluster.epoch(), epoch);
    cluster.expect_nothing_missing(&outcome);
}

/// With a third site that stores data, the replica behind the cut is fed through it; and although the replica led the
/// control plane and does not hear the primary any more, the role stays: whoever hears the primary takes the lead.
#[test]
fn a_third_site_feeds_the_replica_behind_a_cut() {
    let _alone = quiet();
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let (primary, epoch) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    cluster.lead(&replica, 60);
    let load = Load::start(&cluster, &primary, "local", RATE);
    cluster.partition(&primary, &replica);
    std::thread::sleep(Duration::from_secs(3));
    let outcome = load.finish();
    assert_eq!(outcome.tenures().len(), 1, "{:?}", outcome.tenures());
    eventually("the replica to have everything while the link is cut", PATIENCE, || {
        match cluster.missing(&replica, outcome.record()) {
            0 => Ok(()),
            missing => Err(format!("{missing} entries are missing at {replica}\n{}", cluster.logs())),
        }
    });
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch));
    cluster.heal();
    cluster.converge();
}

/// The same where only what the replica says is lost: its source would go on to be heard, and send nothing more.
#[test]
fn a_third_site_feeds_the_replica_whose_acknowledgements_are_lost() {
    let _alone = quiet();
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.wait_ready();
    let (primary, epoch) = cluster.primary_and_epoch();
    let replica = cluster.other(&primary);
    for round in 0..rounds(2) {
        let mut load = Load::start(&cluster, &primary, "local", RATE);
        random_pause(500);
        cluster.dev(&["partition", &replica, &primary, "--one-way"]).ok();
        // Longer than the source waits for an answer.
        std::thread::sleep(Duration::from_secs(8));
        load.until_more(&cluster);
        let outcome = load.finish();
        assert_eq!(outcome.tenures().len(), 1, "{:?}", outcome.tenures());
        eventually("the replica to have everything while the link is cut", Duration::from_secs(5), || {
            match cluster.missing(&replica, outcome.record()) {
                0 => Ok(()),
                missing => {
                    Err(format!("round {round}: {missing} entries are missing at {replica}\n{}", cluster.logs()))
                }
            }
        });
        assert_eq!(cluster.primary_and_epoch(), (primary.clone(), epoch));
        cluster.heal();
        cluster.converge();
    }
}

/// Neither the replica nor the witness is needed for writing, whichever of them leads the control plane.
#[test]
fn the_loss_of_the_replica_or_the_witness_stops_nobody() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (primary, epoch) = cluster.primary_and_epoch();
    for (lost, leads) in [("site-w", "site-w"), ("site-b", "site-b"), ("site-b", "site-w"), ("site-w", "site-b")] {
        cluster.lead(leads, 60);
        let mut load = Load::start(&cluster, &primary, "local", RATE);
        random_pause(500);
        cluster.kill_at_once(lost);
        std::thread::sleep(Duration::from_secs(if is_long() { 30 } else { 3 }));
        load.until_more(&cluster);
        let outcome = load.finish();
        let gap = outcome.longest_gap_ms();
        eprintln!("{lost} lost while {leads} led: longest gap {gap:.0} ms");
        assert_eq!(outcome.tenures().len(), 1, "{:?}", outcome.tenures());
        assert!(gap < limit_ms(250) as f64, "writes paused for {gap} ms\n{}", cluster.logs());
        cluster.start(lost);
        cluster.converge();
        cluster.wait_ready();
        assert_eq!(cluster.primary_and_epoch(), (primary.clone(), epoch));
    }
}

/// Long round trips and a link that is full demote no healthy primary.
fn slow_links(time: Duration) {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (primary, epoch) = cluster.primary_and_epoch();
    for (from, to) in [("site-a", "site-b"), ("site-a", "site-w"), ("site-b", "site-w")] {
        cluster.dev(&["delay", from, to, "--ms", "75"]).ok();
    }
    // Half of what is written goes over it.
    let half = (RATE * 50).to_string();
    cluster.dev(&["delay", "site-a", "site-b", "--bandwidth", &half]).ok();
    let load = Load::start(&cluster, &primary, "local", RATE);
    std::thread::sleep(time);
    assert_eq!(cluster.primary_and_epoch(), (primary, epoch), "{}", cluster.logs());
    let outcome = load.finish();
    eprintln!("{time:?} of slow links: longest gap {:.0} ms", outcome.longest_gap_ms());
    assert_eq!(outcome.tenures().len(), 1, "it flapped: {:?}", outcome.tenures());
    cluster.heal();
    cluster.converge();
    cluster.wait_ready();
    assert_eq!(cluster.epoch(), epoch);
    cluster.expect_nothing_missing(&outcome);
}

#[test]
fn slow_and_saturated_links_demote_nobody() {
    slow_links(Duration::from_secs(12));
}

#[test]
#[ignore = "campaign: ten minutes"]
fn campaign_slow_links() {
    slow_links(Duration::from_secs(600));
}
