use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::test_site::{CLUSTER, Cluster, HOUR, identity};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("exists").permissions().mode() & 0o777
}

#[test]
fn only_the_owner_reads_what_the_authority_writes() {
    let cluster = Cluster::new();
    let tls = cluster.install(&identity("site-a", Role::Shipper));
    let ca = cluster.tls_dir("ca");
    for dir in [&ca, &tls] {
        assert_eq!(mode(dir), 0o700);
        for file in std::fs::read_dir(dir).expect("a directory") {
            let path = file.expect("an entry").path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            assert!(path.extension().is_some_and(|e| e != "tmp"), "{} was left behind", path.display());
        }
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&tls).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca.pem", "shipper.key", "shipper.pem"]);
}

#[test]
fn an_authority_loads_back_and_issues_what_its_certificate_verifies() {
    let cluster = Cluster::new();
    let loaded = Authority::load(&cluster.tls_dir("ca")).expect("loads");
    assert_eq!(loaded.cluster(), CLUSTER);
    assert_eq!(loaded.cert_pem(), cluster.authority.cert_pem());
    let validity = Validity::lasting(SystemTime::now(), HOUR);
    let issued = loaded.issue(&identity("site-a", Role::Control), validity).expect("a certificate");
    let dir = cluster.tls_dir("site-a");
    // The certificate of before the restart verifies what was issued after it.
    install(&dir, Role::Control, cluster.authority.cert_pem(), &issued).expect("installed");
    assert_eq!(crate::test_site::load(&dir, Role::Control).identity(), identity("site-a", Role::Control));
}

#[test]
fn an_authority_is_never_overwritten() {
    let cluster = Cluster::new();
    let dir = cluster.tls_dir("ca");
    let before = std::fs::read(dir.join(CA_KEY)).expect("a key");
    assert!(matches!(Authority::create(&dir, CLUSTER, SystemTime::now()), Err(Error::Exists(_))));
    assert_eq!(std::fs::read(dir.join(CA_KEY)).expect("a key"), before);
}

#[test]
fn a_damaged_authority_is_refused_by_file() {
    let cluster = Cluster::new();
    let other = Cluster::new();
    let dir = cluster.tls_dir("ca");
    let refused = |what: &str| {
        let error = Authority::load(&dir).err().expect("refused").to_string();
        assert!(error.contains(what), "{error}");
    };
    std::fs::copy(other.tls_dir("ca").join(CA_KEY), dir.join(CA_KEY)).expect("copied");
    refused("ca.key is not usable: it is not the key of the certificate beside it");
    std::fs::write(dir.join(CA_KEY), "x").expect("written");
    refused("ca.key is not usable: it holds no private key");
    std::fs::remove_file(dir.join(CA_KEY)).expect("removed");
    refused("cannot read");
}

#[test]
fn an_authority_knows_whether_a_site_trusts_it() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let [own, foreign] = [&cluster, &other].map(|cluster| cluster.authority.cert_pem());
    assert!(cluster.authority.is_among(own.as_bytes()));
    assert!(cluster.authority.is_among(format!("{foreign}{own}").as_bytes()), "one replaces the other");
    assert!(!cluster.authority.is_among(foreign.as_bytes()));
    assert!(!cluster.authority.is_among(b"garbage"));
}
