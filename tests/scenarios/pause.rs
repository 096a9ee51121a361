//! The primary's site is stopped in its tracks, and wakes when another one is primary.

use std::time::Duration;

use cfs_rpc::v1::append_response::Kind as Response;
use rustix::process::Signal;

use crate::cluster::unix_ms;
use crate::crashes::random_pause;
use crate::harness::{Cluster, is_long, limit_ms, quiet, rounds};
use crate::load::{Load, RATE};
use crate::producers::{Session, entry, socket};

/// Pauses the primary's site under load until well after its lease; returns the takeover's time in ms.
async fn a_paused_primary_wakes(cluster: &Cluster, round: usize, pause: Duration) -> u64 {
    let (old, epoch) = cluster.primary_and_epoch();
    let other = cluster.other(&old);
    if round.is_multiple_of(2) {
        cluster.lead(&old, 60);
    }
    let mut load = Load::start(cluster, &other, "local", RATE);
    // One of the old primary's own producers, which never heard of another one.
    let (mut session, hello) = Session::hello(&socket(cluster, &old), &format!("sleeper-{round}"), "local").await;
    let first = hello.highest_seq + 1;
    session.append(epoch, first, vec![entry(first)]).await;
    session.acked(first).await;
    random_pause(1000);

    let paused = cluster.signal(&old, Signal::STOP);
    let new = load.until_after(cluster, epoch);
    let took = new.first_ms.saturating_sub(paused);
    eprintln!("round {round}: {old} paused, {} took over after {took} ms", new.site);
    assert_eq!((&new.site, new.epoch), (&other, epoch + 1), "{}", cluster.logs());
    assert!(took < limit_ms(3000), "the takeover took {took} ms\n{}", cluster.logs());
    tokio::time::sleep(pause.saturating_sub(Duration::from_millis(unix_ms().saturating_sub(paused)))).await;
    // It finds this in its socket when it wakes.
    session.append(epoch, first + 1, vec![entry(first + 1)]).await;
    cluster.signal(&old, Signal::CONT);
    loop {
        match session.answer().await {
            // What it had taken before it fell asleep.
            Ok(Some(Response::Ack(ack))) => {
                assert!(ack.through_seq <= first, "it acknowledged after it woke: {ack:?}\n{}", cluster.logs());
            }
            Ok(Some(Response::Refusal(_))) | Ok(None) | Err(_) => break,
            Ok(Some(Response::Hello(_))) => panic!("a second hello"),
        }
    }
    load.until_more(cluster);
    let outcome = load.finish();
    assert!(outcome.of_epoch(epoch).last_ms <= new.first_ms, "{:?}", outcome.tenures());
    cluster.converge();
    cluster.wait_ready();
    cluster.expect_nothing_missing(&outcome);
    cluster.expect_one_primary_per_epoch("site-w", outcome.tenures());
    assert_eq!(cluster.primary_and_epoch(), (other, epoch + 1));
    took
}

fn paused(rounds: usize, pause: Duration) {
    let _alone = quiet();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let cluster = Cluster::up_with_witness();
    let a_round = |round| runtime.block_on(a_paused_primary_wakes(&cluster, round, pause));
    let mut took: Vec<u64> = (0..rounds).map(a_round).collect();
    took.sort_unstable();
    eprintln!("{rounds} pauses: takeover median {} ms, all: {took:?}", took[took.len() / 2]);
}

/// Invariants 1 and 2: a paused primary is replaced, and acknowledges nothing after it wakes, to whomever.
#[test]
fn a_paused_primary_acknowledges_nothing_after_it_wakes() {
    paused(rounds(1).min(2), Duration::from_secs(if is_long() { 10 } else { 5 }));
}

#[test]
#[ignore = "campaign: each pause takes ten seconds"]
fn campaign_pause() {
    paused(rounds(20), Duration::from_secs(10));
}
