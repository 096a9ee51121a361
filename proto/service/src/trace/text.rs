//! An event as one line of bounded length.

use std::fmt::{self, Write};

use tracing::Event;
use tracing::field::{Field, Visit};

/// Longer lines are cut.
pub(super) const MAX_BYTES: usize = 2048;
const CUT: char = '…';

/// The message, then the fields.
pub(super) fn of(event: &Event<'_>) -> String {
    let mut parts = Parts::default();
    event.record(&mut parts);
    let Parts { message: Bounded { mut text, .. }, fields } = parts;
    let mut out = Bounded { text: std::mem::take(&mut text), ..Bounded::default() };
    // What does not fit is cut.
    let _ = out.write_str(&fields.text);
    out.text.trim_start().to_owned()
}

#[derive(Default)]
struct Parts {
    message: Bounded,
    fields: Bounded,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // What the `log` crate adds about itself.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(value),
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Text that stops growing, and holds no control characters: neither a line break nor what a terminal obeys.
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for c in more.chars() {
            if self.full {
                return Err(fmt::Error);
            }
            if self.text.len() + c.len_utf8() > MAX_BYTES {
                self.text.push(CUT);
                self.full = true;
            } else if c.is_control() {
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded_and_harmless() {
        let mut out = Bounded::default();
        assert!(out.write_str("a\n\x1b[2Jb").is_ok());
        assert_eq!(out.text, "a\\n\\u{1b}[2Jb");
        let mut out = Bounded::default();
        let _ = out.write_str(&"é".repeat(MAX_BYTES));
        assert!(out.text.len() <= MAX_BYTES + CUT.len_utf8() && out.text.ends_with("é…"), "{}", out.text.len());
        assert!(out.write_str("more").is_err());
    }
}
