//! The runbook does what it says: every block of `docs/runbook.md` is typed, in order, at the sites of a real cluster, and what is printed is compared with the page.
//! So are the blocks that operators were promised first (`runbook/promised.md`). `tests/nspawn/page` has both typed in machines, literally.

#[path = "runbook/bench.rs"]
mod bench;
#[path = "runbook/machines.rs"]
mod machines;
#[path = "runbook/page.rs"]
mod page;
#[path = "runbook/stand_ins.rs"]
mod stand_ins;

use std::fs;
use std::path::{Path, PathBuf};

use bench::{Bench, Place};
use machines::Machines;
use stand_ins::StandIns;

use crate::harness::skipped;

const RUNBOOK: &str = "docs/runbook.md";
const PROMISED: &str = "tests/scenarios/runbook/promised.md";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli has a parent").to_owned()
}

/// Types a page from its top to its end.
fn run(file: &str, place: Box<dyn Place>) {
    let path = repository().join(file);
    let text = fs::read_to_string(&path).expect("the page is there");
    let items = page::parse(&text);
    let mut bench = Bench::new(place);
    for item in items {
        match item {
            page::Item::Bench { order, line } => bench.order(&order, &format!("{file}:{line}")),
            page::Item::Step(step) => bench.step(&step, &format!("{file}:{}", step.line)),
        }
    }
}

fn run_on_machines(file: &str) {
    match Machines::new() {
        Some(machines) => run(file, Box::new(machines)),
        None => skipped("it takes machines: run tests/nspawn/page"),
    }
}

#[test]
fn the_runbook_does_what_it_says() {
    run(RUNBOOK, Box::new(StandIns::new()));
}

#[test]
fn what_operators_were_promised_works() {
    run(PROMISED, Box::new(StandIns::new()));
}

#[test]
#[ignore = "slow, and takes machines: tests/nspawn/page"]
fn campaign_the_runbook_on_machines() {
    run_on_machines(RUNBOOK);
}

#[test]
#[ignore = "slow, and takes machines: tests/nspawn/page"]
fn campaign_what_operators_were_promised_on_machines() {
    run_on_machines(PROMISED);
}

/// The appendix maps each promised command to the pages that are run; none is missing, and none is there that no page runs.
#[test]
fn every_promised_command_is_run() {
    let commands = |page: &str| -> Vec<String> {
        let text = fs::read_to_string(repository().join(page)).expect("the page is there");
        let steps = page::parse(&text).into_iter().filter_map(|item| match item {
            page::Item::Step(step) => Some(step.command),
            page::Item::Bench { .. } => None,
        });
        steps.collect()
    };
    let run: Vec<String> = [RUNBOOK, PROMISED].into_iter().flat_map(commands).collect();
    let table = fs::read_to_string(repository().join("docs/runbook-commands.md")).expect("the table is there");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 40, "the table lost its rows");
    for row in rows {
        let command = row.trim_start_matches("| `").split('`').next().expect("a command").replace("\\|", "|");
        if let Some(scenario) = row.split('`').nth(3) {
            let text = fs::read_to_string(repository().join(scenario)).expect("the scenario is there");
            assert!(text.contains(&command.replace("9090", "{port}")), "{scenario} does not run `{command}`");
            continue;
        }
        assert!(run.iter().any(|one| one.contains(&command)), "no page runs `{command}`");
    }
}
