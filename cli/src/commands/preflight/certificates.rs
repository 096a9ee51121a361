//! Whether certificates are in place and last.

use cfs_config::Config;

use super::Check;
use crate::Context;
use crate::commands::tls::status::{Level, Line, certificates};

/// Certificates should last for so many days.
const DAYS: u32 = 30;
const EXPECTED: &str = "valid for more than 30 days";

/// One check for each certificate that can be seen; sites that are not reached are the network's.
pub(super) async fn checks(context: &Context, config: &Config) -> anyhow::Result<Vec<Check>> {
    let seen = certificates(context, config, DAYS).await?;
    Ok(seen.lines().iter().filter(|line| line.state != "UNREACHABLE").map(check).collect())
}

fn check(line: &Line) -> Check {
    let subject = format!("{} {}", line.site, line.role);
    let days = line.days_left.map(|days| format!("{days} days left, {}", line.source));
    let found = match (line.state, days) {
        ("OK", Some(days)) => days,
        (state, Some(days)) if line.why.is_empty() => format!("{state}: {days}"),
        (state, _) => format!("{state}: {}", line.why),
    };
    let check = Check::pass("certificate", subject, found, EXPECTED);
    let next = match line.state {
        "MISSING" => "cfs admin tls issue, where the authority is; then cfs admin tls install DIR here".to_owned(),
        "EXPIRES SOON" | "EXPIRED" => format!("cfs admin tls renew-certificates --site {}", line.site),
        _ => "cfs admin tls status".to_owned(),
    };
    match line.level {
        Level::Ok => check,
        Level::Warning => check.warn(next),
        Level::Critical => check.fail(next),
    }
}
