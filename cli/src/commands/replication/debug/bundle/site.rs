//! What is known of one site, as files.

use std::io;

use cfs_rpc::v1::{
    BootstrapReply, ConfigAnswer, DiagnosticsAnswer, HistoryAnswer, JournalReply, MissingPart, RaftState, StatusAnswer,
    StatusReply,
};

use super::raft::Raft;
use crate::commands::replication::ask::Answer;
use crate::commands::replication::gather::{Configured, Gathered};
use crate::commands::replication::history::History;
use crate::commands::replication::journal_status::Journal;
use crate::commands::replication::{bootstrap_status, config, cursor, health, lag, status};
use crate::output::{Document, Format, write_document};

use super::archive::Content;

/// What could be had of a site, whoever told it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) site: String,
    /// `control`, `shipper`, `files` or empty: nothing was had.
    pub(super) by: &'static str,
    pub(super) witness: bool,
    pub(super) status: Option<StatusAnswer>,
    pub(super) shipper: Option<StatusReply>,
    pub(super) history: Option<HistoryAnswer>,
    pub(super) settings: Option<ConfigAnswer>,
    pub(super) raft: Option<RaftState>,
    pub(super) journal: Option<JournalReply>,
    pub(super) bootstrap: Option<BootstrapReply>,
    pub(super) control_metrics: String,
    pub(super) shipper_metrics: String,
    /// What could not be had, and why.
    pub(super) missing: Vec<MissingPart>,
}

impl From<DiagnosticsAnswer> for Known {
    fn from(answer: DiagnosticsAnswer) -> Self {
        let mut known = Self {
            site: answer.site,
            by: "control",
            witness: answer.witness,
            shipper: answer.status.as_ref().and_then(|status| status.shipper.clone()),
            status: answer.status,
            history: answer.history,
            settings: answer.settings,
            raft: answer.raft,
            journal: answer.journal,
            bootstrap: answer.bootstrap,
            control_metrics: answer.control_metrics,
            shipper_metrics: answer.shipper_metrics,
            missing: answer.missing,
        };
        if let Some(status) = known.status.as_ref().filter(|_| known.shipper.is_none() && !known.witness) {
            let why = status.shipper_error.clone();
            known.missing.push(MissingPart { part: "shipper".into(), why });
        }
        known
    }
}

impl Known {
    /// A site of which nothing was had.
    pub(super) fn nothing(site: impl Into<String>, why: impl Into<String>) -> Self {
        let missing = vec![MissingPart { part: "everything".into(), why: why.into() }];
        Self { site: site.into(), missing, ..Self::default() }
    }

    /// Notes what could not be had.
    pub(super) fn lacks(&mut self, part: &str, why: impl Into<String>) {
        self.missing.push(MissingPart { part: part.into(), why: why.into() });
    }

    /// Names of other sites that it knows.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        let sites = self.status.iter().flat_map(|status| &status.sites).map(|site| site.site.as_str());
        sites.filter(|site| *site != self.site)
    }

    /// Writes it below `sites/NAME`.
    pub(super) fn write(&self, configured: &[Configured], content: &mut Content) -> io::Result<()> {
        let mut put = Folder { name: format!("sites/{}", self.site), content };
        if let Some(gathered) = self.gathered(configured) {
            put.document("status", &status::document(&gathered))?;
            put.document("health", &health::document(&gathered))?;
            put.document("lag", &lag::document(&gathered))?;
        }
        if let Some(shipper) = &self.shipper {
            put.document("cursors", &cursor::document(shipper))?;
        }
        if let Some(history) = &self.history {
            put.document("history", &History::of(self.answer(history.clone()), true))?;
        }
        if let Some(settings) = &self.settings {
            put.document("settings", &config::document(self.answer(settings.clone())))?;
        }
        if let Some(journal) = &self.journal {
            put.document("journal-status", &Journal::of(journal.clone()))?;
        }
        if let Some(bootstrap) = &self.bootstrap {
            put.document("bootstrap-status", &bootstrap_status::document(bootstrap.clone()))?;
        }
        if let Some(raft) = &self.raft {
            put.document("raft", &Raft::of(raft))?;
        }
        put.text("metrics-control.txt", &self.control_metrics);
        put.text("metrics-shipper.txt", &self.shipper_metrics);
        Ok(())
    }

    fn answer<T>(&self, body: T) -> Answer<T> {
        Answer { by: self.site.clone(), unreachable: Vec::new(), body }
    }

    /// As the commands that look would have it at that site; `None` if neither process told anything.
    fn gathered(&self, configured: &[Configured]) -> Option<Gathered> {
        if self.status.is_none() && self.shipper.is_none() {
            return None;
        }
        let why = |part: &str| {
            let missing = self.missing.iter().find(|missing| missing.part == part);
            missing.map(|missing| missing.why.clone()).unwrap_or_default()
        };
        let told = self.status.as_ref().map(|status| status.useless_certificates.clone());
        Some(Gathered {
            useless_certificates: told.unwrap_or_default(),
            control: self.status.clone().map(|status| self.answer(status)),
            control_error: why("control"),
            shipper: self.shipper.clone(),
            shipper_error: if self.witness { "a witness has no shipper".into() } else { why("shipper") },
            configured: configured.iter().filter(|known| known.site != self.site).cloned().collect(),
        })
    }
}

struct Folder<'a> {
    name: String,
    content: &'a mut Content,
}

impl Folder<'_> {
    /// Both for programs and for people.
    fn document<D: Document>(&mut self, name: &str, document: &D) -> io::Result<()> {
        for (format, ending) in [(Format::Json, "json"), (Format::Table, "txt")] {
            let mut out = Vec::new();
            write_document(&mut out, format, document)?;
            let text = anstream::adapter::strip_bytes(&out).into_vec();
            self.text(&format!("{name}.{ending}"), &String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.content.add(format!("{}/{name}", self.name), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::replication::fixture_tests;

    fn names(content: &Content) -> Vec<&str> {
        content.entries().iter().map(|entry| entry.name.as_str()).collect()
    }

    #[test]
    fn what_is_known_becomes_files_for_people_and_programs() {
        let answer = DiagnosticsAnswer {
            site: "site-a".into(),
            status: Some(StatusAnswer { shipper: Some(fixture_tests::shipper()), ..fixture_tests::answer() }),
            raft: Some(RaftState { term: 7, ..RaftState::default() }),
            control_metrics: "a 1\n".into(),
            ..DiagnosticsAnswer::default()
        };
        let mut content = Content::default();
        Known::from(answer).write(&[], &mut content).expect("memory does not fail");
        let names = names(&content);
        for name in
            ["status.json", "status.txt", "health.json", "lag.txt", "cursors.json", "raft.txt", "metrics-control.txt"]
        {
            assert!(names.contains(&format!("sites/site-a/{name}").as_str()), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("journal") || name.contains("metrics-shipper")), "{names:?}");
        assert!(!content.entries().iter().any(|entry| entry.text.contains('\u{1b}')), "colours stayed");
    }

    #[test]
    fn a_shipper_that_was_not_heard_is_missing_unless_there_is_none() {
        let answer = |witness| {
            let status =
                StatusAnswer { shipper_error: "no such file".into(), shipper: None, ..fixture_tests::answer() };
            DiagnosticsAnswer { site: "site-a".into(), witness, status: Some(status), ..DiagnosticsAnswer::default() }
        };
        let missing = Known::from(answer(false)).missing;
        assert_eq!((missing[0].part.as_str(), missing[0].why.as_str()), ("shipper", "no such file"));
        assert!(Known::from(answer(true)).missing.is_empty());
        let mut content = Content::default();
        Known::nothing("site-b", "it does not answer").write(&[], &mut content).expect("memory does not fail");
        assert!(content.entries().is_empty());
    }
}
