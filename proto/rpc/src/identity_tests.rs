//! Invariant 9: a certificate names exactly one identity, or nobody.

use std::time::{Duration, SystemTime};

use rcgen::SanType;

use super::*;
use crate::ca::{Authority, Validity};

fn cluster() -> ClusterId {
    ClusterId([7; 16])
}

fn identity(role: Role) -> Identity {
    Identity { cluster: cluster(), site: SiteName::new("site-a").expect("a name"), role }
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM").1.contents
}

/// What a certificate of a real authority with these names says.
fn read(names: Vec<SanType>) -> Result<Identity, Error> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let authority = Authority::create(dir.path(), cluster(), SystemTime::now()).expect("an authority");
    let validity = Validity::lasting(SystemTime::now(), Duration::from_secs(60));
    let issued = authority.issue_with_names("x", names, true, validity).expect("a certificate");
    Identity::from_certificate(&der(&issued.cert_pem))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

#[test]
fn every_role_reads_back_from_its_certificate() {
    for role in Role::ALL {
        let identity = identity(role);
        assert_eq!(read(vec![dns("site-a"), uri(&identity.uri())]), Ok(identity.clone()));
        assert_eq!(Identity::from_uri(&identity.uri()), Ok(identity));
    }
}

#[test]
fn the_longest_identity_fits_its_bound() {
    let site = SiteName::new("x".repeat(63)).expect("a name");
    let longest = Identity { cluster: cluster(), site, role: Role::Producer };
    assert_eq!(longest.uri().len(), MAX_URI_BYTES);
    assert_eq!(Identity::from_uri(&longest.uri()), Ok(longest));
}

#[test]
fn certificates_that_name_nobody_or_two_are_refused() {
    let good = identity(Role::Shipper).uri();
    let other = identity(Role::Control).uri();
    let site = SiteName::new("site-a").expect("a name");
    assert_eq!(read(vec![]), Err(Error::NoNames));
    assert_eq!(read(vec![dns("site-a")]), Err(Error::UriCount(0)));
    assert_eq!(read(vec![dns("site-a"), uri(&good), uri(&other)]), Err(Error::UriCount(2)));
    assert_eq!(read(vec![dns("site-a"), uri(&good), uri(&good)]), Err(Error::UriCount(2)));
    assert_eq!(read(vec![dns("site-a"), uri(&good), uri("https://example.org")]), Err(Error::UriCount(2)));
    assert_eq!(read(vec![uri(&good)]), Err(Error::DnsName(site.clone())));
    assert_eq!(read(vec![dns("site-b"), uri(&good)]), Err(Error::DnsName(site.clone())));
    assert_eq!(read(vec![dns("*"), uri(&good)]), Err(Error::DnsName(site.clone())));
    assert_eq!(read(vec![dns("site-a"), dns("site-b"), uri(&good)]), Err(Error::DnsName(site.clone())));
    let ip = SanType::IpAddress([127, 0, 0, 1].into());
    assert_eq!(read(vec![dns("site-a"), ip, uri(&good)]), Err(Error::DnsName(site)));
    let many = (0..MAX_NAMES).map(|n| dns(&format!("site-{n}"))).chain([uri(&good)]).collect();
    assert_eq!(read(many), Err(Error::TooManyNames(MAX_NAMES + 1)));
}

#[test]
fn only_the_exact_form_of_an_identity_is_read() {
    let good = identity(Role::Shipper).uri();
    let id = cluster().to_string();
    for bad in [
        String::new(),
        good.to_uppercase(),
        good.replace("claudefs", "Claudefs"),
        good.replace("site-a", "Site-A"),
        good.replace("shipper", "Shipper"),
        good.replace("shipper", "root"),
        good.replace("shipper", ""),
        good.replace("site-a", ""),
        good.replace("site-a", "site-a.example.org"),
        good.replace("site-a", "site%2Da"),
        good.replace(&id, ""),
        good.replace(&id, "0"),
        good.replace('-', ""),
        good.replace("://", ":/"),
        format!("{good}/"),
        format!("{good}/x"),
        format!("{good}?role=control"),
        format!("{good}#x"),
        format!("{good}\0"),
        format!("{good} "),
        format!(" {good}"),
        good.replace("//", "//user@"),
        format!("claudefs://{id}/shipper/{}", "x".repeat(64)),
        format!("claudefs://{id}/shipper/{}", "x".repeat(100_000)),
    ] {
        let result = Identity::from_uri(&bad);
        assert!(matches!(result, Err(Error::Uri(_) | Error::Role(_))), "{bad}: {result:?}");
        assert!(result.expect_err("refused").to_string().len() < 300, "the error is bounded");
    }
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    assert_eq!(Identity::from_certificate(&[]), Err(Error::Malformed));
    assert_eq!(Identity::from_certificate(&[0x30; 100]), Err(Error::Malformed));
    assert_eq!(
        Identity::from_certificate(&vec![0x30; MAX_CERTIFICATE_BYTES + 1]),
        Err(Error::TooLarge(MAX_CERTIFICATE_BYTES + 1))
    );
}

/// No cut or flipped byte makes the parser panic, or yields another identity than the certificate's: what a flip may
/// change is the signature's business, and nothing reads an identity before that was checked.
#[test]
fn damaged_certificates_never_panic() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let authority = Authority::create(dir.path(), cluster(), SystemTime::now()).expect("an authority");
    let validity = Validity::lasting(SystemTime::now(), Duration::from_secs(60));
    let issued = authority.issue(&identity(Role::Shipper), validity).expect("a certificate");
    let good = der(&issued.cert_pem);
    for at in 0..good.len() {
        assert!(Identity::from_certificate(&good[..at]).is_err(), "cut at {at}");
        let mut flipped = good.clone();
        flipped[at] ^= 0x41;
        let _ = Identity::from_certificate(&flipped);
    }
    assert_eq!(Identity::from_certificate(&good), Ok(identity(Role::Shipper)));
    assert_eq!(Identity::from_certificate(&[good, vec![0]].concat()), Err(Error::Malformed));
}
