//! What an operator is told while two sides act for one cluster, and what a choice between them costs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::audit::{AFTER as FORCED, BASE, UNSHIPPED as DARK};
use crate::harness::{Cluster, PATIENCE, eventually};

/// A control process asks every other one within this.
const ASKED_AGAIN: Duration = Duration::from_secs(5);
/// What one side writes after the other one was forced, in turn.
const FORCED_BACK: &str = r#"{"set_attr":{"inode":7,"mode":256}}
"#;

fn report(cluster: &Cluster, site: &str) -> Value {
    let said = cluster.admin(site, &["split-brain", "status", "-o", "json"]);
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

fn side<'a>(report: &'a Value, site: &str) -> &'a Value {
    let sides = report["sides"].as_array().expect("sides");
    sides.iter().find(|side| side["site"] == site).unwrap_or_else(|| panic!("no {site}: {report:#}"))
}

/// How many entries of its own streams a site has that the other one lacks, by the positions that `status` tells.
fn alone(status: &Value, site: &str, other: &str) -> u64 {
    let sites = status["sites"].as_array().expect("sites");
    let of = |name: &str| sites.iter().find(|s| s["site"] == name).unwrap_or_else(|| panic!("no {name}: {status:#}"));
    let durable = |name: &str, stream: &Value| {
        let positions = of(name)["positions"].as_array().cloned().unwrap_or_default();
        positions.iter().find(|p| p["stream"] == *stream).and_then(|p| p["durable"].as_u64()).unwrap_or(0)
    };
    let own = of(site)["positions"].as_array().cloned().unwrap_or_default();
    let mine =
        own.iter().filter(|p| p["stream"].as_str().is_some_and(|s| s.starts_with(&format!("{}.", of(site)["id"]))));
    mine.map(|p| durable(site, &p["stream"]).saturating_sub(durable(other, &p["stream"]))).sum()
}

/// By the word of every site each side has alone what the positions of both say, and no more than it wrote.
fn expect_unshared(cluster: &Cluster, written: [(&str, u64); 2]) {
    for at in ["site-a", "site-b"] {
        eventually("what each side has alone to be known", PATIENCE, || {
            let report = report(cluster, at);
            let status = cluster.admin(at, &["status", "--detailed", "-o", "json"]).json();
            let [(a, _), (b, _)] = written;
            let known = [(written[0], b), (written[1], a)].into_iter().all(|((site, most), other)| {
                let unshared = side(&report, site)["unshared_entries"].as_u64();
                unshared.is_some_and(|unshared| unshared <= most && unshared == alone(&status, site, other))
            });
            if known { Ok(()) } else { Err(format!("{at}: {report:#}\n{status:#}\n{}", cluster.logs())) }
        });
    }
}

fn planned(cluster: &Cluster, site: &str) -> Value {
    cluster.admin(site, &["failover", "--force", "--to", site, "--dry-run", "-o", "json"]).json()
}

/// The registers that would lose, as (path, register).
fn losing(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let registers = plan["losing"].as_array().expect("registers");
    registers.iter().map(|register| (text(&register["path"]), text(&register["register"]))).collect()
}

fn force(cluster: &Cluster, site: &str, more: &[&str]) {
    let words = [&["failover", "--force", "--to", site, "--yes"], more].concat();
    let said = cluster.admin(site, &words);
    assert_eq!(said.code, 0, "{said:?}\n{}", cluster.logs());
}

/// Nobody has asked for metrics before this. That there was a split shows for five minutes all the same, also once every
/// control process has heard that the others have come back, which it would then know nothing of.
fn a_split_shows_though_nobody_scraped_it(cluster: &Cluster) {
    let asked = Instant::now();
    eventually("every control process to have asked the others again", PATIENCE, || {
        let detected = ["site-a", "site-b"].map(|site| report(cluster, site)["detected"] == true);
        if detected == [false, false] && asked.elapsed() > ASKED_AGAIN { Ok(()) } else { Err(format!("{detected:?}")) }
    });
    for site in ["site-a", "site-b"] {
        assert_eq!(cluster.split_brain_metric(site), 1.0, "{site} shows what was only while nobody looked");
    }
}

/// Invariants 4 and 7, and what is said of them: the primary is lost with entries that nobody else has, the other site is
/// forced, then the first one in turn, then the other one again with `--prefer`. What each side has alone and which of its
/// values would lose is told exactly at each step, and nothing is discarded.
#[test]
fn what_each_side_has_alone_and_what_would_lose_is_told_exactly() {
    let cluster = Cluster::up();
    cluster.wait_ready();
    cluster.append_ops("site-a", BASE);
    cluster.converge();
    eventually("site-b to know when site-a acknowledged", PATIENCE, || {
        let report = report(&cluster, "site-b");
        let at = &side(&report, "site-a")["last_acknowledged_ms"];
        if at.is_null() { Err(format!("{report:#}")) } else { Ok(()) }
    });
    cluster.partition("site-a", "site-b");
    cluster.append_ops("site-a", DARK);
    cluster.kill_at_once("site-a");
    let plan = planned(&cluster, "site-b");
    assert_eq!((&plan["from"], &plan["at_least"]["entries"]), (&"site-a".into(), &0.into()), "as last heard: {plan:#}");
    assert!(plan["entries_at_risk"].is_null() && plan["at_least"]["age_ms"].is_u64(), "it wrote more since: {plan:#}");
    assert!(plan["predicted_gap_ms"].as_u64().is_some_and(|ms| ms > 0), "{plan:#}");
    let warned =
        plan["warnings"].as_array().expect("warnings").iter().any(|warning| {
            warning.as_str().is_some_and(|text| text.contains("what site-a holds is as it was last heard"))
        });
    assert!(warned, "{plan:#}");

    force(&cluster, "site-b", &[]);
    let alone = report(&cluster, "site-b");
    assert_eq!(side(&alone, "site-b")["unshared_entries"], 0, "site-a holds all of it: {alone:#}");
    assert!(side(&alone, "site-a")["last_acknowledged_ms"].is_i64(), "it was known before: {alone:#}");
    cluster.append_ops("site-b", FORCED);
    eventually("the entries of site-b to be counted", PATIENCE, || {
        let report = report(&cluster, "site-b");
        if side(&report, "site-b")["unshared_entries"] == 2 { Ok(()) } else { Err(format!("{report:#}")) }
    });

    // Not before: what the dead site had sent may still be on the link. It does not become ready.
    cluster.heal();
    let _ = cluster.dev(&["start", "site-a"]);
    cluster.wait_status("site-a", "FENCED", PATIENCE);
    expect_unshared(&cluster, [("site-a", 3), ("site-b", 2)]);
    for site in ["site-a", "site-b"] {
        let report = report(&cluster, site);
        assert!(side(&report, "site-a")["written_ms"].is_i64(), "{report:#}");
    }
    let met = report(&cluster, "site-b");
    let old = side(&met, "site-a");
    assert!(old["last_acknowledged_ms"].is_i64(), "it is remembered: {met:#}");
    assert_eq!(old["acknowledged_later"], true, "it wrote after its last word: {met:#}");
    let refused = cluster.admin("site-b", &["failover", "--to", "site-a", "--yes"]).failed();
    assert!(refused.contains("site-a is fenced") && refused.contains("on site-a: cfs admin"), "{refused}");

    let plan = planned(&cluster, "site-a");
    assert_eq!((&plan["from"], &plan["to"]), (&"site-b".into(), &"site-a".into()), "{plan:#}");
    // Those of site-b may have come while the two met.
    assert!(plan["at_least"]["entries"].as_u64().is_some_and(|entries| entries <= 2), "it goes on writing: {plan:#}");
    assert_eq!(plan["values_at_risk"], 2, "{plan:#}");
    let both = [("/f", "mode"), ("/new", "entry new")].map(|(path, register)| (path.to_owned(), register.to_owned()));
    assert_eq!(losing(&plan), both, "{plan:#}");

    force(&cluster, "site-a", &[]);
    cluster.append_ops("site-a", FORCED_BACK);
    cluster.wait_status("site-b", "FENCED", PATIENCE);
    eventually("both sites' status to tell of the split", PATIENCE, || {
        let told = ["site-a", "site-b"].map(|site| cluster.status(site)["split_brain"] == true);
        if told == [true, true] { Ok(()) } else { Err(format!("{told:?}\n{}", cluster.logs())) }
    });
    // Of what site-b wrote only that may lose which site-a has written since, and not if site-a had seen it when they met: its
    // earlier values have the older epoch.
    let plan = planned(&cluster, "site-b");
    let registers = losing(&plan);
    assert_eq!((&plan["from"], &plan["values_at_risk"]), (&"site-a".into(), &registers.len().into()), "{plan:#}");
    assert!(registers.is_empty() || registers == [("/f".to_owned(), "mode".to_owned())], "{plan:#}");
    force(&cluster, "site-b", &["--prefer", "site-b"]);
    let rejoined = cluster.admin("site-a", &["rejoin", "--primary", "site-b"]);
    assert_eq!(rejoined.code, 0, "{rejoined:?}\n{}", cluster.logs());
    cluster.converge();
    cluster.wait_ready();
    for site in ["site-a", "site-b"] {
        let look = |inode: &str| cluster.at(site, &["admin", "meta", "lookup", inode, "-o", "json"]).json();
        assert_eq!((&look("7")["mode"], &look("8")["uid"]), (&448.into(), &77.into()), "{site}");
        assert_eq!(look("10")["paths"][0], "/new", "{site}: {:#}", look("10"));
        assert_eq!(report(&cluster, site)["detected"], false, "{site}");
    }
    expect_unshared(&cluster, [("site-a", 0), ("site-b", 0)]);
    a_split_shows_though_nobody_scraped_it(&cluster);
}

/// The side that was fenced is the one that an operator keeps: all its members take part again, whoever of them leads, and the
/// other side rejoins.
#[test]
fn the_fenced_side_that_an_operator_keeps_is_whole_again() {
    for leader in ["site-w", "site-b"] {
        let cluster = Cluster::up_with_witness();
        cluster.lead(leader, 60);
        for other in ["site-b", "site-w"] {
            cluster.partition("site-a", other);
        }
        eventually("the other side to go on", PATIENCE, || match cluster.status("site-b")["primary"].as_str() {
            Some("site-b") => Ok(()),
            primary => Err(format!("{primary:?}\n{}", cluster.logs())),
        });
        force(&cluster, "site-a", &[]);
        cluster.heal();
        for fenced in ["site-b", "site-w"] {
            cluster.wait_status(fenced, "FENCED", PATIENCE);
        }
        // Its vote is needed on its own side: it does not join that anew.
        let said = cluster.admin("site-w", &["rejoin", "--primary", "site-b"]);
        assert!(said.code == 1 && said.err.contains("FENCED"), "{said:?}");
        force(&cluster, "site-b", &[]);
        for whole in ["site-b", "site-w"] {
            cluster.wait_status(whole, "READY", PATIENCE);
        }
        // It is a member of that side, and stays what it is.
        let said = cluster.admin("site-w", &["rejoin", "--primary", "site-b"]).ok();
        assert!(said.contains("has rejoined"), "{said}");
        cluster.admin("site-a", &["rejoin", "--primary", "site-b"]).ok();
        cluster.wait_ready();
        assert_eq!(cluster.primary(), "site-b");
        cluster.converge();
    }
}
