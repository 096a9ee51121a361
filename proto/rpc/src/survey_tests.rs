use super::*;
use crate::ca::key_file;
use crate::clock::RealClock;
use crate::test_site::{Cluster, HOUR, identity};

const ROLE: Role = Role::Control;

fn clock() -> Arc<dyn Clock> {
    Arc::new(RealClock)
}

#[test]
fn what_cannot_be_read_or_parsed_names_its_file() {
    let cluster = Cluster::new();
    let dir = cluster.install(&identity("site-a", ROLE));
    let told = || role_file(&dir, ROLE, &clock());
    assert_eq!(told().error, "");
    let (certificate, authority) = (dir.join(certificate_file(ROLE)), dir.join(CA_CERTIFICATE));
    std::fs::write(&certificate, "garbage").expect("written");
    let error = format!("{}: the certificate cannot be parsed", certificate.display());
    assert_eq!((told().error, told().absent), (error, false));
    std::fs::remove_file(&certificate).expect("removed");
    assert!(told().error.starts_with(&format!("cannot read {}: No such file", certificate.display())), "{:?}", told());
    assert!(told().absent);
    std::fs::write(&authority, "garbage").expect("written");
    let all = files(&dir, &clock());
    let told = all.iter().find(|file| file.role == AUTHORITY).expect("the authorities");
    assert_eq!(told.error, format!("{}: the certificate cannot be parsed", authority.display()));
    std::fs::remove_file(&authority).expect("removed");
    let all = files(&dir, &clock());
    let told = all.iter().find(|file| file.role == AUTHORITY).expect("the authorities");
    assert!(told.error.starts_with(&format!("cannot read {}", authority.display())), "{told:?}");
}

#[test]
fn a_certificate_is_useless_when_others_would_refuse_it() {
    let cluster = Cluster::new();
    let own = identity("site-a", ROLE);
    let dir = cluster.install(&own);
    let (now, hour) = (unix_s(SystemTime::now()), i64::try_from(HOUR.as_secs()).expect("it fits"));
    let why = |own: &Identity, at| useless(&role_file(&dir, ROLE, &clock()), own, at);
    assert_eq!(why(&own, now), None);
    assert!(why(&own, now + 2 * hour).is_some_and(|why| why.ends_with("control.pem has expired")));
    assert!(why(&own, now - hour).is_some_and(|why| why.contains("not valid yet")));
    assert!(why(&identity("site-b", ROLE), now).is_some_and(|why| why.contains("not for")));
    let elsewhere = Identity { cluster: cfs_model::ClusterId([9; 16]), ..own.clone() };
    assert!(why(&elsewhere, now).is_some_and(|why| why.contains("not for")));
    std::fs::remove_file(dir.join(key_file(ROLE))).expect("removed");
    assert!(why(&own, now).is_some_and(|why| why.contains("control.key")));
    assert!(!has_expired(&CertificateFile::default(), now), "there is none");
}
