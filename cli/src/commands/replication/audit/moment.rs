//! Points in time as people write them.

use jiff::civil::{Date, DateTime};
use jiff::{Span, Timestamp, Zoned};

/// A point in time that is not after `now`: an amount of time, with or without "ago"; a date, at its beginning, or a date
/// with a time, both where this program runs; RFC 3339.
pub(in crate::commands::replication) fn parse(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    let time = read(text, now).ok_or_else(|| "it is no point in time".to_owned())?;
    if time > now.timestamp() {
        return Err("it lies in the future".to_owned());
    }
    Ok(time)
}

fn read(text: &str, now: &Zoned) -> Option<Timestamp> {
    let today = || now.start_of_day().ok();
    match text.to_ascii_lowercase().as_str() {
        "now" => return Some(now.timestamp()),
        "today" => return Some(today()?.timestamp()),
        "yesterday" => return Some(today()?.yesterday().ok()?.timestamp()),
        "tomorrow" => return Some(today()?.tomorrow().ok()?.timestamp()),
        _ => {}
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Ok(time) = text.parse::<Zoned>() {
        return Some(time.timestamp());
    }
    let zone = now.time_zone().clone();
    // A date with a time is also a date to the parser of dates.
    let is_date = text.len() == 10 || !text.contains(':');
    if is_date && let Ok(date) = text.parse::<Date>() {
        return Some(date.to_zoned(zone).ok()?.timestamp());
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return Some(time.to_zoned(zone).ok()?.timestamp());
    }
    let lower = text.to_ascii_lowercase();
    let (amount, ahead) = match (lower.strip_prefix("in "), lower.strip_suffix("ago")) {
        (Some(ahead), None) => (ahead.trim(), true),
        (_, Some(ago)) => (ago.trim(), false),
        _ => (lower.as_str(), false),
    };
    let amount = amount.strip_prefix("an ").map(|rest| format!("1 {rest}")).unwrap_or_else(|| amount.to_owned());
    let span: Span = amount.strip_prefix("a ").map(|rest| format!("1 {rest}")).unwrap_or(amount).parse().ok()?;
    if span.is_negative() {
        return None;
    }
    let time = if ahead { now.checked_add(span) } else { now.checked_sub(span) };
    Some(time.ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_times_in_many_ways() {
        let now: Zoned = "2026-03-10T12:00:00+01:00[Europe/Berlin]".parse().expect("a time");
        for (text, wanted) in [
            ("1 hour ago", "2026-03-10T10:00:00Z"),
            ("24 hours ago", "2026-03-09T11:00:00Z"),
            ("1 day ago", "2026-03-09T11:00:00Z"),
            ("an hour ago", "2026-03-10T10:00:00Z"),
            ("a week ago", "2026-03-03T11:00:00Z"),
            ("2 Weeks Ago", "2026-02-24T11:00:00Z"),
            ("90 minutes", "2026-03-10T09:30:00Z"),
            ("30m", "2026-03-10T10:30:00Z"),
            ("1h30m ago", "2026-03-10T09:30:00Z"),
            ("1 hour 30 minutes ago", "2026-03-10T09:30:00Z"),
            ("2026-03-10", "2026-03-09T23:00:00Z"),
            ("2026-03-10 09:30", "2026-03-10T08:30:00Z"),
            ("2026-03-10 09:30:15", "2026-03-10T08:30:15Z"),
            ("2026-03-10T09:30:00Z", "2026-03-10T09:30:00Z"),
            ("2026-03-10T09:30:00+02:00", "2026-03-10T07:30:00Z"),
            ("yesterday", "2026-03-08T23:00:00Z"),
            ("today", "2026-03-09T23:00:00Z"),
            ("now", "2026-03-10T11:00:00Z"),
        ] {
            assert_eq!(parse(text, &now).map(|time| time.to_string()), Ok(wanted.to_owned()), "{text}");
        }
        for bad in ["", "soon", "-1 hour ago", "1 hour hence", "2026-13-01", "25:00", "hour"] {
            assert!(parse(bad, &now).is_err(), "{bad}: {:?}", parse(bad, &now));
        }
        for later in ["2026-03-11", "tomorrow", "in 2 hours"] {
            assert!(parse(later, &now).is_err_and(|why| why.contains("future")), "{later}: {:?}", parse(later, &now));
        }
    }
}
