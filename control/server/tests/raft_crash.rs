//! Invariant 6 for log, vote and state: a process that writes as the Raft library does is killed with SIGKILL at many
//! moments; what it had been told is on disk is there, and nothing has gone back.
//!
//! The process is this very test program, started again with a variable that says so.

#![allow(clippy::expect_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use cfs_control::raft::files::{self, Owner};
use cfs_control::raft::log_store::LogStore;
use cfs_control::raft::state_machine::StateMachine;
use cfs_control::raft::types::{Entry, LogId, Vote};
use cfs_control_core::command::{Command, Founding, Kind};
use cfs_control_core::state::{Settings, Site};
use cfs_model::{ClusterId, Level, SiteId, SiteName};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};

const WRITER: &str = "CFS_TEST_RAFT_WRITER";

fn owner() -> Owner {
    Owner {
        cluster: ClusterId([1; 16]),
        site: SiteName::new("site-a").expect("a name"),
        site_id: SiteId(1),
        level: Level::THIS,
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Entry 1 founds; each later one notes its index.
fn entry(term: u64, index: u64) -> Entry {
    let kind = if index == 1 {
        let site = Site {
            id: SiteId(1),
            name: owner().site,
            witness: false,
            node: 1,
            peer: String::new(),
            producer: String::new(),
            control: String::new(),
            http: String::new(),
            priority: 0,
        };
        let cluster = owner().cluster;
        Kind::Found(Box::new(Founding {
            cluster,
            group: 1,
            site,
            settings: Settings::default(),
            level: Level::THIS,
            parent: None,
        }))
    } else {
        Kind::Note { what: "test".into(), site: SiteId(0), text: index.to_string(), evidence: "x".repeat(200) }
    };
    let command = Command { at_ms: index, by: "test".into(), kind };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

fn say(what: &str, term: u64, index: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {what} {term} {index}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Goes on where the directory stands: votes, appends, cuts a tail off, applies, makes snapshots, purges.
async fn write_on(control: &Path) {
    let dir = match files::open(control, &owner()).expect("sound after every crash") {
        Some(dir) => dir,
        None => {
            // A crash between the two steps leaves a directory that nobody uses.
            let _ = std::fs::remove_dir_all(control.join(format!("{:016x}-1", 1)));
            let dir = files::create(control, &owner(), 1, 1).expect("created");
            files::take_into_use(control, &dir).expect("in use");
            dir
        }
    };
    let mut log = LogStore::new(dir.disk().clone());
    let mut machine = StateMachine::open(dir.disk().clone(), Level::THIS).await.expect("opened");
    let mut term = log.read_vote().await.expect("read").map_or(0, |vote| vote.leader_id().term);
    let mut next = log.get_log_state().await.expect("read").last_log_id.map_or(1, |last| last.index + 1);
    loop {
        term += 1;
        log.save_vote(&Vote::new_committed(term, 1)).await.expect("saved");
        say("vote", term, 0);
        for _ in 0..4 {
            // A tail that never was committed is replaced by another.
            log.blocking_append([entry(term, next), entry(term, next + 1), entry(term, next + 2)])
                .await
                .expect("appended");
            log.truncate(log_id(term, next + 2)).await.expect("cut off");
            say("append", term, next + 1);
            next += 2;
            let (applied, _) = machine.applied_state().await.expect("read");
            let from = applied.map_or(1, |applied| applied.index + 1);
            let entries = log.try_get_log_entries(from..next).await.expect("read");
            machine.apply(entries).await.expect("applied");
            say("apply", term, next - 1);
        }
        let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.expect("built");
        let at = snapshot.meta.last_log_id.expect("something").index;
        say("snapshot", term, at);
        let purged = log.get_log_state().await.expect("read").last_purged_log_id.map_or(0, |id| id.index);
        if at > purged + 20 {
            let upto = log.try_get_log_entries(at - 10..=at - 10).await.expect("read")[0].log_id;
            log.purge(upto).await.expect("purged");
            say("purge", term, upto.index);
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Acked {
    vote: u64,
    append: u64,
    apply: u64,
    snapshot: u64,
    purge: u64,
}

async fn check(control: &Path, acked: Acked) {
    let Some(dir) = files::open(control, &owner()).expect("sound") else {
        assert_eq!(acked.vote, 0, "the directory was in use");
        return;
    };
    let mut log = LogStore::new(dir.disk().clone());
    let mut machine = StateMachine::open(dir.disk().clone(), Level::THIS).await.expect("opened");
    let vote = log.read_vote().await.expect("read").map_or(0, |vote| vote.leader_id().term);
    assert!(vote >= acked.vote, "vote {vote} < {}", acked.vote);
    let state = log.get_log_state().await.expect("read");
    let (purged, last) =
        (state.last_purged_log_id.map_or(0, |id| id.index), state.last_log_id.map_or(0, |id| id.index));
    assert!(purged >= acked.purge && last >= acked.append, "purged {purged}, last {last}, acknowledged {acked:?}");
    let entries = log.try_get_log_entries(purged + 1..=last).await.expect("read");
    let indices: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indices, (purged + 1..=last).collect::<Vec<_>>(), "no holes");
    let applied = machine.applied_state().await.expect("read").0.map_or(0, |id| id.index);
    assert!(
        applied >= acked.apply && applied <= last && applied >= purged,
        "applied {applied}, acknowledged {acked:?}"
    );
    // The state is what applying exactly these entries gives.
    let state = machine.subscribe().borrow().state.clone();
    let notes: Vec<u64> =
        state.events.iter().filter(|event| event.what == "test").filter_map(|event| event.text.parse().ok()).collect();
    assert_eq!(notes.last().copied().unwrap_or(0).max(u64::from(applied > 0)), applied, "state and place agree");
    assert!(notes.windows(2).all(|pair| pair[1] == pair[0] + 1), "each entry once");
    let snapshot = machine.get_current_snapshot().await.expect("read");
    let at = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map_or(0, |id| id.index);
    assert!(at >= acked.snapshot && at >= purged && at <= applied, "snapshot {at}, acknowledged {acked:?}");
    if let Some(snapshot) = snapshot {
        let state: cfs_control_core::State = serde_json::from_slice(&snapshot.snapshot).expect("a state");
        assert_eq!(state.events.back().and_then(|event| event.text.parse().ok()), Some(at), "state and meta agree");
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_goes_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Some(control) = std::env::var_os(WRITER) {
        runtime.block_on(write_on(Path::new(&control)));
    }
    let control = tempfile::tempdir().expect("a directory");
    let mut acked = Acked::default();
    // Kills at every one of the first named steps, then at moments in between.
    for round in 0..60_u32 {
        let mut writer = Process::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "nothing_acknowledged_is_lost_and_nothing_goes_back", "--nocapture"])
            .env(WRITER, control.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
        let mut left = 1 + round % 30;
        let mut killed = false;
        for line in lines {
            let Ok(line) = line else { break };
            let Some(ack) = line.find("ACK ").map(|at| &line[at + 4..]) else { continue };
            let parts: Vec<&str> = ack.split(' ').collect();
            let number = |at: usize| parts.get(at).and_then(|part| part.parse::<u64>().ok()).expect("a number");
            match parts[0] {
                "vote" => acked.vote = acked.vote.max(number(1)),
                "append" => acked.append = acked.append.max(number(2)),
                "apply" => acked.apply = acked.apply.max(number(2)),
                "snapshot" => acked.snapshot = acked.snapshot.max(number(2)),
                "purge" => acked.purge = acked.purge.max(number(2)),
                other => panic!("{other}"),
            }
            left = left.saturating_sub(1);
            if left == 0 && !killed {
                std::thread::sleep(Duration::from_micros(u64::from(round * 791 % 12_000)));
                writer.kill().expect("killed");
                killed = true;
            }
        }
        writer.wait().expect("gone");
        assert!(killed, "the writer ended by itself in round {round}");
        runtime.block_on(check(control.path(), acked));
    }
    println!("{acked:?}");
    assert!(acked.purge > 0 && acked.snapshot > 0, "the rounds went as far as that: {acked:?}");
}
