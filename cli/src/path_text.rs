//! Paths and names, which are bytes, as text.

use std::fmt::Write;

/// A path as it stands in JSON: verbatim when it is UTF-8. Otherwise `true` comes with it, every invalid byte is
/// `\xHH` and every backslash is `\\`; [`unescape`] reverses that.
pub fn for_json(path: &[u8]) -> (String, bool) {
    match std::str::from_utf8(path) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (escape(path, |_| false), true),
    }
}

/// A name as a key in JSON, where nothing can come with it: invalid bytes are always `\xHH` and backslashes `\\`, so that
/// no two names become one. [`unescape`] reverses that.
pub fn for_json_key(name: &[u8]) -> String {
    escape(name, |_| false)
}

/// A path as it stands in a table: on one line and harmless to a terminal. Invalid bytes and control characters are
/// `\xHH` (each byte), backslashes are `\\`.
pub fn for_terminal(path: &[u8]) -> String {
    escape(path, char::is_control)
}

/// The bytes that [`for_terminal`], [`for_json_key`], or [`for_json`] with `true`, were given; `None` if `text` is not in that form.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('\\') {
            out.push(b'\\');
            rest = after;
        } else {
            let digits = rest.strip_prefix('x')?.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[3..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

fn escape(path: &[u8], also: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if also(c) => push_hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escapes_are_reversible(path in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x'), Just(b'0')], 0..40)) {
            prop_assert_eq!(unescape(&for_terminal(&path)), Some(path.clone()));
            let (text, escaped) = for_json(&path);
            let back = if escaped { unescape(&text) } else { Some(text.into_bytes()) };
            prop_assert_eq!(back, Some(path));
        }
    }

    #[test]
    fn only_what_must_be_escaped_is() {
        assert_eq!(for_json(b"/a\\b\n\xc3\xa9"), ("/a\\b\n\u{e9}".to_owned(), false));
        assert_eq!(for_json(b"/a\\b\n\xff"), ("/a\\\\b\n\\xff".to_owned(), true));
        assert_eq!(for_terminal("/a\\b\n\u{e9}\u{9b}".as_bytes()), "/a\\\\b\\x0a\u{e9}\\xc2\\x9b");
        for bad in ["\\", "\\x", "\\x1", "\\xg0", "\\x+1", "\\n"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
