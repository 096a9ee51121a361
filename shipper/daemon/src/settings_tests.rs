use cfs_shipper_core::codec::Codec;

use super::*;

fn config(state: &Path) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/repl.example.toml");
    let config = Config::load_with(Some(&path), &[("paths.state", state.to_str().expect("a path"))], []);
    config.expect("the example")
}

fn held(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn the_clusters_settings_hold_at_once_and_after_a_restart_without_control() {
    let dir = tempfile::tempdir().expect("a directory");
    private_file::create_directory(&dir.path().join("shipper")).expect("a directory");
    let config = config(dir.path());
    let settings = Settings::load(&config);
    assert_eq!(settings.now().compression, Codec::Lz4);
    let told = held(&[("compression", "zstd:7"), ("worker_threads", "3"), ("from_the_future", "x")]);
    settings.take(&told).expect("it is remembered");
    assert_eq!(settings.now().compression, Codec::Zstd(7));
    assert_eq!(settings.waiting_for_start(), ["worker_threads"]);

    let again = Settings::load(&config);
    assert_eq!(again.now(), settings.now());
    assert_eq!((worker_threads(&config), again.waiting_for_start()), (3, Vec::new()));

    settings.take(&HashMap::new()).expect("it is remembered");
    assert_eq!((settings.now().compression, worker_threads(&config)), (Codec::Lz4, 0));
}

#[test]
fn what_is_remembered_and_does_not_read_is_no_obstacle() {
    let dir = tempfile::tempdir().expect("a directory");
    private_file::create_directory(&dir.path().join("shipper")).expect("a directory");
    std::fs::write(dir.path().join("shipper").join(FILE), b"{\"compression\": 7").expect("written");
    let settings = Settings::load(&config(dir.path()));
    assert_eq!(settings.now().batch_size, 500);
}
