//! Scripts of what happens to a little cluster, and what its decisions were: `tests/golden/*.txt`. Lines that begin with
//! `> ` are the script, everything else is what came of it. `UPDATE_GOLDEN=1` writes the outcome; otherwise it is compared.
//! The invariants are checked throughout.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod model;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cfs_control_core::command::Change;
use cfs_control_core::founding::{self, Start};
use cfs_control_core::plan::plan;
use cfs_control_core::state::Settings;
use cfs_control_core::{Kind, alone};
use cfs_model::{Epoch, SiteId, Vector};

use model::World;
use model::world::{Setup, WITNESS, site};

fn site_id(word: &str) -> SiteId {
    match word {
        "w" => WITNESS,
        _ => SiteId(word.bytes().next().filter(u8::is_ascii_lowercase).expect("a site's letter") - b'a' + 1),
    }
}

fn held_word(word: &str) -> &'static str {
    ["reports", "replies", "orders", "answers", "acks"].into_iter().find(|known| *known == word).expect("a message")
}

/// `KEY=VALUE` among the words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(words: &[&str], key: &str) -> Option<u64> {
    value(words, key).map(|value| value.parse().expect("a number"))
}

fn cluster(words: &[&str]) -> World {
    let setup = Setup {
        data: words.iter().filter(|word| word.len() == 1 && **word != "w").count() as u8,
        witness: words.contains(&"w"),
        copies: number(words, "copies").unwrap_or(0) as u8,
        lease_ms: number(words, "lease").unwrap_or(1000),
        leader: site_id(value(words, "leader").unwrap_or("a")),
        grace_ms: number(words, "grace").unwrap_or(1000),
    };
    World::new(&setup)
}

fn settings(words: &[&str]) -> Settings {
    let flag = |key| value(words, key).map(|value| value == "on");
    Settings {
        lease_ms: number(words, "lease"),
        copies: number(words, "copies").map(|copies| copies as u8),
        auto_rejoin: flag("auto_rejoin"),
        auto_failover: flag("auto_failover"),
        goes_on_alone: value(words, "partition").map(|policy| policy == "continue"),
    }
}

fn show(world: &mut World) {
    for id in world.ids() {
        let boot_ns = world.boot_ns(id);
        let node = &world.nodes[&id];
        let leader = if world.leads(id) { ", leads" } else { "" };
        let control = if node.control.is_none() { ", control down" } else { "" };
        let role = match &node.shipper {
            None if node.witness => "witness".to_owned(),
            None => "shipper down".to_owned(),
            Some(shipper) => match shipper.why_not(&node.disk, boot_ns) {
                None => format!("accepts in epoch {}", shipper.told.epoch),
                Some(why) => why,
            },
        };
        let data = if node.witness {
            String::new()
        } else {
            format!("; floor {}, holds {}", node.disk.floor, world.vector(&node.disk.durable))
        };
        world.say(format!("  {}: {role}{data}; epoch {}{leader}{control}", world.name(id), node.state.epoch));
    }
}

/// One line of a script.
fn execute(world: &mut World, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = |n: usize| site_id(words.get(n).expect("a site"));
    let part = |n: usize| words.get(n).copied().unwrap_or("site");
    let ms = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
    match words[0] {
        "wait" => world.run(ms(1).expect("milliseconds")),
        "show" => show(world),
        "write" => {
            let copies = number(&words, "copies").map_or(world.nodes[&at(1)].copies, |copies| copies as u8);
            let name = world.name(at(1));
            match world.write(at(1), copies) {
                Ok(lsn) => {
                    let before = world.checks.acked.len();
                    world.run(100);
                    let acked = world.checks.acked.iter().skip(before);
                    let acked = acked.filter(|acked| acked.site == at(1) && acked.entry.lsn == lsn).count() > 0;
                    let what = if acked { "is acknowledged" } else { "waits" };
                    world.say(format!("{name}: entry {lsn} {what}"));
                }
                Err(why) => world.say(format!("{name} takes no entry: {why}")),
            }
        }
        "append" => {
            let copies = world.nodes[&at(1)].copies;
            let outcome = world.write(at(1), copies);
            world.say(format!("{}: entry {outcome:?} is durable there", world.name(at(1))));
        }
        "load" => world.nodes.get_mut(&at(1)).unwrap().load = part(2) == "on",
        "acked" => {
            let of = |acked: &&model::check::Acked| acked.site == at(1);
            let last = world.checks.acked.iter().rfind(of).map(|acked| (acked.entry.lsn, acked.at_ms));
            match last {
                Some((lsn, at_ms)) => world.say(format!("{} acknowledged last entry {lsn}, at {at_ms}", part(1))),
                None => world.say(format!("{} acknowledged nothing", part(1))),
            }
        }
        "kill" => {
            if part(2) != "control" {
                world.kill_shipper(at(1));
            }
            if part(2) != "shipper" {
                world.kill_control(at(1));
            }
        }
        "start" => {
            if part(2) != "control" {
                world.start_shipper(at(1));
            }
            if part(2) != "shipper" {
                world.start_control(at(1));
            }
        }
        "pause" => world.pause(at(1), true),
        "resume" => world.pause(at(1), false),
        "hang" => world.hang(at(1), true),
        "unhang" => world.hang(at(1), false),
        "socket" => world.nodes.get_mut(&at(1)).unwrap().session = part(2) == "mends",
        "cut" => world.cut(at(1), at(2), part(3) != "one-way"),
        "isolate" => {
            for other in world.ids() {
                if other != at(1) {
                    world.cut(at(1), other, true);
                }
            }
        }
        "heal" if words.len() == 3 => {
            let pair = (at(1), at(2));
            world.cuts.retain(|cut| *cut != pair && *cut != (pair.1, pair.0));
        }
        "heal" => world.cuts.clear(),
        "delay" => {
            for pair in [(at(1), at(2)), (at(2), at(1))] {
                world.delays.insert(pair, ms(3).expect("milliseconds"));
            }
        }
        "elect" => {
            if let Err(why) = world.elect(at(1)) {
                world.say(format!("{} is not elected: {why}", world.name(at(1))));
            }
        }
        "hold" if part(1) == "apply" => world.nodes.get_mut(&at(2)).unwrap().apply_held = true,
        "hold" if part(1) == "store" => world.nodes.get_mut(&at(2)).unwrap().store_held = true,
        "hold" => {
            world.holds.insert((held_word(part(1)), at(2)));
        }
        "release" if part(1) == "apply" => world.nodes.get_mut(&at(2)).unwrap().apply_held = false,
        "release" if part(1) == "store" => world.nodes.get_mut(&at(2)).unwrap().store_held = false,
        "release" => world.release(held_word(part(1)), at(2), false),
        "drop" => world.release(held_word(part(1)), at(2), true),
        "lose-tail" => world.lose_tail(at(1), ms(2).expect("entries")),
        "wipe" => world.wipe(at(1)),
        "forget" => world.nodes.get_mut(&at(1)).unwrap().state = Default::default(),
        "boot" => boot(world, at(1), words.contains(&"file")),
        "clock" => world.nodes.get_mut(&at(1)).unwrap().wall_offset_ms = part(2).parse().expect("milliseconds"),
        "rate" => world.nodes.get_mut(&at(1)).unwrap().rate = ms(2).expect("thousandths"),
        "veto" => world.nodes.get_mut(&at(1)).unwrap().veto = words.get(2).map(|_| words[2..].join(" ")),
        "priority" => {
            for id in world.ids() {
                let state = &mut world.nodes.get_mut(&id).unwrap().state;
                state.sites.get_mut(&at(1)).unwrap().priority = ms(2).expect("a number") as u8;
            }
        }
        "unhold" => {
            world.holds.remove(&(held_word(part(1)), at(2)));
        }
        "log-delay" => world.log_delay_ms = ms(1).expect("milliseconds"),
        "force" => world.force(at(1)),
        "plan" => show_plan(world, part(1)),
        "may-grant" => {
            let restart = alone::Restart {
                away_ms: number(&words, "away"),
                answered: value(&words, "answered")
                    .map(|text| text.split(',').map(|site| (site_id(&site[..1]), site[2..].parse().unwrap())).collect())
                    .unwrap_or_default(),
                alone: words.contains(&"--alone"),
                current: false,
            };
            let answer = match alone::may_grant(&world.nodes[&at(1)].state, at(1), &restart) {
                Ok(()) => "may grant leases".to_owned(),
                Err(why) => format!("grants nothing yet: {why}"),
            };
            world.say(format!("{} {answer}", world.name(at(1))));
        }
        _ => operate(world, &words),
    }
}

/// What a control process does that finds what its site holds, and the one-time file or none.
fn boot(world: &mut World, id: SiteId, founding_file: bool) {
    let node = &world.nodes[&id];
    let state = Some(node.state.group).filter(|group| *group != 0);
    let start = Start {
        site: node.name.clone(),
        witness: node.witness,
        state,
        state_site: state.map(|_| node.name.clone()).unwrap_or_default(),
        founding_file,
        was_member: !node.disk.opened.is_empty(),
        knows_epochs: !node.disk.opened.is_empty(),
        peers: world
            .nodes
            .values()
            .filter(|other| !other.witness && other.name != node.name)
            .map(|other| other.name.clone())
            .collect(),
    };
    let name = node.name.clone();
    world.say(match founding::decide(&start) {
        founding::Decision::Resume(_) => format!("{name} goes on as a member of its group"),
        founding::Decision::Found => format!("{name} founds a group"),
        founding::Decision::Wait { why, next } => format!("{name} waits: {why}; next: {next}"),
        founding::Decision::Refuse { why, next } => format!("{name} refuses: {why}; next: {next}"),
    });
}

/// What an operator commits.
fn operate(world: &mut World, words: &[&str]) {
    let at = |n: usize| site_id(words.get(n).expect("a site"));
    let outcome = match words[0] {
        "switchover" => world.switchover(at(1), number(words, "timeout").unwrap_or(5000)),
        "failover" => {
            let Some(leader) = world.working_leader() else {
                world.say("no leader".to_owned());
                return;
            };
            let state = &world.nodes[&leader].state;
            let change = Change::Failover { to: Some(at(1)) };
            world.command(Kind::Begin {
                op: state.last_op + 1,
                epoch: state.epoch,
                change,
                reason: "an operator said so".into(),
                evidence: String::new(),
            })
        }
        "mode" => world.mode(words[1] == "on", number(words, "timeout").unwrap_or(5000)),
        "coordinate" => {
            let epoch = world.working_leader().map_or(Epoch(0), |leader| world.nodes[&leader].state.epoch);
            let (reason, evidence) = ("an operator said so".to_owned(), String::new());
            world.command(Kind::Coordinate { epoch, site: at(1), reason, evidence })
        }
        "set" => world.command(Kind::Set(settings(words))),
        "remove" => world.command(Kind::Remove { site: at(1), forced: words.contains(&"--force") }),
        "enrol" => {
            let id = at(1);
            let name = format!("site-{}", words[1]);
            if !world.ids().contains(&id) {
                world.add(id, &name);
            }
            let outcome = world.command(Kind::Enrol { site: site(id, &name, 0, 100) });
            let node = world.working_leader().and_then(|leader| Some(world.nodes[&leader].state.site(id)?.node));
            if let Some(node) = node {
                world.nodes.get_mut(&id).unwrap().id_in_group = node;
            }
            outcome
        }
        "split" => world.command(Kind::Split {
            group: 0x3333,
            epoch: words[1].parse().expect("an epoch"),
            evidence: "its control process answered".into(),
        }),
        "resolve" => world.command(Kind::Resolve {
            above: words[1].parse::<Epoch>().expect("an epoch"),
            opened: words
                .get(2)
                .map(|site| vec![(words[1].parse::<Epoch>().expect("an epoch"), site_id(site))])
                .unwrap_or_default(),
            incarnations: Vec::new(),
            forked_at: Vector::new(),
        }),
        other => panic!("{other} is no command"),
    };
    if let Err(why) = outcome {
        world.say(format!("not proposed: {why}"));
    }
}

fn show_plan(world: &mut World, to: &str) {
    let Some(leader) = world.working_leader() else {
        world.say("no leader".to_owned());
        return;
    };
    let now_ms = world.boot_ns(leader) / 1_000_000;
    let node = &world.nodes[&leader];
    let coordinator = &node.control.as_ref().unwrap().leading.as_ref().unwrap().coordinator;
    let name = if to.len() == 1 { format!("site-{to}") } else { to.to_owned() };
    let lines = match plan(&node.state, coordinator, &name, &Default::default(), None, now_ms) {
        Err(refused) => vec![format!("refused, {}: {}", refused.code, refused.why)],
        Ok(plan) => {
            let mut lines = vec![format!("plan: {} from epoch {} to {}", plan.kind, plan.epochs.0, plan.epochs.1)];
            lines.extend(plan.blockers.iter().map(|blocker| format!("  blocked, {}: {}", blocker.code, blocker.why)));
            lines.extend(plan.warnings.iter().map(|warning| format!("  warning: {warning}")));
            lines
        }
    };
    for line in lines {
        world.say(line);
    }
}

/// Runs a script. Returns it with what came of it.
fn run(script: &str) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut world: Option<World> = None;
    for line in script.lines().filter(|line| line.starts_with('#') || line.starts_with("> ")) {
        writeln!(out, "{line}").unwrap();
        let Some(command) = line.strip_prefix("> ") else { continue };
        let words: Vec<&str> = command.split_whitespace().collect();
        if words[0] == "cluster" {
            world = Some(cluster(&words[1..]));
        } else {
            execute(world.as_mut().expect("a script begins with a cluster"), command);
        }
        for line in std::mem::take(&mut world.as_mut().unwrap().lines) {
            writeln!(out, "{line}").unwrap();
        }
    }
    (out, world.map(|world| world.checks.broken).unwrap_or_default())
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

#[test]
fn scripts_behave_as_written() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let only = std::env::var("GOLDEN").unwrap_or_default();
    let mut wrong = Vec::new();
    for path in scripts() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (out, broken) = run(&text);
        wrong.extend(broken.into_iter().map(|broken| format!("{name}: {broken}")));
        if update {
            std::fs::write(&path, out).unwrap();
        } else if out != text {
            let at = out.lines().zip(text.lines()).position(|(now, was)| now != was).unwrap_or(0);
            let (now, was) = (out.lines().nth(at).unwrap_or(""), text.lines().nth(at).unwrap_or(""));
            wrong.push(format!("{name}, line {}:\n    was {was}\n    now {now}", at + 1));
        }
    }
    assert!(wrong.is_empty(), "with UPDATE_GOLDEN=1 the scripts are written anew\n  {}", wrong.join("\n  "));
}

/// What was promised to be shown by a script, and which one shows it: none goes without notice.
const PROMISED: &[(&str, &[&str])] = &[
    ("the primary's site dies", &["primary_site_dies"]),
    (
        "its shipper dies, its control lives; and the reverse",
        &["primary_shipper_dies_control_lives", "primary_control_dies_shipper_lives"],
    ),
    (
        "the leader dies and is, or is not, the primary",
        &["raft_leader_dies_is_primary", "raft_leader_dies_is_not_primary"],
    ),
    ("both fail in turn", &["both_fail_in_turn", "both_fail_at_once"]),
    ("the lease expires during a leader change", &["lease_expires_during_leader_change"]),
    (
        "the candidate dies",
        &["candidate_dies_while_sealing", "candidate_dies_while_catching_up", "candidate_dies_while_opening"],
    ),
    (
        "a planned switchover",
        &[
            "switchover_succeeds",
            "switchover_times_out",
            "switchover_loses_its_leader",
            "switchover_link_down",
            "failover_during_a_failover",
        ],
    ),
    (
        "each way to split three nodes",
        &[
            "partition_primary_alone",
            "partition_primary_alone_with_the_leader",
            "partition_replica_alone",
            "partition_witness_alone",
            "partition_everybody_alone",
        ],
    ),
    (
        "each link alone",
        &["partition_between_the_data_sites", "cut_between_primary_and_witness", "cut_between_replica_and_witness"],
    ),
    (
        "each link one way",
        &[
            "one_way_cut_a_to_b",
            "one_way_cut_a_to_w",
            "one_way_cut_b_to_a",
            "one_way_cut_b_to_w",
            "one_way_cut_w_to_a",
            "one_way_cut_w_to_b",
        ],
    ),
    ("a slow link, a healthy primary", &["slow_link_healthy_primary"]),
    ("the witness is down", &["witness_down"]),
    (
        "two sites without a witness",
        &["two_sites_without_witness", "two_sites_switchover", "two_sites_primary_shipper_dies"],
    ),
    ("force on a survivor", &["force_on_a_survivor"]),
    ("the old primary is back with a longer stream", &["old_primary_back_with_a_longer_stream"]),
    ("clocks jump", &["clock_jumps"]),
    ("1", &["g1_cut_off_leader_renews", "g1_open_in_the_log_not_applied", "g1_lease_settings_during_a_leader_change"]),
    (
        "2",
        &[
            "g2_seal_sent_leader_dies_old_primary_returns",
            "g2_switchover_times_out_and_its_open_commits",
            "g2_drained_shipper_restarts_with_its_lease",
        ],
    ),
    (
        "3",
        &[
            "g3_renewals_never_arrive",
            "g3_hung_shipper",
            "g3_socket_breaks_while_the_shipper_acknowledges",
            "g3_delayed_resignation_after_a_newer_grant",
        ],
    ),
    ("4", &["g4_tail_lost_peers_reachable", "g4_tail_lost_peers_not_reachable"]),
    (
        "5",
        &[
            "g5_copies_raised_failover_in_the_middle",
            "g5_site_enrolling_failover_in_the_middle",
            "g5_candidate_chosen_on_stale_reports",
            "g5_ack_in_flight_while_its_site_seals",
        ],
    ),
    ("6", &["g6_wiped_founder_boots_first", "g6_both_sides_forced", "g6_only_voter_dies_between_vote_move_and_open"]),
    (
        "7",
        &[
            "g7_sealed_durable_ahead_of_applied",
            "g7_most_complete_seal_dies",
            "g7_site_removed_just_before_the_primary_dies",
            "g7_copies_grow_just_before_the_primary_dies",
            "g7_second_failover_before_the_first_cut_is_covered",
        ],
    ),
    (
        "8",
        &[
            "g8_removed_while_an_unreachable_site_holds_more",
            "g8_resigned_and_nobody_else_can_open",
            "g8_split_resolved_in_favour_of_the_older_generation",
            "g8_control_down_while_the_epoch_changes",
        ],
    ),
];

#[test]
fn every_promised_execution_has_its_script() {
    let names: Vec<String> =
        scripts().iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    for (what, scripts) in PROMISED {
        for script in *scripts {
            assert!(names.iter().any(|name| name == script), "{what}: there is no {script}.txt");
        }
    }
}

#[test]
fn there_is_a_script_for_every_group() {
    let names: Vec<String> =
        scripts().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    for group in 1..=8 {
        assert!(names.iter().filter(|name| name.starts_with(&format!("g{group}_"))).count() >= 2, "group {group}");
    }
}
