//! Lengths of time on the command line.

use std::time::Duration;

/// Longest that is taken.
const MAX: Duration = Duration::from_secs(3600);

/// Reads `500ms`, `30s`, `1m`, `1h`.
///
/// # Errors
/// Says how to write it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no length of time: write it as 500ms, 30s or 1m, up to 1h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let length = Duration::from_millis(number.checked_mul(ms).ok_or_else(bad)?);
    if length.is_zero() || length > MAX { Err(bad()) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_bounds_kept() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("1m", 60_000), ("60min", 3_600_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "s", "0s", "-1s", "1.5s", "2h", "99999999999999999999s", "18446744073709551615h", "1 s"]
        {
            assert!(parse(text).is_err_and(|why| why.contains("500ms")), "{text}");
        }
    }
}
