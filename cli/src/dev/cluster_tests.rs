use super::*;
use crate::dev::{Fault, FaultsError};

fn name(name: &str) -> SiteName {
    SiteName::new(name).expect("a name")
}

fn names(all: &[&str]) -> Vec<SiteName> {
    all.iter().map(|one| name(one)).collect()
}

fn create(dir: &Path) -> Cluster {
    Cluster::open_or_create(dir, &Plan::default()).expect("a cluster")
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
        assert_eq!((config.peers.len(), config.site.witness), (1, false));
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
    assert!(matches!(Cluster::open_or_create(place.path(), &Plan::default()), Err(Error::Foreign { .. })));
    assert!(matches!(Cluster::open(place.path()), Err(Error::Missing { .. })));
    assert_eq!(std::fs::read_dir(place.path()).expect("readable").count(), 1);
}

#[test]
fn other_sites_are_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    drop(create(&dir));
    let refused = |plan: Plan| Cluster::open_or_create(&dir, &plan).expect_err("another cluster");
    let sites = |all: &[&str]| Plan { sites: Some(names(all)), ..Plan::default() };
    assert!(matches!(refused(sites(&["site-a", "site-c"])), Error::OtherSites { .. }));
    assert!(matches!(refused(Plan { witness: Some(name("site-w")), ..Plan::default() }), Error::OtherSites { .. }));
    for bad in [
        sites(&["x", "x"]),
        sites(&["a", "b", "c", "d", "e", "f"]),
        sites(&[]),
        Plan { witness: Some(name("site-a")), ..Plan::default() },
    ] {
        let refused = Cluster::open_or_create(&place.path().join("d"), &bad);
        assert!(matches!(refused, Err(Error::Sites(_))), "{refused:?}");
        assert!(!place.path().join("d").exists(), "it leaves something behind");
    }
}

#[test]
fn other_ports_are_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    let first = create(&dir).sites()[0].ports.peer;
    let plan = |base_port| Plan { base_port: Some(base_port), ..Plan::default() };
    Cluster::open_or_create(&dir, &plan(first)).expect("the same");
    let refused = Cluster::open_or_create(&dir, &plan(first + 1));
    assert!(matches!(refused, Err(Error::OtherPorts { have, .. }) if have == first), "{refused:?}");
}

#[test]
fn peers_are_dialled_through_the_proxy_and_a_witness_has_no_shipper() {
    let place = tempfile::tempdir().expect("a directory");
    let plan = Plan { sites: Some(names(&["x", "y", "z"])), witness: Some(name("w")), ..Plan::default() };
    let cluster = Cluster::open_or_create(&place.path().join("c"), &plan).expect("a cluster");
    let routes = cluster.record.routes();
    assert_eq!(routes.len(), 4 * 3 * 2);
    for (from, site) in cluster.sites().iter().enumerate() {
        let config = cfs_config::Config::load_with(Some(&cluster.config_path(site)), &[], []).expect("it reads");
        assert_eq!((config.site.witness, config.peers.len()), (site.name.as_str() == "w", 3));
        assert_eq!(site.parts().contains(&Part::Shipper), !site.witness);
        for peer in &config.peers {
            let to = cluster.index(peer.name.as_str()).expect("a site");
            let leads_to = |address: &str| {
                let route = routes.iter().find(|route| address == format!("127.0.0.1:{}", route.listen));
                route.filter(|route| (route.from, route.to) == (from, to)).map(|route| route.target)
            };
            let there = &cluster.sites()[to];
            assert_eq!(leads_to(&peer.control), Some(there.ports.control));
            let direct = format!("127.0.0.1:{}", there.ports.producer);
            let expected = if there.witness { (None, None) } else { (Some(there.ports.peer), Some(direct)) };
            assert_eq!((leads_to(&peer.peer), peer.producer.clone()), expected);
        }
    }
}

/// A consumed founding file never comes back: a wiped primary must not found a second cluster.
#[test]
fn the_founding_file_is_written_once_and_for_the_first_site_alone() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    let cluster = create(&dir);
    let text = std::fs::read(dir.join("site-a/founding")).expect("it is there");
    let founding: crate::founding::Founding = serde_json::from_slice(&text).expect("it reads");
    assert_eq!((founding.format, founding.cluster.as_str(), founding.token.len()), (1, cluster.id(), 32));
    assert!(!dir.join("site-b/founding").exists());
    drop(cluster);
    std::fs::remove_file(dir.join("site-a/founding")).expect("it was there");
    std::fs::remove_dir_all(dir.join("site-a/state")).expect("it was there");
    drop(create(&dir));
    assert!(!dir.join("site-a/founding").exists());
}

#[test]
fn links_change_only_between_known_sites_and_with_a_proxy() {
    let place = tempfile::tempdir().expect("a directory");
    let cluster = create(&place.path().join("c"));
    let cut = |from: &str, to: &str| cluster.change_link(from, to, false, |_| Fault { cut: true, ..Fault::default() });
    assert!(matches!(cut("site-a", "site-x"), Err(Error::NoSite { .. })));
    assert!(matches!(cut("site-a", "site-a"), Err(Error::Sites(_))));
    assert!(matches!(cut("site-a", "site-b"), Err(Error::Faults(FaultsError::NoProxy { .. }))));
    assert!(cluster.faults().expect("readable").rules().is_empty());
}

#[test]
fn a_damaged_record_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("c");
    drop(create(&dir));
    std::fs::write(dir.join(RECORD), "{}").expect("writable");
    assert!(matches!(Cluster::open(&dir), Err(Error::Record { .. })));
    assert!(matches!(Cluster::open_or_create(&dir, &Plan::default()), Err(Error::Record { .. })));
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
