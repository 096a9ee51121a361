use std::time::Duration;

use super::*;
use crate::ca::{Authority, Validity};
use crate::certificate::Certificate;
use crate::test_site::{Cluster, HOUR, identity, load};

const ROLE: Role = Role::Control;

struct Place {
    cluster: Cluster,
    dir: PathBuf,
    own: Identity,
}

fn place() -> Place {
    let cluster = Cluster::new();
    let own = identity("site-a", ROLE);
    let dir = cluster.install(&own);
    Place { cluster, dir, own }
}

impl Place {
    fn prepare(&self) -> Request {
        prepare(&self.dir, &self.own, &[ROLE]).expect("prepared").remove(0)
    }

    fn signed_by(&self, authority: &Authority, request: &Request, whose: &Identity) -> Delivery {
        let validity = Validity::lasting(SystemTime::now(), 2 * HOUR);
        let pem = authority.sign(&request.pem, whose, validity).expect("signed");
        Delivery { certificates: vec![(ROLE, pem)], ..Delivery::default() }
    }

    fn install(&self, delivery: &Delivery) -> Result<(), Error> {
        install(&self.dir, &self.own, delivery, SystemTime::now())
    }

    fn serial(&self) -> String {
        let pem = std::fs::read(self.dir.join(certificate_file(ROLE))).expect("a certificate");
        Certificate::all_from_pem(&pem, 1).expect("it reads").remove(0).serial
    }

    fn content(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(&self.dir).expect("a directory");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .map(|path| (path.display().to_string(), std::fs::read(&path).expect("it reads")))
            .collect();
        files.sort();
        files
    }
}

#[test]
fn the_key_stays_and_the_certificate_comes() {
    let place = place();
    let tls = load(&place.dir, ROLE);
    let before = place.serial();
    let request = place.prepare();
    assert!(request.pem.contains("CERTIFICATE REQUEST") && !request.pem.contains("PRIVATE"), "{}", request.pem);
    assert!(!tls.reload().expect("fine"), "a key that waits is no change");
    place.install(&place.signed_by(&place.cluster.authority, &request, &place.own)).expect("installed");
    assert_ne!(place.serial(), before);
    assert!(!place.dir.join(next_key_file(ROLE)).exists(), "it is in use now");
    assert!(tls.reload().expect("fine"), "it is taken over");
    assert!(!tls.reload().expect("fine"), "once");
}

#[test]
fn a_crash_between_certificate_and_key_leaves_a_pair_that_can_be_used() {
    let place = place();
    let request = place.prepare();
    let delivery = place.signed_by(&place.cluster.authority, &request, &place.own);
    let tls = load(&place.dir, ROLE);
    private_file::replace(&place.dir, &certificate_file(ROLE), delivery.certificates[0].1.as_bytes()).expect("written");
    assert!(tls.reload().expect("the new key is found"), "a running process goes on");
    load(&place.dir, ROLE);
    let (next, key) = (place.dir.join(next_key_file(ROLE)), place.dir.join(key_file(ROLE)));
    std::fs::rename(next, key).expect("renamed");
    assert!(!tls.reload().expect("fine"), "others see no change");
}

#[test]
fn what_is_not_for_this_site_changes_nothing() {
    let (place, other) = (place(), Cluster::new());
    let request = place.prepare();
    let before = place.content();
    let refused = |delivery: &Delivery| {
        let error = place.install(delivery).expect_err("refused");
        assert_eq!(place.content(), before, "{error}");
        error.to_string()
    };
    let ours = &place.cluster.authority;
    let said = refused(&place.signed_by(ours, &request, &identity("site-b", ROLE)));
    assert!(said.contains("site-b") && said.contains("site-a"), "{said}");
    refused(&place.signed_by(ours, &request, &identity("site-a", Role::Shipper)));
    let said = refused(&place.signed_by(&other.authority, &request, &place.own));
    assert!(said.contains("was not issued by an authority"), "{said}");
    let twice = place.signed_by(ours, &request, &place.own);
    let twice = Delivery { certificates: [twice.certificates.clone(), twice.certificates].concat(), ..twice };
    refused(&twice);
    // Of an earlier request, whose key was replaced.
    let late = place.signed_by(ours, &request, &place.own);
    place.prepare();
    let before = place.content();
    let error = place.install(&late).expect_err("refused");
    assert_eq!(place.content(), before, "{error}");
    assert!(error.to_string().contains("is not the key of"), "{error}");
}

#[test]
fn a_request_without_its_key_is_not_signed() {
    let place = place();
    let request = place.prepare().pem;
    let validity = Validity::lasting(SystemTime::now(), HOUR);
    let sign = |pem: &str| place.cluster.authority.sign(pem, &place.own, validity);
    sign(&request).expect("it is fine");
    let mut lines: Vec<&str> = request.lines().collect();
    let changed: String = lines[2].chars().rev().collect();
    lines[2] = &changed;
    assert!(sign(&lines.join("\n")).is_err());
    assert!(sign("").is_err());
    assert!(sign(&"x".repeat(100_000)).is_err());
}

#[test]
fn authorities_are_replaced_only_on_the_word_of_one_that_is_trusted() {
    let (place, next) = (place(), Cluster::new());
    let both = joined(&[place.cluster.authority.cert_pem(), next.authority.cert_pem()]).expect("joined");
    assert_eq!(joined(&[&both, next.authority.cert_pem()]).expect("joined"), both, "each once");
    let before = place.content();
    let delivery = |by: &Authority, authorities: &str| Delivery {
        authorities: authorities.to_owned(),
        endorsement: by.endorse(&both).expect("signed"),
        ..Delivery::default()
    };
    for wrong in [
        delivery(&next.authority, &both),
        delivery(&place.cluster.authority, next.authority.cert_pem()),
        Delivery { endorsement: Vec::new(), ..delivery(&place.cluster.authority, &both) },
    ] {
        assert!(matches!(place.install(&wrong), Err(Error::Authorities(_))));
        assert_eq!(place.content(), before);
    }
    place.install(&delivery(&place.cluster.authority, &both)).expect("installed");
    // The certificate in use is the old authority's: it cannot be dropped before that is replaced.
    let last = Delivery {
        authorities: next.authority.cert_pem().to_owned(),
        endorsement: next.authority.endorse(next.authority.cert_pem()).expect("signed"),
        ..Delivery::default()
    };
    let error = place.install(&last).expect_err("refused");
    assert!(error.to_string().contains("was not issued by an authority"), "{error}");
    let request = place.prepare();
    place.install(&place.signed_by(&next.authority, &request, &place.own)).expect("installed");
    place.install(&last).expect("nothing needs the old one any more");
    let tls = load(&place.dir, ROLE);
    assert!(tls.current().expiry().certificate > SystemTime::now() + Duration::from_secs(3600));
}
