//! What a runbook is typed at: the orders of the bench, and what is printed against what should be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::page::{self, Step};
use crate::harness::{PATIENCE, Said, skipped};

/// Programs that a small machine may lack: their steps are skipped there, and say so.
const OPTIONAL: [&str; 5] = ["jq", "curl", "free", "prometheus", "promtool"];
/// What only looks is typed again until it shows what it should, as an operator would.
const LOOKS: [&str; 16] = [
    "status",
    "lag",
    "health",
    "bootstrap-status",
    "cursor",
    "journal-status",
    "metrics",
    "history",
    "audit",
    "consistency-check",
    "lookup",
    "config",
    "curl",
    "systemctl status",
    "journalctl",
    "debug --trace",
];
/// Ends of commands that go on until Ctrl-C.
const ENDLESS: [&str; 4] = [" -f", " --follow", " --trace", " --watch"];
/// Those are looked at for so long, in seconds.
pub(super) const LOOK_S: &str = "2";

/// Where a page is typed: a cluster, and the rest of its machines.
pub(super) trait Place {
    /// Fresh sites in place of those before, with configuration and certificates; nothing runs, and nobody is enrolled.
    fn cluster(&mut self, sites: &str, witness: Option<&str>);
    /// A fault or its end, in the words of `cfs dev`.
    fn dev(&self, words: &[&str]);
    /// The key of the authority is where a site looks for it.
    fn authority(&self, site: &str);
    /// Starts to append at whichever site is primary, from `site`, and waits for the first acknowledgement.
    fn start_load(&mut self, site: &str);
    /// Waits until the load of `site` goes on, and ends it; the fate of every entry must be known.
    fn end_load(&mut self, site: &str);
    /// Runs a command in a shell at a site. Both outputs come as one, as at a terminal, in the words of a machine of its own.
    fn typed(&self, site: &str, text: &str) -> Said;
    /// Whether its machines lack a program.
    fn lacks(&self, program: &str) -> bool;
    /// The ends of all logs.
    fn logs(&self) -> String;
}

/// Types what a page says.
pub(super) struct Bench {
    place: Box<dyn Place>,
    /// What names mean in commands, as `<inode_id>`.
    names: BTreeMap<String, String>,
}

impl Bench {
    pub(super) fn new(place: Box<dyn Place>) -> Self {
        Self { place, names: BTreeMap::new() }
    }

    /// What no operator does.
    pub(super) fn order(&mut self, order: &str, at: &str) {
        let words: Vec<&str> = order.split(' ').collect();
        match words.as_slice() {
            ["cluster", sites] => self.place.cluster(sites, None),
            ["cluster", sites, "witness", witness] => self.place.cluster(sites, Some(witness)),
            ["dev", words @ ..] => self.place.dev(words),
            ["authority", site] => self.place.authority(site),
            ["write", site] => {
                self.place.start_load(site);
                self.place.end_load(site);
            }
            ["load", "start", site] => self.place.start_load(site),
            ["load", "end", site] => self.place.end_load(site),
            ["run", site, rest @ ..] => {
                let said = self.typed(site, &rest.join(" "));
                assert_eq!(said.code, 0, "{at}: {said:?}");
            }
            ["name", name, site, rest @ ..] => {
                let value = self.typed(site, &rest.join(" ")).ok().trim().to_owned();
                self.names.insert(format!("<{name}>"), value);
            }
            ["wait", seconds] => std::thread::sleep(Duration::from_secs(seconds.parse().expect("seconds"))),
            _ => panic!("{at}: the bench knows no order {order:?}"),
        }
    }

    /// Types a command and compares what it prints.
    pub(super) fn step(&self, step: &Step, at: &str) {
        let missing = OPTIONAL.iter().find(|program| uses(&step.command, program) && self.place.lacks(program));
        if let Some(program) = missing {
            return skipped(&format!("{at}: {program} is not installed"));
        }
        let looks = LOOKS.iter().any(|verb| step.command.contains(verb)) && !step.command.contains("ssh ");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.typed(&step.site, &step.command);
            if said.code == step.exit && page::fits(&step.expected, &said.out) {
                return;
            }
            // A cluster of another scenario may have taken the port of a site that did not run yet, and ends soon.
            let taken = said.out.contains("is in use: choose another");
            assert!(
                (looks || taken) && Instant::now() < deadline,
                "{at}: {}# {}\nexpected (exit code {}):\n{}\nprinted (exit code {}):\n{}\n{}",
                step.site,
                step.command,
                step.exit,
                step.expected.join("\n"),
                said.code,
                said.out,
                self.place.logs()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn typed(&self, site: &str, text: &str) -> Said {
        let named = self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        self.place.typed(site, &named)
    }
}

/// Whether a command goes on until it is interrupted.
pub(super) fn is_endless(text: &str) -> bool {
    ENDLESS.iter().any(|end| text.ends_with(end) || text.contains(&format!("{end} ")))
}

/// What a command said that ends by itself, or is interrupted after a look.
pub(super) fn looked_at(said: Said) -> Said {
    Said { code: if [124, 130].contains(&said.code) { 0 } else { said.code }, ..said }
}

fn uses(command: &str, program: &str) -> bool {
    command.split(|c: char| c.is_whitespace() || c == '|' || c == '(').any(|word| word == program)
}
