//! Sites are stopped and started again by operators: the role moves before its holder ends.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, eventually, limit_ms, quiet};
use crate::load::{Load, RATE};

/// How long the end of a process may take that has nothing to hand over.
const PROMPT_MS: u64 = 3_000;
/// Longest time between two acknowledged appends while sites are restarted one after another.
const MAX_GAP_MS: u64 = 1_000;

fn prompt() -> Duration {
    Duration::from_millis(limit_ms(PROMPT_MS))
}

/// The runbook's loop: every site is restarted, 2 s apart, under load. Invariants 1, 4 and 8.
#[test]
fn restarting_all_sites_two_seconds_apart_fails_no_append() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let (first, epoch) = cluster.primary_and_epoch();
    let load = Load::start(&cluster, &first, "local", RATE);
    for site in ["site-a", "site-b", "site-w"] {
        cluster.dev(&["restart", site]).ok();
        std::thread::sleep(Duration::from_secs(2));
        let status = cluster.admin(site, &["status"]);
        assert!(status.out.starts_with(&format!("Site: {site} (LOCAL)")), "{status:?}");
    }
    let outcome = load.finish();
    let gap = outcome.longest_gap_ms();
    eprintln!("longest gap {gap:.0} ms; {:?}", outcome.tenures());
    assert!(gap < limit_ms(MAX_GAP_MS) as f64, "nothing was acknowledged for {gap} ms\n{}", cluster.logs());
    // Site-a handed over to site-b, and site-b to site-a: as planned, each time.
    assert_eq!(cluster.primary_and_epoch(), (first.clone(), epoch + 2), "{}", cluster.logs());
    let moves: Vec<_> = cluster.changes(&first).into_iter().filter(|change| change["kind"] == "switchover").collect();
    assert_eq!(moves.len(), 2, "{moves:#?}");
    let log = cluster.control_log("site-a");
    assert!(log.contains("the primary's role was handed over") && log.contains("site=site-b"), "{log}");
    cluster.wait_ready();
    cluster.converge();
    cluster.expect_nothing_missing(&outcome);
    cluster.expect_one_primary_per_epoch(&first, outcome.tenures());
}

/// Where there is nobody to hand over to, or nothing, an end is prompt; where somebody might come, it waits for them.
#[test]
fn a_stop_waits_only_for_somebody_who_can_take_over() {
    let _alone = quiet();
    let cluster = Cluster::up_with_witness();
    let primary = cluster.primary();
    let replica = cluster.other(&primary);

    let began = Instant::now();
    cluster.dev(&["stop", &replica]).ok();
    assert!(began.elapsed() < prompt(), "the end of a replica took {:?}", began.elapsed());

    // The primary waits for the replica, which comes back while it does.
    let began = Instant::now();
    cluster.signal_part(&primary, "control", Signal::TERM);
    std::thread::sleep(Duration::from_secs(1));
    assert!(cluster.control_log(&primary).contains("waiting for a site that can take over"), "{}", cluster.logs());
    assert_eq!(cluster.status(&primary)["role"], "PRIMARY", "it goes on while it waits");
    cluster.start(&replica);
    eventually("the replica takes over", PATIENCE, || {
        let said = cluster.admin(&replica, &["status"]);
        if said.out.contains("Role: PRIMARY") { Ok(()) } else { Err(cluster.logs()) }
    });
    // A second request would end it at once.
    eventually("the end of the handover", PATIENCE, || {
        let log = cluster.control_log(&primary);
        let told = log.contains(&format!("the primary's role was handed over site={replica}"));
        if told { Ok(()) } else { Err(log) }
    });
    eprintln!("handed over after {:?}", began.elapsed());
    cluster.dev(&["stop", &primary]).ok();

    // Nobody comes: its time ends, and it says why. Asked a second time, or told to end now, it does not wait.
    let alone = replica;
    cluster.configure(&alone, "[control]\nhandover_ms = 2000\n");
    cluster.dev(&["restart", "--now", &alone]).ok();
    let status = cluster.wait_status(&alone, "READY", PATIENCE);
    assert_eq!(status["role"], "PRIMARY", "{status:#}");
    let began = Instant::now();
    cluster.dev(&["stop", &alone]).ok();
    assert!(began.elapsed() >= Duration::from_secs(2), "it waited for {:?} only", began.elapsed());
    let log = cluster.control_log(&alone);
    assert!(log.contains("nobody took over the primary's role") && log.contains(&primary), "{log}");
}

/// A cluster of one site has nobody to wait for.
#[test]
fn a_sole_site_stops_promptly() {
    let cluster = Cluster::up_with("site-a");
    let began = Instant::now();
    cluster.dev(&["stop", "site-a"]).ok();
    assert!(began.elapsed() < prompt(), "it took {:?}", began.elapsed());
    let log = cluster.control_log("site-a");
    assert!(log.contains("no other site stores data"), "{log}");
}

/// What `ExecReload=` of the units runs: it returns when the daemon has read its file, says what came of it, and fails where a
/// file is not usable. `settings.rs` has what is taken over.
#[test]
fn a_reload_returns_when_the_daemon_has_read() {
    let cluster = Cluster::up_with("site-a");
    let reload = |part: &str| {
        let key = if part == "control" { "control_pid" } else { "pid" };
        let pid = cluster.layout("site-a")[key].to_string();
        cluster.at("site-a", &["__service", "reload", part, &pid])
    };
    for part in ["control", "shipper"] {
        let said = reload(part);
        assert!(said.code == 0 && said.err.contains("nothing in the configuration has changed"), "{part}: {said:?}");
    }
    cluster.configure("site-a", "[control]\nhook_timeout_ms = 4000\ngroup = \"nobody\"\n[store]\nmap = \"2TiB\"\n");
    let said = reload("control");
    assert!(said.code == 0 && said.err.contains("control.hook_timeout_ms = \"4000\" is in force"), "{said:?}");
    assert!(
        said.err.contains("control.group = \"nobody\" takes effect after a restart of claudefs-control"),
        "{said:?}"
    );
    let said = reload("shipper");
    assert!(
        said.code == 0 && said.err.contains("store.map = \"2TiB\" takes effect after a restart of claudefs-shipper"),
        "{said:?}"
    );
    // A broken file: which daemon runs is looked up before, since whoever looks reads the file too.
    let pid = cluster.layout("site-a")["pid"].to_string();
    cluster.configure("site-a", "nonsense = 1\n");
    let config = cluster.path("site-a", "repl.toml");
    let sound = std::fs::read_to_string(&config).expect("a configuration").replace("nonsense = 1\n", "");
    cluster.signal_part("site-a", "shipper", Signal::HUP);
    eventually("the refusal", PATIENCE, || {
        if cluster.log("site-a").contains("the configuration on disk cannot be used") {
            Ok(())
        } else {
            Err(cluster.logs())
        }
    });
    std::fs::write(config, sound).expect("written");
    assert_eq!(cluster.status("site-a")["role"], "PRIMARY");
    assert_eq!(cluster.layout("site-a")["pid"].to_string(), pid, "it goes on");
}
