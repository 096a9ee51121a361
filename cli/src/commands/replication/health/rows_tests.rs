use cfs_rpc::v1::StatusAnswer;

use super::super::super::fixture_tests::{gathered, json, shipper_alone, table};
use super::super::health_of;
use super::*;

fn shipper_of(answer: &mut StatusAnswer) -> &mut StatusReply {
    answer.shipper.as_mut().expect("a shipper")
}

/// Everything is told, and well.
fn told(answer: &mut StatusAnswer) {
    let usage = |cpu| ProcessUsage { pid: 7, rss_bytes: 20_000_000, cpu_percent: Some(cpu), ..ProcessUsage::default() };
    let machine = MachineUsage {
        memory_total_bytes: 8_000_000_000,
        memory_available_bytes: 2_000_000_000,
        disk_free_bytes: 20,
        disk_used_bytes: 80,
    };
    (answer.process, answer.machine) = (Some(usage(1.0)), Some(machine));
    answer.sites.iter_mut().for_each(|site| site.rtt_us = 50_000);
    let shipper = shipper_of(answer);
    (shipper.process, shipper.machine) = (Some(usage(2.0)), Some(machine));
    (shipper.errors_5min, shipper.conflicts_1h) = (Some(0), Some(5));
    shipper.journal_bytes = 5_000_000_000;
}

fn levels(change: impl FnOnce(&mut StatusAnswer)) -> Vec<(&'static str, Level)> {
    let gathered = gathered(|answer| {
        told(answer);
        change(answer);
    });
    let picture = Picture::of(&gathered);
    let bad = findings(&gathered, &picture);
    for row in rows(&gathered, &picture).iter().filter(|row| row.level >= row.limits.told_from) {
        let found = bad.iter().any(|found| found.code == row.limits.code && found.level == row.level);
        assert!(found || row.limits.impact.is_empty(), "{} is {:?}, and no finding", row.metric, row.level);
    }
    bad.iter().map(|finding| (finding.code, finding.level)).collect()
}

fn process_of(answer: &mut StatusAnswer) -> &mut ProcessUsage {
    answer.process.as_mut().expect("usage")
}

#[test]
fn each_figure_has_its_limits() {
    use Level::{Critical, Warning};
    type Change = fn(&mut StatusAnswer);
    let machine = |a: &mut StatusAnswer, change: fn(&mut MachineUsage)| {
        change(shipper_of(a).machine.as_mut().expect("a machine"));
    };
    assert_eq!(levels(|_| {}), []);
    let worse: [(&str, Level, Change); 7] = [
        ("CFS-H040", Critical, |a| shipper_of(a).errors_5min = Some(6)),
        ("CFS-H041", Warning, |a| shipper_of(a).conflicts_1h = Some(6)),
        ("CFS-H041", Critical, |a| shipper_of(a).conflicts_1h = Some(21)),
        ("CFS-H042", Warning, |a| a.sites[1].rtt_us = 50_001),
        ("CFS-H042", Critical, |a| a.sites[1].rtt_us = 200_001),
        ("CFS-H044", Warning, |a| process_of(a).rss_bytes = 100_000_001),
        ("CFS-H044", Critical, |a| process_of(a).rss_bytes = 300_000_001),
    ];
    for (code, level, change) in worse {
        assert_eq!(levels(change), [(code, level)], "{code}");
    }
    // A warning of the table alone.
    assert_eq!(levels(|a| shipper_of(a).errors_5min = Some(5)), []);
    let few = gathered(|a| shipper_of(a).errors_5min = Some(1));
    let few = rows(&few, &Picture::of(&few)).into_iter().find(|row| row.metric == "error rate");
    assert_eq!(few.map(|row| row.level), Some(Warning));
    assert_eq!(levels(|a| machine(a, |m| m.disk_used_bytes = 81)), [("CFS-H045", Warning)]);
    assert_eq!(levels(|a| machine(a, |m| m.disk_used_bytes = 200)), [("CFS-H045", Critical)]);
    assert_eq!(levels(|a| machine(a, |m| m.memory_available_bytes -= 1)), [("CFS-H046", Warning)]);
    assert_eq!(levels(|a| machine(a, |m| m.memory_available_bytes = 1)), [("CFS-H046", Critical)]);
}

#[test]
fn processor_time_alone_is_never_critical() {
    for times in [1.01, 100.0] {
        let busy = |a: &mut StatusAnswer| process_of(a).cpu_percent = Some(CPU.warning * times);
        assert_eq!(levels(busy), [("CFS-H043", Level::Warning)]);
    }
    assert_eq!(levels(|a| process_of(a).cpu_percent = Some(CPU.warning)), []);
}

#[test]
fn what_nobody_tells_is_not_zero() {
    let unknown = |gathered: &Gathered, metric: &str| {
        let rows = rows(gathered, &Picture::of(gathered));
        let rows: Vec<Row> = rows.into_iter().filter(|row| row.metric == metric).collect();
        assert!(!rows.is_empty(), "{metric}");
        rows.iter().all(|row| row.value.is_none() && row.level == Level::Unknown)
    };
    // Processes of an older version tell less.
    let old = gathered(|_| {});
    for metric in ["error rate", "conflicts", "CPU", "memory", "disk used", "memory available"] {
        assert!(unknown(&old, metric), "{metric}");
    }
    let nobody = Gathered { shipper: None, ..shipper_alone() };
    assert!(unknown(&nobody, "journal size"));
    // A site that is down is not of today's latency, lag or clock.
    let down = gathered(|a| {
        a.sites[0].state = "DOWN".into();
        a.sites[0].clock_skew_ms = Some(900);
    });
    let found = rows(&down, &Picture::of(&down));
    let of =
        |metric: &str| found.iter().find(|row| (row.metric, row.of.as_str()) == (metric, "site-b")).expect("a row");
    for metric in ["replication lag", "network latency", "clock skew"] {
        assert_eq!(of(metric).value, None, "{metric}");
    }
}

#[test]
fn a_witness_has_the_rows_of_what_it_runs() {
    let witness = gathered(|a| {
        told(a);
        a.shipper = None;
        let here = a.here.as_mut().expect("here");
        (here.witness, here.role) = (true, "WITNESS".into());
    });
    let found = rows(&witness, &Picture::of(&witness));
    let own: Vec<&str> = found.iter().filter(|row| row.site == "site-a").map(|row| row.metric).collect();
    assert_eq!(own, ["CPU", "memory", "disk used", "memory available"]);
    assert!(found.iter().all(|row| row.site != "site-a" || row.level == Level::Ok), "{found:?}");
}

#[test]
fn the_table_is_that_of_the_runbook() {
    let health = health_of(&gathered(told), true);
    let (text, value) = (table(&health), json(&health));
    // However wide the columns are.
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "METRIC OF VALUE HEALTHY WARNING CRITICAL LEVEL",
        "replication lag site-b 0 ms <=500 ms >500 ms >2000 ms OK",
        "error rate site-a 0/min 0/min >0/min >1/min OK",
        "clock skew site-w 0 ms <=100 ms >100 ms - OK",
        "disk used site-a 80% <=80% >80% >90% OK",
        "memory available site-a 2 GB >=2 GB <2 GB <0.5 GB OK",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{line}\n{text}");
    }
    assert_eq!(value["verdict"], "OK", "{text}");
    assert_eq!(value["metrics"][0]["metric"], "replication lag");
    assert!(value["metrics"].as_array().expect("rows").iter().all(|row| row["level"] == "OK"), "{text}");
}
