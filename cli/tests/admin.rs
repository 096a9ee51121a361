//! The operator's commands against a control process that answers by a script: what is asked, printed and exited with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod fake;

use std::time::{Duration, Instant};

use cfs_rpc::v1::admin_reply::Kind as Reply;
use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{
    Blocker, Change, Done, Failed, FailoverPlan, FailoverRequest, HistoryAnswer, LeaseStatus, Phase, Progress, Side,
    SiteStatus, SplitBrainAnswer, StatusAnswer,
};

use fake::{Site, Step};

fn plan() -> FailoverPlan {
    FailoverPlan {
        from: "site-a".into(),
        to: "site-b".into(),
        kind: "switchover".into(),
        epoch_before: 3,
        epoch_after: 4,
        steps: vec!["site-a drains".into()],
        risk_known: true,
        predicted_gap_ms: 40,
        warnings: vec!["site-a may still accept writes".into()],
        ..FailoverPlan::default()
    }
}

fn say(reply: Reply) -> Step {
    Step::Say(Box::new(reply))
}

fn done() -> Step {
    let text = "site-b is primary".into();
    say(Reply::Done(Done { text, op: 7, epoch: 4, write_gap_ms: Some(31), ..Done::default() }))
}

fn progress() -> Step {
    let text = "site-a takes no more appends".into();
    say(Reply::Progress(Progress { phase: "draining".into(), text, op: 7, elapsed_ms: 12 }))
}

/// Plans, and once confirmed says `then`.
fn failover(plan: FailoverPlan, then: Vec<Step>) -> Site {
    Site::with(move |kind| match kind {
        Kind::Failover(request) if request.confirmed && !request.dry_run => then.clone(),
        Kind::Failover(_) => vec![say(Reply::Plan(plan.clone())), say(Reply::Done(Done::default()))],
        Kind::PlanRemoval(_) => vec![say(Reply::Done(Done::default()))],
        _ => Vec::new(),
    })
}

fn confirmed(site: &Site) -> Vec<FailoverRequest> {
    let requests = site.asked().into_iter().filter_map(|kind| match kind {
        Kind::Failover(request) if request.confirmed || !request.dry_run => Some(request),
        _ => None,
    });
    requests.collect()
}

#[test]
fn a_dry_run_only_plans() {
    let site = failover(plan(), vec![done()]);
    let (code, out, _) = site.run(&["failover", "--to", "site-b", "--dry-run"]);
    assert!(code == 0 && out.contains("Step 1: site-a drains\n") && out.contains("Answered by: site-w"), "{out}");
    let blocker = Blocker { code: "CFS-F002".into(), why: "it is down".into(), forceable: true, ..Blocker::default() };
    let blocked = failover(FailoverPlan { blockers: vec![blocker], ..plan() }, vec![done()]);
    let (code, out, _) = blocked.run(&["failover", "--to", "site-b", "--dry-run", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["blocked"], &json["unreachable"][0]), (1, &true.into(), &"site-c".into()));
    assert_eq!(blocked.run(&["failover", "--to", "site-b", "--dry-run", "--force"]).0, 0);
    let (code, out, err) = blocked.run(&["failover", "--to", "site-b", "--yes"]);
    assert!(
        code == 1 && out.is_empty() && err.starts_with("error [CFS-F002]: site-b was not made primary: it is down\n"),
        "{err}"
    );
    assert!(confirmed(&site).is_empty() && confirmed(&blocked).is_empty(), "something was ordered");
}

#[test]
fn without_a_terminal_the_flag_is_named_and_nothing_ordered() {
    let site = failover(plan(), vec![done()]);
    for args in [&["failover", "--to", "site-b"][..], &["failover", "--force", "--to", "site-b"]] {
        let (code, out, err) = site.run(args);
        assert!(code == 1 && out.is_empty() && err.contains("--yes"), "{err}");
        assert!(err.contains("site-a may still accept writes") && err.contains("epoch 4"), "{err}");
    }
    let (code, _, err) = site.run(&["remove", "site-b"]);
    assert!(code == 1 && err.contains("cfs admin replication remove site-b --yes"), "{err}");
    assert!(confirmed(&site).is_empty());
    assert!(!site.asked().iter().any(|kind| matches!(kind, Kind::Remove(_))));
}

#[test]
fn a_confirmed_failover_tells_progress_and_result() {
    let site = failover(plan(), vec![progress(), done()]);
    let args = ["failover", "--to", "site-b", "--yes", "--timeout", "1m", "--force", "--prefer", "site-a", "--alone"];
    let (code, out, err) = site.run(&args);
    assert_eq!(code, 0, "{err}");
    for line in
        ["site-b is primary", "Primary: site-b", "Epoch: 4", "Write gap: 31ms", "Operation: 7", "Answered by: site-w"]
    {
        assert!(out.lines().any(|l| l == line), "{line}: {out}");
    }
    assert!(err.contains("12ms draining: site-a takes no more appends"), "{err}");
    let request = confirmed(&site).pop().expect("it was ordered");
    assert_eq!((request.timeout_ms, request.force, request.alone, request.plan_epoch), (60_000, true, true, 3));
    assert_eq!((request.to.as_str(), request.prefer.as_str()), ("site-b", "site-a"));
    assert!(site.operator().contains('@'), "{}", site.operator());
}

#[test]
fn on_a_terminal_the_sites_name_has_to_be_typed() {
    let site = failover(plan(), vec![done()]);
    for typed in ["y\n", "site-a\n"] {
        let (code, out) = site.on_terminal("failover --to site-b", typed);
        assert!(
            code == 1 && out.contains("Type the site's name, site-b") && out.contains("nothing was changed"),
            "{out}"
        );
        assert!(confirmed(&site).is_empty(), "{typed:?} confirmed");
    }
    let (code, out) = site.on_terminal("failover --force --to site-b", "site-b\n");
    assert!(code == 0 && out.contains("site-a may still accept writes") && out.contains("Primary: site-b"), "{out}");
    assert_eq!(confirmed(&site).len(), 1);
}

#[test]
fn a_target_that_is_primary_already_is_no_error() {
    let site = failover(FailoverPlan { already: true, ..plan() }, vec![done()]);
    let (code, out, _) = site.run(&["failover", "--to", "site-b"]);
    assert!(code == 0 && out.starts_with("site-b is primary already"), "{out}");
    assert!(confirmed(&site).is_empty());
}

#[test]
fn refusals_say_what_why_and_what_next() {
    let failed = Failed {
        code: "CFS-F011".into(),
        what: "site-x was not made primary".into(),
        why: "there is no site of this name".into(),
        next: "cfs admin replication status".into(),
        ..Failed::default()
    };
    let timed_out = Failed { code: "CFS-F020".into(), what: "it takes longer".into(), op: 7, ..Failed::default() };
    let site = Site::with(move |kind| match kind {
        Kind::Failover(request) if request.to == "site-x" => vec![say(Reply::Failed(failed.clone()))],
        Kind::Failover(request) if request.confirmed => vec![progress(), say(Reply::Failed(timed_out.clone()))],
        Kind::Failover(_) => vec![say(Reply::Plan(plan()))],
        Kind::Enroll(_) => vec![say(Reply::Failed(Failed { usage: true, ..failed.clone() }))],
        Kind::Rejoin(_) => vec![Step::Break(tonic::Status::permission_denied("uid 1000"))],
        Kind::PlanRemoval(request) if request.site == "site-x" => vec![say(Reply::Failed(failed.clone()))],
        // A control process of an older version cannot tell beforehand.
        Kind::PlanRemoval(_) => vec![say(Reply::Failed(Failed { code: "UNKNOWN".into(), ..Failed::default() }))],
        Kind::Remove(_) => vec![progress(), Step::Break(tonic::Status::unavailable("gone"))],
        _ => Vec::new(),
    });
    let (code, out, err) = site.run(&["failover", "--to", "site-x", "--yes"]);
    let expected = "error [CFS-F011]: site-x was not made primary: there is no site of this name\n  next: cfs admin replication status\n";
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", expected));
    let (code, _, err) = site.run(&["failover", "--to", "site-b", "--yes"]);
    assert!(code == 1 && err.contains("`cfs admin replication history --follow 7`"), "{err}");
    assert_eq!(site.run(&["enroll", "--primary", "site-b"]).0, 2);
    let (code, _, err) = site.run(&["rejoin", "--primary", "site-b"]);
    assert!(code == 1 && err.contains("only root or the service's user may change; run it with sudo"), "{err}");
    // Nobody is asked about what cannot be.
    let (code, out) = site.on_terminal("remove site-x", "site-x\n");
    assert!(
        code == 1 && out.contains("there is no site of this name") && !out.contains("Type the site's name"),
        "{out}"
    );
    assert_eq!(site.run(&["remove", "site-x"]).2, expected);
    assert!(!site.asked().iter().any(|kind| matches!(kind, Kind::Remove(_))));
    // The connection ends, the operation does not.
    let (code, _, err) = site.run(&["remove", "site-b", "--yes"]);
    assert!(code == 1 && err.contains("operation 7 goes on") && err.contains("history --follow 7"), "{err}");
}

#[test]
fn interrupted_it_says_how_to_follow() {
    let site = failover(plan(), vec![progress(), Step::Wait(Duration::from_secs(60)), done()]);
    let child = site.start(&["failover", "--to", "site-b", "--yes"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while confirmed(&site).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let (code, _, err) = fake::said(child.wait_with_output().expect("it ends"));
    assert!(code == 1 && err.contains("operation 7 goes on") && err.contains("history --follow 7"), "{err}");
}

#[test]
fn a_failover_that_never_ends_is_left_alone_after_its_time() {
    let site = failover(plan(), vec![progress(), Step::Wait(Duration::from_secs(60)), done()]);
    let began = Instant::now();
    let (code, out, err) = site.run(&["failover", "--to", "site-b", "--yes", "--timeout", "100ms"]);
    assert!(code == 1 && out.is_empty() && err.contains("history --follow 7"), "{err}");
    assert!(err.contains("no news"), "nothing was said meanwhile: {err}");
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
}

#[test]
fn enrolling_and_coming_back_say_what_was_done() {
    let site = Site::with(|kind| {
        let text = match kind {
            Kind::Enroll(request) => format!("enrolled at {} as witness: {}", request.primary, request.witness),
            Kind::Rejoin(request) => format!("rejoined {} by itself already", request.primary),
            Kind::Follow(request) => format!("operation {} is over", request.op),
            _ => return Vec::new(),
        };
        vec![say(Reply::Done(Done { text, nothing_to_do: true, ..Done::default() }))]
    });
    let (code, out, _) = site.run(&["enroll", "--primary", "site-b", "--witness"]);
    assert!(code == 0 && out.starts_with("enrolled at site-b as witness: true\n"), "{out}");
    let (code, out, _) = site.run(&["rejoin", "--primary", "site-b", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &json["schema"], &json["nothing_to_do"]), (0, &"cfs.change/1".into(), &true.into()));
    let (code, out, _) = site.run(&["history", "--follow", "9"]);
    assert!(code == 0 && out.starts_with("operation 9 is over\n"), "{out}");
}

#[test]
fn split_brain_and_history_are_shown() {
    let site = Site::with(|kind| match kind {
        Kind::SplitBrain(_) => {
            // A shipper that was started again, and one that has not said yet what it holds.
            let again = Side { site: "site-b".into(), written_ms: 1_700_000_000_123, ..Side::default() };
            let unshared_why = "its shipper has not said yet what it holds".into();
            let silent = Side { site: "site-c".into(), unshared_why, ..Side::default() };
            let witness = Side { site: "site-w".into(), witness: true, ..Side::default() };
            let side = Side {
                site: "site-a".into(),
                epoch: 3,
                last_acknowledged_ms: 1_700_000_000_123,
                unshared_entries: 5,
                unshared_known: true,
                fenced: true,
                ..Side::default()
            };
            let (state, next) = ("detected".into(), "cfs admin replication rejoin --primary site-b".into());
            let answer = SplitBrainAnswer {
                detected: true,
                state,
                sides: vec![side, again, silent, witness],
                next,
                fenced: true,
                ..SplitBrainAnswer::default()
            };
            vec![say(Reply::SplitBrain(answer))]
        }
        Kind::History(query) => {
            let phases = vec![Phase { name: "seal".into(), ms: 14 }, Phase { name: "open".into(), ms: 3 }];
            let change = Change { op: 4, kind: "failover".into(), to: "site-b".into(), phases, ..Change::default() };
            let changes = vec![change; query.limit.min(2) as usize];
            vec![say(Reply::History(HistoryAnswer { changes, ..HistoryAnswer::default() }))]
        }
        _ => Vec::new(),
    });
    let (code, out, _) = site.run(&["split-brain", "status"]);
    assert_eq!(code, 1);
    for part in [
        "Split-brain: detected\nfenced=true\n",
        "last acknowledged: 2023-11-14T22:13:20.123Z",
        "unshared entries: 5",
        "last acknowledged: not known, nothing since its shipper was started\n  last entry written: 2023-11-14T22:13:20.123Z\n",
        "unshared entries: not known: its shipper has not said yet what it holds",
        "fenced=false\n  stores no data\n",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (_, out, _) = site.run(&["split-brain", "status", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&json["split_brain"], &json["sides"][0]["unshared_entries"]), (&1.into(), &5.into()));
    let (code, out, _) = site.run(&["history", "--limit", "1"]);
    assert!(code == 0 && out.contains("seal 14ms, open 3ms"), "{out}");
    let (_, out, _) = site.run(&["history", "--limit", "1", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["changes"].as_array().map(Vec::len), Some(1), "{out}");
}

fn status() -> StatusAnswer {
    let here = SiteStatus {
        site: "site-a".into(),
        state: "NO_SHIPPER".into(),
        role: "PRIMARY".into(),
        enrolled: true,
        ..SiteStatus::default()
    };
    StatusAnswer {
        here: Some(here),
        primary: "site-a".into(),
        epoch: 3,
        quorum: "ok".into(),
        lease: Some(LeaseStatus { held: false, left_ms: 0, lease_ms: 1000 }),
        ..StatusAnswer::default()
    }
}

#[test]
fn status_works_without_the_shipper_and_asks_all_sites_when_detailed() {
    let site = Site::with(|_| vec![say(Reply::Status(status()))]);
    let (code, out, _) = site.run(&["status", "--detailed"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("Site: site-a (LOCAL)\nStatus: NO_SHIPPER\nRole: PRIMARY\nLag: unknown\nPeers: none\n"),
        "{out}"
    );
    assert!(out.contains("claudefs-shipper does not answer") && out.contains("Unreachable: site-c\n"), "{out}");
    assert!(site.asked().iter().all(|kind| matches!(kind, Kind::Status(query) if query.all_sites)));
    assert_eq!(site.run(&["health"]).0, 2);
    assert!(site.asked().iter().any(|kind| matches!(kind, Kind::Status(query) if !query.all_sites)));
}

#[test]
fn a_control_process_that_hangs_is_not_waited_for() {
    let site = Site::with(|_| vec![Step::Wait(Duration::from_secs(60))]);
    for args in [&["status"][..], &["history"], &["failover", "--to", "site-b", "--dry-run"]] {
        let began = Instant::now();
        let (code, out, err) = site.run(args);
        assert!(code == 1 && out.is_empty() && err.contains("did not answer within"), "{err}");
        assert!(began.elapsed() < Duration::from_millis(3500), "{args:?} took {:?}", began.elapsed());
    }
}
