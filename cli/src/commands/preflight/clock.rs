//! Whether the clocks of all sites agree: by chrony, and by what sites say of each other.

use std::process::Stdio;
use std::time::Duration;

use cfs_rpc::v1::admin_request::Kind;
use cfs_rpc::v1::{StatusAnswer, StatusQuery};

use super::Check;
use crate::Context;
use crate::commands::replication::ask;

/// Clocks that differ by more are too far apart.
const MOST_SKEW_MS: f64 = 100.0;
const CHRONY_LIMIT: Duration = Duration::from_secs(2);
const EXPECTED: &str = "less than 100 ms";
const NEXT: &str = "install chrony at every site, with the same servers, and look at `chronyc tracking`";

pub(super) async fn checks(context: &Context) -> Vec<Check> {
    let (chrony, sites) = tokio::join!(chrony(), sites(context));
    [vec![chrony], sites].concat()
}

async fn chrony() -> Check {
    let mut command = tokio::process::Command::new("chronyc");
    command.args(["-n", "tracking"]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(CHRONY_LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => tracking(&String::from_utf8_lossy(&output.stdout)),
        Ok(Ok(_)) => found("chronyd does not answer").warn("systemctl start chrony"),
        Ok(Err(_)) => found("chronyc is not installed").warn(NEXT),
        Err(_) => found("chronyc did not answer in time").warn("systemctl status chrony"),
    }
}

fn found(text: impl Into<String>) -> Check {
    Check::pass("clock", "chrony", text, EXPECTED)
}

/// What `chronyc tracking` printed.
fn tracking(text: &str) -> Check {
    let value = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    if value("Leap status").is_some_and(|status| status.eq_ignore_ascii_case("not synchronised")) {
        return found("not synchronised").fail(NEXT);
    }
    let rms = value("RMS offset").and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    match rms {
        Some(seconds) if seconds.abs() * 1e3 < MOST_SKEW_MS => found(format!("RMS offset {:.3} ms", seconds * 1e3)),
        Some(seconds) => found(format!("RMS offset {:.3} ms", seconds * 1e3)).fail(NEXT),
        None => found("chronyc tells no RMS offset").warn("look at `chronyc tracking`"),
    }
}

async fn sites(context: &Context) -> Vec<Check> {
    match ask::query::<StatusAnswer>(context, Kind::Status(StatusQuery { all_sites: true })).await {
        Ok(answer) => answer.body.sites.iter().filter(|site| site.state != "DOWN").map(skew).collect(),
        // Before the first start there is nobody to ask: chrony is the evidence.
        Err(_) => Vec::new(),
    }
}

fn skew(site: &cfs_rpc::v1::SiteStatus) -> Check {
    let Some(apart_ms) = site.clock_skew_ms else {
        let check = Check::pass("clock", &site.site, "not known: it did not answer of late".to_owned(), EXPECTED);
        return check.warn("cfs admin replication status --detailed");
    };
    let check = Check::pass("clock", &site.site, format!("{apart_ms} ms apart"), EXPECTED);
    if (apart_ms.unsigned_abs() as f64) < MOST_SKEW_MS { check } else { check.fail(NEXT) }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const TRACKING: &str = "Reference ID    : A29FC87B (time.example.org)\nStratum         : 4\n\
        Ref time (UTC)  : Wed Nov 25 02:00:00 2026\nRMS offset      : 0.000035110 seconds\nLeap status     : Normal\n";

    #[test]
    fn chrony_is_read_by_its_offset_and_status() {
        let fine = tracking(TRACKING);
        assert_eq!((fine.result, &*fine.found), (Outcome::Pass, "RMS offset 0.035 ms"));
        assert_eq!(tracking(&TRACKING.replace("0.000035110", "0.2")).result, Outcome::Fail);
        assert_eq!(tracking(&TRACKING.replace("Normal", "Not synchronised")).result, Outcome::Fail);
        assert_eq!(tracking("").result, Outcome::Warn);
    }

    #[test]
    fn sites_that_differ_by_a_tenth_of_a_second_fail() {
        let of = |clock_skew_ms| cfs_rpc::v1::SiteStatus { site: "site-b".into(), clock_skew_ms, ..Default::default() };
        let at = |apart_ms| of(Some(apart_ms));
        assert_eq!(skew(&of(None)).result, Outcome::Warn);
        assert_eq!(skew(&at(-99)).result, Outcome::Pass);
        assert_eq!(skew(&at(-100)).result, Outcome::Fail);
        assert!(!skew(&at(2000)).next.is_empty());
    }
}
