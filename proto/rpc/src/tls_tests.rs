use std::sync::Mutex;
use std::time::SystemTime;

use super::*;
use crate::ca::{CA_KEY, Validity, install};
use crate::clock::RealClock;
use crate::test_site::{Cluster, HOUR, identity, load};

fn refused(dir: &Path, role: Role) -> Error {
    SharedTls::load(dir, role, Arc::new(RealClock)).err().expect("refused")
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let cluster = Cluster::new();
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    let says = |role, what: &str| {
        let error = refused(&dir, role).to_string();
        assert!(error.contains(what), "{error}");
    };
    says(Role::Control, "cannot read");
    says(Role::Control, "site-a/control.key");
    std::fs::copy(dir.join("shipper.key"), dir.join("control.key")).expect("copied");
    std::fs::copy(dir.join("shipper.pem"), dir.join("control.pem")).expect("copied");
    says(Role::Control, "control.pem is a certificate for shipper of site-a");
    std::fs::write(dir.join("shipper.pem"), "garbage").expect("written");
    says(Role::Shipper, "shipper.pem is not usable: it holds no certificate");
    std::fs::write(dir.join("control.pem"), vec![b'x'; 300 * 1024]).expect("written");
    says(Role::Control, "the file is larger than");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::new();
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    std::fs::set_permissions(dir.join("shipper.key"), std::fs::Permissions::from_mode(0o640)).expect("set");
    assert!(matches!(refused(&dir, Role::Shipper), Error::Exposed(_)));
}

#[test]
fn key_certificate_and_authority_must_belong_together() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    std::fs::copy(other.tls_dir("ca").join("ca.pem"), dir.join("ca.pem")).expect("copied");
    assert!(matches!(refused(&dir, Role::Shipper), Error::WrongAuthority { .. }));
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    std::fs::copy(cluster.tls_dir("ca").join(CA_KEY), dir.join("shipper.key")).expect("copied");
    assert!(matches!(refused(&dir, Role::Shipper), Error::KeyMismatch { .. }));
}

#[test]
fn expiry_is_reported_and_an_expired_certificate_still_loads() {
    let cluster = Cluster::new();
    let now = SystemTime::now();
    let expiry = cluster.site("site-a", Role::Shipper).current().expiry();
    assert!(expiry.left(now) <= HOUR && expiry.left(now) > HOUR - Duration::from_secs(10));
    assert!(expiry.authority > now + Duration::from_secs(3600 * 24 * 3640));
    let expired = cluster.expired_site("site-b", Role::Shipper).current().expiry();
    assert_eq!(expired.left(now), Duration::ZERO);
}

#[test]
fn a_reload_takes_changes_over_and_refuses_what_is_wrong() {
    let cluster = Cluster::new();
    let tls = cluster.site("site-a", Role::Shipper);
    let dir = cluster.tls_dir("site-a");
    assert!(!tls.reload().expect("unchanged"));
    let before = tls.current().expiry();
    cluster.install_for(&identity("site-a", Role::Shipper), Validity::lasting(SystemTime::now(), 2 * HOUR));
    assert!(tls.reload().expect("changed"));
    assert!(tls.current().expiry().certificate > before.certificate);
    assert!(!tls.reload().expect("unchanged again"));

    let mut other = identity("site-a", Role::Shipper);
    other.cluster = cfs_model::ClusterId([2; 16]);
    cluster.install(&other);
    assert!(matches!(tls.reload(), Err(Error::Changed { .. })));
    std::fs::write(dir.join("shipper.pem"), "half of a certif").expect("written");
    assert!(tls.reload().is_err());
    assert_eq!(tls.identity(), identity("site-a", Role::Shipper), "the old material stays in use");
}

#[test]
fn two_authorities_are_trusted_while_one_replaces_the_other() {
    let (old, new) = (Cluster::new(), Cluster::new());
    let both = format!("{}{}", old.authority.cert_pem(), new.authority.cert_pem());
    for (cluster, site) in [(&old, "site-a"), (&new, "site-b")] {
        let identity = identity(site, Role::Shipper);
        let issued = cluster.authority.issue(&identity, Validity::lasting(SystemTime::now(), HOUR)).expect("issued");
        let dir = old.tls_dir(site);
        install(&dir, Role::Shipper, &both, &issued).expect("installed");
        assert_eq!(load(&dir, Role::Shipper).identity(), identity);
    }
}

struct SetClock(Mutex<SystemTime>);

impl Clock for SetClock {
    fn boot(&self) -> Duration {
        Duration::ZERO
    }
    fn wall(&self) -> SystemTime {
        *self.0.lock().expect("not poisoned")
    }
}

/// Invariant 9: a peer whose certificate expires loses its live connections too.
#[tokio::test(start_paused = true)]
async fn a_live_peer_is_distrusted_once_its_certificate_expires() {
    let cluster = Cluster::new();
    let dir = cluster.install(&identity("site-a", Role::Shipper));
    let clock = Arc::new(SetClock(Mutex::new(SystemTime::now())));
    let tls = SharedTls::load(&dir, Role::Shipper, clock.clone()).expect("loads");
    let pem = std::fs::read(dir.join("shipper.pem")).expect("a certificate");
    let chain = material::certificates(&pem, 1, &dir).expect("a chain");
    let mut distrusted = std::pin::pin!(tls.distrusted(chain));
    assert!(tokio::time::timeout(HOUR, &mut distrusted).await.is_err(), "valid as long as the clock says so");
    *clock.0.lock().expect("not poisoned") += 2 * HOUR;
    let reason = tokio::time::timeout(2 * TRUST_CHECK_INTERVAL, distrusted).await.expect("noticed in time");
    assert!(crate::refusal::tls_reason(&reason).contains("expired"), "{reason}");
}
