use std::path::Path;

use super::*;

fn example() -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/repl.example.toml");
    Config::load_with(Some(&path), &[], []).expect("the example")
}

#[test]
fn every_setting_has_a_key_a_default_that_it_takes_and_a_range() {
    for setting in SETTINGS {
        let default = setting.default_value();
        assert_eq!(setting.check(default).as_deref(), Ok(default), "{}", setting.name);
        assert!(!setting.range().is_empty(), "{}", setting.name);
        assert!(setting.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", setting.name);
        assert!(example().settings().iter().any(|known| known.key == setting.key), "{}", setting.name);
    }
}

#[test]
fn a_bad_value_is_refused_with_what_could_be() {
    for (name, bad, says) in [
        ("compression", "gzip", "zstd:LEVEL with LEVEL from 1 to 19"),
        ("compression", "zstd:20", "from 1 to 19"),
        ("batch_size", "0", "1 to 65536"),
        ("batch_size", "many", "1 to 65536"),
        ("batch_timeout_ms", "10001", "0 to 10000"),
        ("durability", "remote(0)", "from 1 to 254"),
        ("audit_retention", "30", "as in 30d"),
        ("audit_retention", "0d", "1s to 3650d"),
        ("audit_retention_bytes", "1GB", "as in 64MiB"),
        ("lease_ms", "299", "300 to 60000"),
        ("auto_rejoin", "yes", "on or off"),
    ] {
        let setting = find(name).expect(name);
        let why = setting.check(bad).expect_err(bad);
        assert!(why.contains(says), "{name} = {bad}: {why}");
    }
    assert!(unknown("batchsize").contains("did you mean batch_size?"));
}

#[test]
fn the_cluster_stands_before_the_file_and_what_does_not_read_behind_it() {
    let config = example();
    let of = |pairs: &[(&str, &str)]| {
        let values = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        InForce::of(&config, &values)
    };
    let own = of(&[]);
    assert_eq!((own.compression, own.batch_size, own.audit_retention), (Codec::Lz4, 500, Period::days(90)));
    let set = of(&[("compression", "zstd:9"), ("batch_size", "1000"), ("audit_retention", "30d")]);
    assert_eq!((set.compression, set.batch_size, set.audit_retention), (Codec::Zstd(9), 1000, Period::days(30)));
    let newer = of(&[("compression", "brotli"), ("batch_size", "70000"), ("from_the_future", "1")]);
    assert_eq!(newer, own);
}
