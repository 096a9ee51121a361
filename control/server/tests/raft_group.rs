//! Three nodes over real mTLS on loopback: elections, cuts, distance, moving leadership, strangers.

#![allow(clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "group/net.rs"]
mod net;
#[path = "group/site.rs"]
mod site;

use std::time::Duration;

use cfs_control::raft::Error;
use cfs_rpc::connect::{Connector, Dial};
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::net::RealNet;
use cfs_rpc::v1::control_client::ControlClient;
use cfs_rpc::v1::raft_request::Kind;
use cfs_rpc::v1::{Envelope, PreVoteRequest, RaftRequest, TakeOverRequest};
use site::{World, eventually, three};

const SECOND: Duration = Duration::from_secs(1);

fn leader(sites: &[site::Site]) -> Option<usize> {
    sites.iter().position(|site| site.node.has_quorum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_leader_is_replaced_at_once_and_nothing_committed_is_missing() {
    let world = World::new();
    let mut times = Vec::new();
    for round in 0..5 {
        let world = if round == 0 { &world } else { &World::new() };
        let mut sites = three(world).await;
        sites[0].propose("before").await.expect("committed");
        sites[0].read_index().await.expect("leads");
        tokio::time::sleep(Duration::from_millis(37 * round)).await;
        sites.remove(0).kill();
        let took = eventually("another leads", 2 * SECOND, || leader(&sites).is_some()).await;
        times.push(took.as_millis());
        let leader = &sites[leader(&sites).expect("one")];
        leader.propose("after").await.expect("committed");
        assert!(leader.has("before") && leader.has("after"));
        assert_eq!(leader.node.leader_site().as_deref(), Some(leader.name.as_str()));
    }
    println!("kill to new leader with a quorum: {times:?} ms");
    times.sort_unstable();
    assert!(times[2] < 300, "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_returns() {
    let world = World::new();
    let sites = three(&world).await;
    sites[0].net.cut.send_replace(true);
    let took = eventually("another leads", 3 * SECOND, || leader(&sites[1..]).is_some()).await;
    println!("cut to new leader with a quorum: {} ms", took.as_millis());
    assert!(took < Duration::from_millis(1200), "{took:?}");
    let new = leader(&sites[1..]).expect("one") + 1;
    sites[new].propose("without it").await.expect("committed");
    assert!(sites[0].read_index().await.is_err(), "one that is cut off proves nothing");
    let term = sites[new].node.term();
    sites[0].net.cut.send_replace(false);
    let took = eventually("it follows", 5 * SECOND, || sites[0].has("without it")).await;
    println!("heal to caught up: {} ms", took.as_millis());
    assert!(!sites[0].node.is_leader());
    tokio::time::sleep(SECOND).await;
    assert_eq!((sites[new].node.term(), leader(&sites)), (term, Some(new)), "nobody was disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follower_that_was_cut_off_disturbs_nobody() {
    let world = World::new();
    let sites = three(&world).await;
    let term = sites[0].node.term();
    for _ in 0..2 {
        sites[1].net.cut.send_replace(true);
        tokio::time::sleep(2 * SECOND).await;
        assert!(sites[1].node.suspects_leader());
        sites[0].propose("meanwhile").await.expect("two of three");
        sites[1].net.cut.send_replace(false);
        eventually("it hears the leader", 5 * SECOND, || !sites[1].node.suspects_leader()).await;
    }
    sites[0].read_index().await.expect("still leads");
    assert!(sites.iter().all(|site| site.node.term() == term), "no term was spent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn at_a_distance_the_group_is_stable_and_commits() {
    let world = World::new();
    let sites = three(&world).await;
    let term = sites[0].node.term();
    for site in &sites {
        site.net.delay.send_replace(Duration::from_millis(75));
    }
    tokio::time::sleep(SECOND).await;
    for round in 0..10 {
        let began = std::time::Instant::now();
        sites[0].propose(&format!("far {round}")).await.expect("committed");
        assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
        sites[0].read_index().await.expect("leads");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(sites.iter().all(|site| site.node.term() == term && !site.node.suspects_leader()));
    // An election works too.
    let mut sites = sites;
    sites.remove(0).kill();
    let took = eventually("another leads", 5 * SECOND, || leader(&sites).is_some()).await;
    println!("kill to new leader at 150 ms round trips: {} ms", took.as_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leadership_moves_where_it_is_asked_to() {
    let world = World::new();
    let sites = three(&world).await;
    for round in 0..6 {
        let from = leader(&sites).expect("one");
        let to = (from + 1) % 3;
        let target = sites[to].name.clone();
        let began = std::time::Instant::now();
        sites[from].run(move |node| async move { node.move_leadership(&target).await }).await.expect("moved");
        eventually("the target leads", SECOND, || leader(&sites) == Some(to)).await;
        println!("leadership moved in {} ms", began.elapsed().as_millis());
        sites[to].propose(&format!("round {round}")).await.expect("committed");
    }
    let refused = sites[1].run(|node| async move { node.move_leadership("site-3").await }).await;
    assert!(matches!(refused, Err(Error::NotLeader { .. })), "{refused:?}");
    let lead = leader(&sites).expect("one");
    let refused = sites[lead].run(|node| async move { node.move_leadership("site-9").await }).await;
    assert!(matches!(refused, Err(Error::CannotMove { .. })), "{refused:?}");
    sites[lead].propose("goes on").await.expect("proposals are not held any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_of_one_restarts_as_leader_and_grows() {
    let world = World::new();
    let site = world.start(1, 1);
    site.found().await;
    site.propose("first").await.expect("committed");
    let addr = site.addr.clone();
    site.stop().await;
    let site = world.restart(1, &addr);
    eventually("it leads again", 2 * SECOND, || site.node.has_quorum()).await;
    site.read_index().await.expect("leads");
    assert!(site.has("first"));
    site.found().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_learner_that_is_far_behind_gets_a_snapshot() {
    let world = World::new();
    let first = world.start(1, 1);
    first.found().await;
    for number in 0..1100 {
        first.propose(&format!("entry {number}")).await.expect("committed");
    }
    assert!(first.node.metrics().purged.is_some(), "the log is cut");
    let second = world.start(2, 2);
    let enrol = site::command(cfs_control_core::Kind::Enrol { site: second.enrolled() });
    first.run(move |node| async move { node.propose(enrol).await }).await.expect("enrolled");
    first.settle().await;
    eventually("it has everything", 10 * SECOND, || second.has("entry 1099")).await;
    assert!(second.node.metrics().snapshot.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_only_vote_of_two_sites_moves_and_leadership_with_it() {
    let world = World::new();
    let sites = [world.start(1, 1), world.start(2, 2)];
    sites[0].found().await;
    let enrol = site::command(cfs_control_core::Kind::Enrol { site: sites[1].enrolled() });
    sites[0].run(move |node| async move { node.propose(enrol).await }).await.expect("enrolled");
    sites[0].settle().await;
    let voters = |site: &site::Site| -> Vec<u64> { site.node.metrics().membership_config.voter_ids().collect() };
    assert_eq!(voters(&sites[0]), [1]);
    for to in [1, 0, 1] {
        let id = cfs_model::SiteId(sites[to].number);
        let order = site::command(cfs_control_core::Kind::MoveVote { to: id, timeout_ms: 1000 });
        let lead = leader(&sites).expect("one");
        sites[lead].run(move |node| async move { node.propose(order).await }).await.expect("committed");
        let until = std::time::Instant::now() + 10 * SECOND;
        while voters(&sites[to]) != [sites[to].node.id()] || leader(&sites) != Some(to) {
            assert!(std::time::Instant::now() < until, "{:?}", voters(&sites[to]));
            for site in &sites {
                let _ = site.run(|node| async move { node.reconcile_members().await }).await;
            }
        }
        sites[to].propose("goes on").await.expect("committed by itself alone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_leader_that_restarts_late_follows() {
    let world = World::new();
    let mut sites = three(&world).await;
    sites[0].propose("old").await.expect("committed");
    let old = sites.remove(0);
    let addr = old.addr.clone();
    old.stop().await;
    eventually("another leads", 3 * SECOND, || leader(&sites).is_some()).await;
    let lead = leader(&sites).expect("one");
    sites[lead].propose("new").await.expect("committed");
    let term = sites[lead].node.term();
    let old = world.restart(1, &addr);
    let took = eventually("it has caught up", 3 * SECOND, || old.has("new")).await;
    println!("restart to caught up: {} ms", took.as_millis());
    tokio::time::sleep(SECOND).await;
    assert!(!old.node.is_leader() && sites[lead].node.has_quorum());
    assert_eq!((old.node.term(), sites[lead].node.term()), (term, term));
    assert!(matches!(old.read_index().await, Err(Error::NotLeader { leader: Some(site) }) if site == sites[lead].name));
}

/// Processor time of this process so far, in milliseconds.
fn busy_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("there");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idling_costs_next_to_nothing() {
    let world = World::new();
    let _sites = three(&world).await;
    tokio::time::sleep(SECOND).await;
    let before = busy_ms();
    tokio::time::sleep(10 * SECOND).await;
    let busy = busy_ms() - before;
    println!("three idle nodes took {busy} ms of processor time in 10 s");
    // Not optimised, and other tests may run beside this one.
    assert!(busy < 3000, "{busy}");
}

/// A request for votes in a high term, which would end the leader's if it reached the library.
fn vote_request(envelope: Envelope, candidate: u64) -> RaftRequest {
    let body = format!(
        r#"{{"vote":{{"leader_id":{{"term":99,"node_id":{candidate}}},"committed":false}},
        "last_log_id":{{"leader_id":{{"term":99,"node_id":{candidate}}},"index":99999}}}}"#
    );
    RaftRequest { envelope: Some(envelope), kind: Kind::Vote.into(), body: body.into(), snapshot: Vec::new().into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_does_not_belong_here_never_reaches_the_library() {
    let world = World::new();
    let sites = three(&world).await;
    let term = sites[0].node.term();
    let (cluster, this) = (site::CLUSTER.to_string(), cfs_model::Level::THIS.0);
    // The next version works with this one, the one after it does not.
    let (level, oldest_level) = (this + 1, this);
    let good = Envelope { cluster, group: site::GROUP, from_node: 2, to_node: 1, level, oldest_level };
    let other_cluster = Envelope { cluster: cfs_model::ClusterId([9; 16]).to_string(), ..good.clone() };
    let cases = [
        ("another cluster", "site-2", Role::Control, other_cluster, 2),
        ("is not ours", "site-2", Role::Control, Envelope { group: 7, ..good.clone() }, 2),
        ("upgrade this site first", "site-2", Role::Control, Envelope { oldest_level: this + 1, ..good.clone() }, 2),
        ("this is node 1", "site-2", Role::Control, Envelope { to_node: 3, ..good.clone() }, 2),
        ("belongs to site-3", "site-2", Role::Control, Envelope { from_node: 3, ..good.clone() }, 3),
        ("belongs to site-2", "site-9", Role::Control, good.clone(), 2),
        ("not a member any more", "site-2", Role::Control, Envelope { from_node: 0, ..good.clone() }, 0),
        ("may not take part", "site-2", Role::Shipper, good.clone(), 2),
        ("may not take part", "site-2", Role::Operator, good.clone(), 2),
        ("speaks for itself", "site-2", Role::Control, good.clone(), 3),
    ];
    let expected = Identity {
        cluster: site::CLUSTER,
        site: cfs_model::SiteName::new("site-1").expect("a name"),
        role: Role::Control,
    };
    for (what, caller, role, envelope, candidate) in cases {
        let connector = Connector::new(RealNet::shared(), world.tls(caller, role));
        let channel = connector.dial(&sites[0].addr, &expected).await.expect("connected");
        let mut client = ControlClient::new(channel);
        let refused = client.raft(vote_request(envelope.clone(), candidate)).await.expect_err(what);
        assert!(refused.message().contains(what), "{what}: {}", refused.message());
        if candidate != envelope.from_node {
            continue;
        }
        let envelope = Some(envelope);
        let question = PreVoteRequest { envelope: envelope.clone(), term: 99, last_log_term: 99, ..Default::default() };
        assert!(client.pre_vote(question).await.is_err(), "{what}");
        let order = TakeOverRequest { envelope, term, last_log_index: 0 };
        assert!(client.take_over(order).await.is_err(), "{what}");
    }
    let connector = Connector::new(RealNet::shared(), world.tls("site-2", Role::Control));
    let mut client = ControlClient::new(connector.dial(&sites[0].addr, &expected).await.expect("connected"));
    for body in ["", "{}", "[1]"] {
        let request = RaftRequest { body: body.as_bytes().into(), ..vote_request(good.clone(), 2) };
        assert!(client.raft(request).await.is_err(), "{body}");
    }
    // Whoever hears a leader promises nothing, and takes over from nobody but the leader.
    let envelope = Some(good.clone());
    let question = PreVoteRequest { envelope: envelope.clone(), term: 99, last_log_term: 99, ..Default::default() };
    let reply = client.pre_vote(question).await.expect("answered").into_inner();
    assert!(!reply.granted && reply.why.contains("leads itself"), "{reply:?}");
    let order = TakeOverRequest { envelope, term, last_log_index: 0 };
    assert!(!client.take_over(order).await.expect("answered").into_inner().accepted);
    sites[0].read_index().await.expect("leads");
    assert_eq!(sites[0].node.term(), term);
    // The same vote from its rightful sender does what it must.
    client.raft(vote_request(good, 2)).await.expect("taken");
    eventually("its term counts", Duration::from_secs(2), || sites[0].node.term() >= 99).await;
}
