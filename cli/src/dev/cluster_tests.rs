use super::*;

fn names(names: &[&str]) -> Vec<SiteName> {
    names.iter().map(|name| SiteName::new(*name).expect("a name")).collect()
}

fn create(dir: &Path) -> Cluster {
    Cluster::open_or_create(dir, None, None).expect("a cluster")
}

#[test]
fn a_cluster_reads_back_what_it_recorded() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    let made = create(&dir);
    let record = made.record.clone();
    assert_eq!(record.sites.len(), 2);
    drop(made);
    assert_eq!(create(&dir).record, record, "making it again changed it");
    assert_eq!(Cluster::open(&dir).expect("it is there").record, record);
}

#[test]
fn each_site_has_a_configuration_that_reads() {
    let place = tempfile::tempdir().expect("a directory");
    let cluster = create(&place.path().join("c"));
    for site in cluster.sites() {
        let config = cfs_config::Config::load_with(Some(&cluster.config_path(site)), &[], []).expect("it reads");
        assert_eq!((&config.site.name, config.site.id), (&site.name, site.id));
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.shipper_socket(), cluster.socket(site));
        for role in cfs_rpc::identity::Role::ALL {
            assert!(config.tls_dir().join(cfs_rpc::ca::certificate_file(role)).exists(), "{role}");
        }
    }
}

#[test]
fn what_was_interrupted_is_finished() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    drop(create(&dir));
    std::fs::remove_file(dir.join("ca/ca.pem")).expect("it was there");
    std::fs::remove_dir_all(dir.join("site-b")).expect("it was there");
    std::fs::remove_dir_all(dir.join("site-a/state")).expect("it was there");
    let cluster = create(&dir);
    assert!(cluster.config_path(&cluster.sites()[1]).exists());
}

#[test]
fn directories_of_others_are_not_touched() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("letter"), "x").expect("writable");
    assert!(matches!(Cluster::open_or_create(place.path(), None, None), Err(Error::Foreign { .. })));
    assert!(matches!(Cluster::open(place.path()), Err(Error::Missing { .. })));
    assert_eq!(std::fs::read_dir(place.path()).expect("readable").count(), 1);
}

#[test]
fn other_sites_are_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    drop(create(&dir));
    let other = names(&["site-a", "site-c"]);
    assert!(matches!(Cluster::open_or_create(&dir, Some(&other), None), Err(Error::OtherSites { .. })));
    let twice = names(&["x", "x"]);
    let refused = Cluster::open_or_create(&place.path().join("d"), Some(&twice), None);
    assert!(matches!(refused, Err(Error::Sites(_))), "{refused:?}");
}

#[test]
fn a_damaged_record_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    drop(create(&dir));
    std::fs::write(dir.join(RECORD), "{}").expect("writable");
    assert!(matches!(Cluster::open(&dir), Err(Error::Record { .. })));
    assert!(matches!(Cluster::open_or_create(&dir, None, None), Err(Error::Record { .. })));
}

/// Invariant 3: a stream's incarnation is never allotted twice.
#[test]
fn incarnations_are_recorded_before_they_are_handed_out() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    let mut cluster = create(&dir);
    assert_eq!(cluster.allot_incarnation(0).expect("writable"), 1);
    drop(cluster);
    let mut cluster = Cluster::open(&dir).expect("it is there");
    assert_eq!(cluster.allot_incarnation(0).expect("writable"), 2);
    assert_eq!(cluster.allot_incarnation(1).expect("writable"), 1);
}

#[test]
fn long_paths_get_short_sockets() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("x".repeat(100));
    let cluster = create(&dir);
    let runs: Vec<PathBuf> = cluster.sites().iter().map(|site| site.run.clone()).collect();
    for site in cluster.sites() {
        assert!(cluster.socket(site).as_os_str().len() < 108);
        assert!(!site.run.starts_with(cluster.dir()) && site.run.is_dir());
    }
    cluster.down(true).expect("nothing runs");
    assert!(!dir.exists() && runs.iter().all(|run| !run.exists()));
}

#[test]
fn purging_needs_the_record() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    let cluster = create(&dir);
    std::fs::remove_file(dir.join(RECORD)).expect("it was there");
    std::fs::create_dir(dir.join(RECORD)).expect("writable");
    assert!(cluster.down(true).is_err(), "the record cannot be written");
    assert!(dir.join("ca").exists());
}
