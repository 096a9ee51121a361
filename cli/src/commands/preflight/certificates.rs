//! Whether certificates are in place and last.

use cfs_config::Config;

use super::Check;
use crate::Context;
use crate::commands::tls::status::{Level, Line, certificates};

/// Certificates should last for so many days.
const DAYS: u32 = 30;
const EXPECTED: &str = "valid for more than 30 days";
const INSTALL: &str = "cfs admin tls issue, where the authority is; then cfs admin tls install DIR here";

/// One check for each certificate, also if nobody could look at it.
pub(super) async fn checks(context: &Context, config: &Config) -> anyhow::Result<Vec<Check>> {
    let seen = certificates(context, config, DAYS).await?;
    Ok(seen.lines().iter().map(check).collect())
}

fn check(line: &Line) -> Check {
    let subject = format!("{} {}", line.site, line.role);
    let days = line.days_left.map(|days| format!("{days} days left, {}", line.source));
    let found = match (line.state, days) {
        ("OK", Some(days)) => days,
        ("UNREACHABLE", _) => format!("it could not be looked at: {}", line.why),
        (state, Some(days)) if line.why.is_empty() => format!("{state}: {days}"),
        (state, _) => format!("{state}: {}", line.why),
    };
    let check = Check::pass("certificate", subject, found, EXPECTED);
    let next = match line.state {
        // Of this site: others show no files.
        "MISSING" | "UNUSABLE" => INSTALL.to_owned(),
        "UNREACHABLE" => format!("see the ports of {}; then on {}: cfs admin tls status", line.site, line.site),
        "EXPIRES SOON" | "EXPIRED" => format!("cfs admin tls renew-certificates --site {}", line.site),
        _ => "cfs admin tls status".to_owned(),
    };
    match line.level {
        Level::Ok => check,
        Level::Warning => check.warn(next),
        Level::Critical => check.fail(next),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    fn line(state: &'static str, level: Level, why: &str) -> Line {
        Line {
            site: "site-b".into(),
            role: "control".into(),
            state,
            level,
            source: "unknown",
            serial: None,
            expires: None,
            days_left: None,
            place: "10.0.0.2:9501".into(),
            why: why.into(),
        }
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        let silent = check(&line("UNREACHABLE", Level::Warning, "10.0.0.2:9501 did not answer within 1.8s"));
        assert_eq!(silent.result, Outcome::Warn);
        assert_eq!(silent.found, "it could not be looked at: 10.0.0.2:9501 did not answer within 1.8s");
        assert!(silent.next.contains("site-b"), "{silent:?}");
    }

    #[test]
    fn an_unusable_file_is_named_and_replaced() {
        let damaged = check(&line("UNUSABLE", Level::Critical, "/tls/control.pem: the certificate cannot be parsed"));
        assert_eq!(damaged.result, Outcome::Fail);
        assert!(damaged.found.contains("/tls/control.pem"), "{damaged:?}");
        assert!(damaged.next.contains("cfs admin tls install"), "{damaged:?}");
    }
}
