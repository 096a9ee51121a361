//! Nothing secret goes into a bundle: what looks like a key, a token or a password is replaced, wherever it stands.

/// How an invitation's token begins (`cfs_rpc::join`).
const TOKEN: &str = "cfs1.";
/// Names of settings, fields and flags whose values are secret. What only ends with one is one too: `CFS_TOKEN`, `api_secret`.
const SECRET: &[&str] = &[
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "private_key",
    "privatekey",
    "authorization",
    "credential",
    "credentials",
];
/// Stands for what was there.
const GONE: &str = "[redacted]";
const PEM: &str = "-----BEGIN";
const PEM_END: &str = "-----END";

/// Replaces secrets and counts them.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    count: u64,
}

impl Redactor {
    /// How many secrets were replaced so far.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The text without what looks secret; lines stay lines.
    pub(super) fn text(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut in_pem = false;
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            // A block that does not end does not take the rest of the text with it.
            if in_pem && (is_base64(line) || line.contains(PEM_END)) {
                in_pem = !line.contains(PEM_END);
                continue;
            }
            match line.split_once(PEM) {
                Some((before, rest)) => {
                    self.count += 1;
                    out.push_str(&self.line(before));
                    out.push_str(GONE);
                    in_pem = match rest.rsplit_once(PEM_END) {
                        Some((_, after)) => {
                            let after = after.split_once("-----").map_or("", |(_, after)| after);
                            out.push_str(&self.line(after));
                            false
                        }
                        None => true,
                    };
                }
                None => {
                    in_pem = false;
                    out.push_str(&self.line(line));
                }
            }
            out.push_str(end);
        }
        out
    }

    /// The words of a command line, each by itself; a secret may follow its flag.
    pub(super) fn words(&mut self, words: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut secret_next = false;
        let mut out = Vec::new();
        for word in words {
            let flag = word.strip_prefix("--").is_some_and(is_secret_name);
            out.push(if std::mem::replace(&mut secret_next, flag) {
                self.count += 1;
                GONE.to_owned()
            } else {
                self.text(&word)
            });
        }
        out
    }

    fn line(&mut self, line: &str) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while let Some((before, secret)) = next_secret(rest) {
            out.push_str(&rest[..before]);
            out.push_str(GONE);
            self.count += 1;
            rest = &rest[before + secret..];
        }
        out.push_str(rest);
        out
    }
}

/// Whether the value of a setting with this name is secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name).replace('-', "_").to_ascii_lowercase();
    SECRET
        .iter()
        .any(|secret| last.strip_suffix(secret).is_some_and(|before| before.is_empty() || before.ends_with('_')))
}

fn is_base64(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

/// Where the first secret of a line begins, and how long it is.
fn next_secret(line: &str) -> Option<(usize, usize)> {
    [token(line), named(line), in_address(line)].into_iter().flatten().min()
}

/// An invitation's token.
fn token(line: &str) -> Option<(usize, usize)> {
    let at = line.find(TOKEN)?;
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let length = line[at..].find(|c| !part(c)).unwrap_or(line.len() - at);
    // The name of the form alone, as in a text about it, is no token.
    if length > TOKEN.len() + 8 {
        return Some((at, length));
    }
    let from = at + length.max(1);
    token(&line[from..]).map(|(at, length)| (from + at, length))
}

/// The value in `name = value`, `"name": "value"`, `name: value` and `--name value`.
fn named(line: &str) -> Option<(usize, usize)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut from = 0;
    loop {
        let begin = from + line[from..].find(is_name)?;
        let end = begin + line[begin..].find(|c| !is_name(c)).unwrap_or(line.len() - begin);
        if is_secret_name(line[begin..end].trim_start_matches('-'))
            && let Some(found) = value_after(line, begin, end)
        {
            return Some(found);
        }
        from = end;
    }
}

fn value_after(line: &str, begin: usize, end: usize) -> Option<(usize, usize)> {
    let rest = &line[end..];
    let gap = rest.find(|c: char| !matches!(c, ' ' | '\t' | '"' | '\'' | '\\' | '=' | ':')).unwrap_or(rest.len());
    let names_a_value = rest[..gap].contains(['=', ':']);
    let is_flag = line[begin..end].starts_with("--") && rest[..gap].starts_with(' ');
    if !names_a_value && !is_flag {
        return None;
    }
    let value = &rest[gap..];
    // In quotes up to the quote, otherwise up to what ends a word; a scheme before the secret belongs to it.
    let escaped = rest[..gap].contains('\\');
    let quoted = rest[..gap].chars().next_back().filter(|c| matches!(c, '"' | '\''));
    let ends = |c: char| match quoted {
        Some(quote) => c == quote || escaped && c == '\\',
        None => c.is_whitespace() || matches!(c, ',' | ';' | ')' | '}' | ']' | '"' | '\''),
    };
    let scheme =
        ["Bearer ", "Basic "].iter().find(|scheme| value.starts_with(**scheme)).map_or(0, |scheme| scheme.len());
    let length = scheme + value[scheme..].find(ends).unwrap_or(value.len() - scheme);
    (length > 0 && !value.starts_with(GONE)).then_some((end + gap, length))
}

/// The password in `scheme://user:password@host`.
fn in_address(line: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let begin = from + line[from..].find("://")? + 3;
        let end = begin
            + line[begin..]
                .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
                .unwrap_or(line.len() - begin);
        if let Some((user, _)) = line[begin..end].rsplit_once('@')
            && let Some((name, password)) = user.split_once(':')
            && !password.is_empty()
            && password != GONE
        {
            return Some((begin + name.len() + 1, password.len()));
        }
        from = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> (String, u64) {
        let mut redactor = Redactor::default();
        let text = redactor.text(text);
        (text, redactor.count())
    }

    #[test]
    fn keys_go_and_what_stands_around_them_stays() {
        let text = "before\n-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqGSM49+/==\n-----END PRIVATE KEY-----\nafter\n";
        assert_eq!(redacted(text), ("before\n[redacted]\nafter\n".into(), 1));
        let one_line = r#"key="-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n" site=site-a"#;
        assert_eq!(redacted(one_line), (r#"key="[redacted]\n" site=site-a"#.into(), 1));
        let cut_off = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\nWARN the next line is no key\n";
        assert_eq!(redacted(cut_off), ("[redacted]\nWARN the next line is no key\n".into(), 1));
    }

    #[test]
    fn tokens_go_wherever_they_stand() {
        let token = "cfs1.eyJjbHVzdGVyIjoiMDAwMTAyMDMifQ";
        for (text, wanted) in [
            (format!("enroll --token {token} --primary site-a"), "enroll --token [redacted] --primary site-a"),
            (format!("used {token}, twice {token}"), "used [redacted], twice [redacted]"),
            (format!("CFS_TOKEN={token}"), "CFS_TOKEN=[redacted]"),
            (format!(r#"{{"token":"{token}"}}"#), r#"{"token":"[redacted]"}"#),
        ] {
            let (text, count) = redacted(&text);
            assert_eq!(text, wanted);
            assert!(count >= 1);
        }
        assert_eq!(
            redacted("a token begins with cfs1. and is used once"),
            ("a token begins with cfs1. and is used once".into(), 0)
        );
    }

    #[test]
    fn values_with_secret_names_go() {
        for (text, wanted) in [
            ("password = \"a b, c\" # x", "password = \"[redacted]\" # x"),
            ("db-password: hunter2;", "db-password: [redacted];"),
            ("hook.api_secret = 'x y'", "hook.api_secret = '[redacted]'"),
            (r#"{"key": "hook.token", "value": "x"}"#, r#"{"key": "hook.token", "value": "x"}"#),
            ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
            (r#"said "{\"secret\": \"abc\"}""#, r#"said "{\"secret\": \"[redacted]\"}""#),
            ("http://user:p4ss@host:9502/x http://host/", "http://user:[redacted]@host:9502/x http://host/"),
        ] {
            assert_eq!(redacted(text).0, wanted);
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        for text in [
            "the token is used; tokens: 5",
            "claudefs_replication_entries_total{site=\"site-a\"} 5 # {trace_id=\"x\"}",
            "tls key=/var/claudefs/tls/control.key chain=00ff",
            "primary: site-a, secretary: nobody",
            "2026-11-30T18:38:46Z  INFO the lease is renewed epoch=1.0.5 lease_ms=600\n\n",
            "passwords are not asked for",
        ] {
            assert_eq!(redacted(text), (text.to_owned(), 0));
        }
    }

    #[test]
    fn a_command_line_is_kept_without_its_secrets() {
        let mut redactor = Redactor::default();
        let words = ["cfs", "enroll", "--token", "abc", "--primary", "site-a", "--password=x"].map(str::to_owned);
        let kept = redactor.words(words);
        assert_eq!(kept, ["cfs", "enroll", "--token", "[redacted]", "--primary", "site-a", "--password=[redacted]"]);
        assert_eq!(redactor.count(), 2);
        assert!(is_secret_name("a.b.api_token") && is_secret_name("CFS_TOKEN") && !is_secret_name("paths.tls"));
    }

    #[test]
    fn redacting_again_changes_nothing() {
        let once = redacted("token=abc password: 'x y' http://u:p@h").0;
        assert_eq!(redacted(&once), (once.clone(), 0));
    }
}
