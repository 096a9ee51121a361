use std::fs;

use super::*;
use crate::error::Problem;
use crate::resolve::address;
use crate::schema::{KEYS, PEER_KEYS};
use crate::setting::Origin;

const ID: &str = "00010203-0405-0607-0809-0a0b0c0d0e0f";

fn minimal() -> String {
    format!("[site]\nname = \"site-a\"\nid = 1\n[cluster]\nid = \"{ID}\"\n")
}

fn with_peer(extra: &str) -> String {
    let peer = "[[peers]]\nname = \"site-b\"\nid = 2\npeer = \"site-b:9500\"\ncontrol = \"site-b:9501\"\n";
    format!("{}{peer}{extra}", minimal())
}

struct Given<'a> {
    file: &'a str,
    env: &'a [(&'a str, &'a str)],
    flags: &'a [(&'a str, &'a str)],
}

fn load(given: &Given<'_>) -> Result<Config, Error> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("repl.toml");
    fs::write(&path, given.file).expect("written");
    let env = given.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load_with(Some(&path), given.flags, env)
}

fn from_file(file: &str) -> Result<Config, Error> {
    load(&Given { file, env: &[], flags: &[] })
}

/// The messages, and after `@` the line that each names.
fn problems(result: Result<Config, Error>) -> Vec<String> {
    let error = result.expect_err("a problem");
    let line = |place: &str| place.rsplit_once("repl.toml").map(|(_, line)| line.to_owned());
    let show = |p: &Problem| format!("{} @{}", p.message, line(&p.place).unwrap_or_else(|| p.place.clone()));
    error.problems().iter().map(show).collect()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = from_file(&minimal()).expect("loads");
    assert_eq!(config.journal_dir(), Path::new("/var/claudefs/journal"));
    assert_eq!(config.tls_dir(), Path::new("/var/claudefs/tls"));
    assert_eq!(config.shipper_socket(), Path::new("/run/claudefs/shipper.sock"));
    assert_eq!(config.listen.peer, "0.0.0.0:9500");
    assert_eq!(config.replication.compression, Codec::Lz4);
    assert_eq!((config.replication.batch_size, config.replication.batch_timeout_ms), (500, 100));
    assert_eq!(config.replication.credit_bytes, 32 << 20);
    assert_eq!(config.replication.durability, Durability::Local);
    assert_eq!(config.store.map_bytes, 1 << 40);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn flag_wins_over_env_over_file_over_default() {
    let file = format!("{}[replication]\nbatch_size = 10\nheartbeat_ms = 20\ncompression = \"zstd:5\"\n", minimal());
    let env = [("CFS_REPLICATION__BATCH_SIZE", "30"), ("CFS_REPLICATION__HEARTBEAT_MS", "40"), ("CFS_OTHER", "x")];
    let config = load(&Given { file: &file, env: &env, flags: &[("replication.batch_size", "50")] }).expect("loads");
    let shown = |key: &str| {
        let setting = config.settings().iter().find(|setting| setting.key == key).expect("a setting");
        (setting.value.clone(), setting.origin.clone())
    };
    assert_eq!(config.replication.batch_size, 50);
    assert_eq!(shown("replication.batch_size"), ("50".to_owned(), Origin::Flag));
    assert_eq!(
        shown("replication.heartbeat_ms"),
        ("40".to_owned(), Origin::Env("CFS_REPLICATION__HEARTBEAT_MS".to_owned()))
    );
    assert_eq!(shown("replication.compression"), ("zstd:5".to_owned(), Origin::File));
    assert_eq!(shown("replication.credit"), ("32MiB".to_owned(), Origin::Default));
    assert_eq!(shown("paths.tls"), ("/var/claudefs/tls".to_owned(), Origin::Default));
}

#[test]
fn every_key_is_among_the_settings_once() {
    let config = from_file(&with_peer("")).expect("loads");
    let shown: Vec<&str> = config.settings().iter().map(|setting| setting.key.as_str()).collect();
    let peers = PEER_KEYS.iter().map(|key| format!("peers[0].{}", key.name));
    let known: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).chain(peers).collect();
    assert_eq!(shown, known);
}

#[test]
fn an_unknown_key_is_named_in_full_with_line_and_suggestion() {
    let file = format!("{}[replication]\nbatch_sise = 5\n[replicaton]\nx = 1\n[jornal.x]\n", minimal());
    assert_eq!(
        problems(from_file(&file)),
        [
            "replication.batch_sise is unknown, did you mean replication.batch_size? @:7",
            "replicaton is unknown, did you mean replication? @:8",
            "jornal is unknown, did you mean journal? @:10",
        ]
    );
    assert_eq!(
        problems(from_file(&with_peer("contrl = \"x:1\"\nwhatever_it_is = 1\n"))),
        ["peers[0].contrl is unknown, did you mean control? @:11", "peers[0].whatever_it_is is unknown @:12",]
    );
}

#[test]
fn environment_and_flags_are_checked_like_the_file() {
    let env = [
        ("CFS_REPLICATION__BATCH_SISE", "5"),
        ("CFS_PEERS__0__NAME", "x"),
        ("CFS_STORE__MAP", "1MiB"),
        ("CFS_CONFIG", "/nowhere"),
    ];
    let found =
        problems(load(&Given { file: &minimal(), env: &env, flags: &[("log.fliter", "x"), ("log.format", "xml")] }));
    assert_eq!(
        found,
        [
            "CFS_PEERS__0__NAME: peers cannot be set here, write them into the file @environment",
            "CFS_REPLICATION__BATCH_SISE is unknown, did you mean CFS_REPLICATION__BATCH_SIZE? @environment",
            "log.fliter is unknown, did you mean log.filter? @command line",
            "store.map: 1MiB is out of range: use 64MiB to 16TiB @environment (CFS_STORE__MAP)",
            "log.format: \"xml\" is unknown: use text or json @command line",
        ]
    );
}

#[test]
fn all_problems_are_reported_at_once_with_their_range() {
    let file = "[site]\nname = \"Site\"\nid = 256\n[paths]\nstate = \"var\"\n[listen]\npeer = \"9500\"\nhttp = 9502\n\
                [replication]\nbatch_size = 0\ncredit = \"33MiB\"\ndurability = \"remote(0)\"\n[[peers]]\nname = \"site-b\"\n";
    let found = problems(from_file(file));
    let expected = [
        "listen.http must be text in quotes",
        "site.name: site name \"Site\" is not usable",
        "site.id: 256 is out of range: use a whole number from 1 to 255 @:3",
        "cluster.id: it is missing",
        "paths.state: \"var\" is no absolute path",
        "listen.peer: \"9500\" is no address",
        "replication.batch_size: 0 is out of range: use a whole number from 1 to 65536 @:10",
        "replication.durability: durability \"remote(0)\" is unknown",
        "replication.credit: 33MiB is out of range: use 1MiB to 32MiB @:11",
        "peers[0].id: it is missing",
        "peers[0].peer: it is missing",
        "peers[0].control: it is missing",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn syntax_errors_name_the_line() {
    let found = problems(from_file("[site]\nname = \"site-a\nid = 1\n"));
    assert!(found.iter().any(|problem| problem.ends_with("@:2")), "{found:#?}");
    let found = problems(from_file("site = 3\npeers = 4\n"));
    assert!(found[0].starts_with("site must be a table"), "{found:#?}");
    assert!(found[1].starts_with("peers must be tables"), "{found:#?}");
}

#[test]
fn two_sites_never_share_a_name_or_number_and_two_listeners_no_port() {
    let second = "[[peers]]\nname = \"site-b\"\nid = 1\npeer = \"b:1\"\ncontrol = \"b:2\"\n";
    let rest = "[listen]\ncontrol = \"127.0.0.1:9500\"\nhttp = \"10.0.0.1:9600\"\nshipper_http = \"10.0.0.2:9600\"\n\
                producer = \"\"\n[replication]\ndurability = \"remote(3)\"\n";
    assert_eq!(
        problems(from_file(&with_peer(&format!("{second}{rest}")))),
        [
            "peers[1].name: site-b is the name of another site too @",
            "peers[1].id: 1 is the number of another site too @",
            "replication.durability: remote(3) needs 3 other sites that store data, and 2 are configured @",
            "listen.control: port 9500 is taken by listen.peer already @",
        ]
    );
}

#[test]
fn an_empty_address_switches_a_listener_off() {
    let config = from_file(&format!("{}[listen]\nhttp = \"\"\nproducer = \"\"\n", minimal())).expect("loads");
    assert_eq!((config.listen.http, config.listen.producer), (None, None));
    assert_eq!(config.listen.shipper_http.as_deref(), Some("0.0.0.0:9503"));
    let found = problems(from_file(&format!("{}[listen]\npeer = \"\"\n", minimal())));
    assert!(found[0].starts_with("listen.peer: \"\" is no address"), "{found:#?}");
}

#[test]
fn addresses_are_host_and_port() {
    for (text, expected) in [
        ("site-b:9500", Some(("site-b", 9500))),
        ("[::]:1", Some(("::", 1))),
        ("10.0.0.1:0", Some(("10.0.0.1", 0))),
        ("::1:9500", None),
        ("[x]:1", None),
        (":9500", None),
        ("a:65536", None),
        ("a:+1", None),
        ("a b:1", None),
    ] {
        assert_eq!(address(text), expected, "{text}");
    }
}

#[test]
fn a_missing_file_says_how_to_name_another() {
    let env = [(OsString::from("CFS_CONFIG"), OsString::from("/nowhere/repl.toml"))];
    let error = Config::load_with(None, &[], env).expect_err("no file").to_string();
    assert!(error.starts_with("/nowhere/repl.toml: cannot read it: "), "{error}");
    assert!(error.ends_with("--config or CFS_CONFIG"), "{error}");
    let error = Config::load_with(Some(Path::new("/nowhere/x")), &[], Vec::new()).expect_err("no file").to_string();
    assert!(error.starts_with("/nowhere/x: "), "{error}");
}

const WITNESS: &str = "[[peers]]\nname = \"site-w\"\nid = 9\nkind = \"witness\"\ncontrol = \"site-w:9501\"\n";

#[test]
fn a_witness_needs_no_shipper_and_counts_for_no_copy() {
    let config = from_file(&with_peer(WITNESS)).expect("loads");
    let kinds: Vec<(&str, bool, &str)> =
        config.peers.iter().map(|peer| (peer.name.as_str(), peer.witness, peer.peer.as_str())).collect();
    assert_eq!(kinds, [("site-b", false, "site-b:9500"), ("site-w", true, "")]);
    assert_eq!(config.data_peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["site-b"]);
    assert!(!config.site.witness);
    let two = with_peer(&format!("{WITNESS}[replication]\ndurability = \"remote(2)\"\n"));
    assert_eq!(
        problems(from_file(&two)),
        ["replication.durability: remote(2) needs 2 other sites that store data, and 1 are configured @"]
    );
    let text = minimal().replace("id = 1\n", "id = 1\nkind = \"witness\"\npriority = 7\n");
    let config = from_file(&text).expect("loads");
    assert_eq!((config.site.witness, config.site.priority), (true, 7));
}

#[test]
fn a_cluster_has_one_witness_at_most() {
    let second = WITNESS.replace("site-w", "site-x").replace("id = 9", "id = 10");
    let expected = "peers[2].kind: site-w is the witness already, and a cluster has one at most @";
    assert_eq!(problems(from_file(&with_peer(&format!("{WITNESS}{second}")))), [expected]);
    let here = with_peer(WITNESS).replacen("id = 1\n", "id = 1\nkind = \"witness\"\n", 1);
    let expected = "peers[1].kind: site-a is the witness already, and a cluster has one at most @";
    assert_eq!(problems(from_file(&here)), [expected]);
}

#[test]
fn addresses_of_other_sites_clash_with_nobody() {
    let second = "[[peers]]\nname = \"site-c\"\nid = 3\npeer = \"site-b:9501\"\ncontrol = \"127.0.0.1:9502\"\n\
                  producer = \"localhost:7000\"\n[listen]\nproducer = \"127.0.0.1:7000\"\n";
    assert_eq!(
        problems(from_file(&with_peer(second))),
        [
            "peers[1].peer: ports clash: site-b:9501 is the address of peers[0].control too @",
            "peers[1].control: ports clash: 127.0.0.1:9502 is the address of listen.http too @",
            "peers[1].producer: ports clash: localhost:7000 is the address of listen.producer too @",
        ]
    );
    // Equal ports of different machines are the rule.
    let apart = "[[peers]]\nname = \"site-c\"\nid = 3\npeer = \"site-c:9500\"\ncontrol = \"10.0.0.3:9501\"\n";
    from_file(&with_peer(apart)).expect("nothing clashes");
}

#[test]
fn the_control_process_has_its_own_section() {
    let config = from_file(&minimal()).expect("loads");
    let expected = Control {
        restart_grace_ms: 1000,
        lease_ms: 1000,
        auto_rejoin: true,
        auto_failover: true,
        goes_on_alone: false,
        pre_promote: None,
        post_role_change: None,
        hook_timeout_ms: 5000,
        handover_ms: 45_000,
        group: "claudefs".to_owned(),
    };
    assert_eq!(config.founding_file(), config.file.with_file_name("founding"));
    assert_eq!((config.control, config.site.priority), (expected, 100));
    let given = "[control]\nrestart_grace_ms = 0\nauto_failover = \"off\"\npartition_policy = \"continue\"\npre_promote = \"/bin/true\"\n";
    let control = from_file(&format!("{}{given}", minimal())).expect("loads").control;
    assert_eq!((control.restart_grace_ms, control.auto_failover, control.goes_on_alone), (0, false, true));
    assert_eq!(control.pre_promote.as_deref(), Some(Path::new("/bin/true")));
    let bad = "[control]\nlease_ms = 299\nauto_rejoin = \"yes\"\npost_role_change = \"hook\"\ngroup = \"\"\n";
    assert_eq!(
        problems(from_file(&format!("{}{bad}", minimal()))),
        [
            "control.lease_ms: 299 is out of range: use a whole number from 300 to 60000 @:7",
            "control.auto_rejoin: \"yes\" is unknown: use on or off @:8",
            "control.post_role_change: \"hook\" is no absolute path: start it with / @:9",
            "control.group: it is empty @:10",
        ]
    );
}

/// The table of keys in the documentation: name, default, range, variable. Settings of the cluster, whose names have no section,
/// have a table of their own.
fn documented() -> Vec<[String; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = fs::read_to_string(path).expect("docs/configuration.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<String> = row.trim_matches('|').split(" | ").map(cell).collect();
        [cells[0].clone(), cells[1].clone(), cells[2].clone(), cells[3].clone()]
    })
    .filter(|row: &[String; 4]| row[0].contains('.'))
    .collect()
}

#[test]
fn the_documentation_lists_exactly_the_keys_with_their_defaults_ranges_and_variables() {
    use crate::schema::{Kind, Preset};
    let all = KEYS.iter().map(|key| (key.name.to_owned(), key, key.env()));
    let all = all.chain(PEER_KEYS.iter().map(|key| (format!("peers.{}", key.name), key, "none".to_owned())));
    let documented = documented();
    assert_eq!(documented.len(), KEYS.len() + PEER_KEYS.len());
    for ((name, key, env), row) in all.zip(&documented) {
        assert_eq!((&name, &env), (&row[0], &row[3]));
        match key.default {
            Preset::Value(text) => assert_eq!(row[1], text, "default of {name}"),
            Preset::Required => assert_eq!(row[1], "required", "default of {name}"),
            Preset::Derived => assert!(!row[1].is_empty(), "default of {name}"),
        }
        let range = match key.kind {
            Kind::Number(least, most) => Some(format!("{least} to {most}")),
            Kind::Size(least, most) => Some(format!("{least} to {most}")),
            Kind::Choice(words) => Some(words.join(" or ")),
            _ => None,
        };
        if let Some(range) = range {
            assert_eq!(row[2], range, "range of {name}");
        }
    }
}

#[test]
fn the_example_loads_and_shows_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/repl.example.toml");
    let config = Config::load_with(Some(&path), &[], Vec::new()).expect("the example loads");
    assert!(!config.peers.is_empty());
    let text = fs::read_to_string(&path).expect("the example");
    for key in KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.1)) {
        let shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        assert!(text.lines().any(shown), "{key} is not in the example");
    }
}
