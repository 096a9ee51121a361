//! Who gives the order, for the audit trail.

use std::fs;

/// `USER@HOST`; behind sudo also who called it. The control process checks by itself what the user may do.
pub(super) fn name() -> String {
    let uid = rustix::process::getuid().as_raw();
    let user = fs::read_to_string("/etc/passwd").ok().and_then(|text| user_of(&text, uid));
    let user = user.unwrap_or_else(|| format!("uid-{uid}"));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    match std::env::var("SUDO_USER") {
        Ok(caller) if uid == 0 && !caller.is_empty() && caller != user => format!("{user}@{host} (sudo of {caller})"),
        _ => format!("{user}@{host}"),
    }
}

fn user_of(passwd: &str, uid: u32) -> Option<String> {
    let lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.into_iter().find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid))?;
    found.first().map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nclaudefs:x:998:998::/:/bin/false\n";
        assert_eq!(user_of(passwd, 0).as_deref(), Some("root"));
        assert_eq!(user_of(passwd, 998).as_deref(), Some("claudefs"));
        assert_eq!(user_of(passwd, 5), None);
        assert!(name().contains('@'));
    }
}
