//! What the certificates are worth, and how that is shown.

use std::io::{self, Write};

use cfs_model::ClusterId;
use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::survey::AUTHORITY;
use cfs_rpc::v1::{CertificateFile, CertificatesAnswer, ServedCertificate};
use serde::Serialize;

use crate::output::{Document, Table, good_or_bad};

const DAY_S: i64 = 24 * 3600;
/// A certificate that lasts for fewer days is about to be of no use.
const CRITICAL_DAYS: i64 = 3;
/// Digits of a serial number in a table; JSON has them all.
const SHOWN_DIGITS: usize = 16;

/// How bad it is, and the code to exit with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::commands) enum Level {
    Ok,
    Warning,
    Critical,
}

/// One certificate.
#[derive(Debug, Clone, Serialize)]
pub(in crate::commands) struct Line {
    pub(in crate::commands) site: String,
    pub(in crate::commands) role: String,
    /// `OK`, `EXPIRES SOON`, `EXPIRED`, `NOT VALID YET`, `UNTRUSTED`, `WRONG HOLDER`, `UNREACHABLE`, `UNUSABLE` or `MISSING`.
    pub(in crate::commands) state: &'static str,
    pub(in crate::commands) level: Level,
    /// `served`, `not served`, `newer file`, `other file`, `connects only` or `trusted`.
    pub(in crate::commands) source: &'static str,
    pub(in crate::commands) serial: Option<String>,
    pub(in crate::commands) expires: Option<String>,
    pub(in crate::commands) days_left: Option<i64>,
    /// The port that was looked at, or the file.
    pub(in crate::commands) place: String,
    pub(in crate::commands) why: String,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Certificates {
    site: String,
    looked: String,
    warn_days: u32,
    result: Level,
    certificates: Vec<Line>,
    unreachable: Vec<String>,
}

/// By what they are judged.
struct Judge {
    now: i64,
    warn_days: i64,
    /// That certificates are to be of.
    cluster: ClusterId,
    /// Whether the site that looks is one.
    witness: bool,
}

impl Certificates {
    pub(in crate::commands) fn of(
        answer: &CertificatesAnswer,
        looked: String,
        cluster: ClusterId,
        witness: bool,
        warn_days: u32,
    ) -> Self {
        let judge = Judge { now: answer.at, warn_days: i64::from(warn_days), cluster, witness };
        let mut certificates = Vec::new();
        for served in &answer.served {
            let file = answer.files.iter().find(|file| served.site == answer.site && file.role == served.role);
            match file {
                // Its own process does not run: what it would serve is on disk.
                Some(file) if !served.reached => certificates.push(judge.file(&answer.site, file, "not served")),
                file => {
                    certificates.push(judge.served(served));
                    certificates.extend(file.and_then(|file| judge.beside(served, file)));
                }
            }
        }
        for file in &answer.files {
            let served = answer.served.iter().any(|served| served.site == answer.site && served.role == file.role);
            let spare = file.absent && witness;
            if !served && !spare {
                let source = match file.role.as_str() {
                    AUTHORITY => "trusted",
                    "producer" | "operator" => "connects only",
                    _ => "not served",
                };
                certificates.push(judge.unserved(&answer.site, file, source));
            }
        }
        let mut unreachable: Vec<String> =
            certificates.iter().filter(|line| line.state == "UNREACHABLE").map(|line| line.site.clone()).collect();
        unreachable.dedup();
        let result = certificates.iter().map(|line| line.level).max().unwrap_or(Level::Ok);
        Self { site: answer.site.clone(), looked, warn_days, result, certificates, unreachable }
    }

    /// Each of them.
    pub(in crate::commands) fn lines(&self) -> &[Line] {
        &self.certificates
    }

    /// How bad the worst of them is.
    pub(in crate::commands) const fn level(&self) -> Level {
        self.result
    }
}

impl Judge {
    fn served(&self, served: &ServedCertificate) -> Line {
        let line = Line {
            site: served.site.clone(),
            role: served.role.clone(),
            state: "UNREACHABLE",
            level: Level::Warning,
            source: "served",
            serial: None,
            expires: None,
            days_left: None,
            place: served.address.clone(),
            why: served.error.clone(),
        };
        if !served.reached {
            return Line { source: "unknown", ..line };
        }
        let line = self.dated(line, &served.serial, served.not_before, served.not_after);
        if let Some(why) = self.wrong_holder(&served.holder, &served.site, &served.role) {
            return Line { state: "WRONG HOLDER", level: Level::Critical, why, ..line };
        }
        if !served.trusted && matches!(line.state, "OK" | "EXPIRES SOON") {
            return Line { state: "UNTRUSTED", level: Level::Critical, ..line };
        }
        line
    }

    /// The file of a role that is served, if it differs.
    fn beside(&self, served: &ServedCertificate, file: &CertificateFile) -> Option<Line> {
        if served.serial == file.serial && file.error.is_empty() {
            return None;
        }
        let newer = file.not_before > served.not_before;
        let line = self.file(&served.site, file, if newer { "newer file" } else { "other file" });
        if line.level == Level::Ok {
            let why = "not served yet: the process looks every 5 s".to_owned();
            return Some(Line { why, ..line });
        }
        // What is served stays in use.
        Some(Line { level: Level::Warning, ..line })
    }

    /// The file of a role that no port of this site is for.
    fn unserved(&self, site: &str, file: &CertificateFile, source: &'static str) -> Line {
        let line = self.file(site, file, source);
        let needed = !self.witness || file.role == AUTHORITY || file.role == Role::Control.as_str();
        if needed || line.level != Level::Critical {
            return line;
        }
        let why = [&*line.why, "a witness does not need it: renew or remove it"];
        let why: Vec<&str> = why.into_iter().filter(|text| !text.is_empty()).collect();
        Line { level: Level::Warning, why: why.join("; "), ..line }
    }

    /// Why a certificate is not the one of this site, role and cluster; `None`: it is.
    fn wrong_holder(&self, holder: &str, site: &str, role: &str) -> Option<String> {
        match Identity::from_uri(holder) {
            Ok(found) if (found.site.as_str(), found.role.as_str()) != (site, role) => {
                Some(format!("it is for {holder}"))
            }
            Ok(found) if found.cluster != self.cluster => Some(format!(
                "it is of cluster {}, and this site's configuration names {} (cluster.id)",
                found.cluster, self.cluster
            )),
            Ok(_) => None,
            Err(_) if holder.is_empty() => Some("it is for nobody of ours".to_owned()),
            Err(_) => Some(format!("it is for {holder}")),
        }
    }

    fn file(&self, site: &str, file: &CertificateFile, source: &'static str) -> Line {
        let line = Line {
            site: site.to_owned(),
            role: file.role.clone(),
            state: if file.absent { "MISSING" } else { "UNUSABLE" },
            level: Level::Critical,
            source,
            serial: None,
            expires: None,
            days_left: None,
            place: file.path.clone(),
            why: file.error.clone(),
        };
        if file.serial.is_empty() {
            return line;
        }
        let wrong = self.wrong_holder(&file.holder, site, &file.role).filter(|_| file.role != AUTHORITY);
        if let Some(why) = wrong {
            return Line { state: "WRONG HOLDER", why, ..line };
        }
        let dated = self.dated(line.clone(), &file.serial, file.not_before, file.not_after);
        if file.error.is_empty() { dated } else { Line { state: line.state, level: line.level, ..dated } }
    }

    fn dated(&self, line: Line, serial: &str, not_before: i64, not_after: i64) -> Line {
        let days = (not_after - self.now).div_euclid(DAY_S);
        let (state, level) = match () {
            () if not_after <= self.now => ("EXPIRED", Level::Critical),
            () if not_before > self.now => ("NOT VALID YET", Level::Critical),
            () if days < CRITICAL_DAYS.min(self.warn_days) => ("EXPIRES SOON", Level::Critical),
            () if days < self.warn_days => ("EXPIRES SOON", Level::Warning),
            () => ("OK", Level::Ok),
        };
        let expires =
            jiff::Timestamp::from_second(not_after).map_or_else(|_| format!("@{not_after}"), |t| t.to_string());
        Line { state, level, serial: Some(serial.to_owned()), expires: Some(expires), days_left: Some(days), ..line }
    }
}

impl Document for Certificates {
    const SCHEMA: &'static str = "cfs.tls-status/1";

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Looked from {}: {}", self.site, self.looked)?;
        let mut table = Table::new(&["SITE", "ROLE", "STATE", "SOURCE", "SERIAL", "EXPIRES", ">DAYS LEFT", "WHY"]);
        for line in &self.certificates {
            let serial = line.serial.as_deref().unwrap_or("-");
            table.row([
                line.site.clone(),
                line.role.clone(),
                good_or_bad(line.state, line.level == Level::Ok),
                line.source.to_owned(),
                serial.get(..SHOWN_DIGITS).unwrap_or(serial).to_owned(),
                line.expires.as_deref().unwrap_or("-").replace("T00:00:00Z", ""),
                line.days_left.map_or_else(|| "-".to_owned(), |days| days.to_string()),
                line.why.clone(),
            ]);
        }
        table.write(out)?;
        if !self.unreachable.is_empty() {
            writeln!(out, "Unreachable: {}", self.unreachable.join(", "))?;
        }
        let word = match self.result {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
        };
        writeln!(out, "RESULT: {}", good_or_bad(word, self.result == Level::Ok))
    }
}

#[cfg(test)]
#[path = "../status_tests.rs"]
mod tests;
