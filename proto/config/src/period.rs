//! Lengths of time as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time in whole seconds. Reads `30d`, `12h`, `45m`, `90s`, `2w`; prints the largest unit of days, hours, minutes
/// and seconds that loses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub u64);

/// The text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: write a whole number with s, m, h, d or w, as in 30d")]
pub struct Error(String);

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Period {
    /// So many days.
    pub const fn days(count: u64) -> Self {
        Self(count * 86_400)
    }

    /// The length in seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// The same for timers.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| self.0 != 0 && self.0.is_multiple_of(*seconds));
        let (name, seconds) = unit.unwrap_or(&("s", 1));
        f.pad(&format!("{}{name}", self.0 / seconds))
    }
}

impl FromStr for Period {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error(text.chars().take(64).collect());
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let seconds = match unit.trim_start() {
            "w" | "weeks" | "week" => 7 * 86_400,
            "d" | "days" | "day" => 86_400,
            "h" | "hours" | "hour" => 3600,
            "m" | "min" | "minutes" | "minute" => 60,
            "s" | "seconds" | "second" => 1,
            _ => return Err(bad()),
        };
        number.checked_mul(seconds).map(Self).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_back_what_they_print() {
        for (text, seconds, printed) in [
            ("30d", 30 * 86_400, "30d"),
            ("2w", 14 * 86_400, "14d"),
            ("36h", 36 * 3600, "36h"),
            ("90 m", 5400, "90m"),
            ("90 days", 90 * 86_400, "90d"),
            ("61s", 61, "61s"),
            ("0s", 0, "0s"),
        ] {
            assert_eq!(text.parse(), Ok(Period(seconds)), "{text}");
            assert_eq!(Period(seconds).to_string(), printed);
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for bad in ["", "30", "d", "-1d", "1.5d", "30y", "1d2h", "99999999999999999999d", "18446744073709551615w"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }
}
