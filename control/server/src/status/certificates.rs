//! Whether this site's own certificates are of any use to others.

use std::sync::Arc;
use std::time::SystemTime;

use cfs_rpc::identity::{Identity, Role};
use cfs_rpc::survey;
use cfs_rpc::tls::Expiry;
use cfs_rpc::v1::CertificateFile;

use crate::control::{Control, blocking};

/// Why others take nothing from this site's processes; none: they do. `shipper_runs`: it has a certificate in use, which stays
/// whatever becomes of the file.
pub(super) async fn useless(control: &Arc<Control>, shipper_runs: bool) -> Vec<String> {
    let now = control.clock.wall();
    let own = control.tls.identity();
    let mut found: Vec<String> = expired(control.tls.current().expiry(), now, &own).into_iter().collect();
    if !control.config.site.witness {
        let (dir, clock) = (control.config.tls_dir().to_owned(), control.clock.clone());
        let file = blocking(move || survey::role_file(&dir, Role::Shipper, &clock)).await;
        let own = Identity { role: Role::Shipper, ..own };
        found.extend(file.ok().and_then(|file| of_shipper(&file, &own, survey::unix_s(now), shipper_runs)));
    }
    found
}

/// What is in use here.
fn expired(expiry: Expiry, now: SystemTime, own: &Identity) -> Option<String> {
    let of = |what: &str| Some(format!("the certificate of {what} has expired"));
    match () {
        () if expiry.certificate <= now => of(&format!("the control process of {}", own.site)),
        () if expiry.authority <= now => of("the authority"),
        () => None,
    }
}

fn of_shipper(file: &CertificateFile, own: &Identity, now: i64, runs: bool) -> Option<String> {
    survey::useless(file, own, now).filter(|_| !runs || survey::has_expired(file, now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn own() -> Identity {
        let site = cfs_model::SiteName::new("site-a").expect("a name");
        Identity { cluster: cfs_model::ClusterId([1; 16]), site, role: Role::Shipper }
    }

    #[test]
    fn what_is_in_use_is_of_none_once_it_has_expired() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let at = |certificate, authority| {
            let moment = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
            expired(Expiry { certificate: moment(certificate), authority: moment(authority) }, now, &own())
        };
        assert_eq!(at(1_001, 2_000), None);
        assert_eq!(at(1_000, 2_000).as_deref(), Some("the certificate of the control process of site-a has expired"));
        assert_eq!(at(1_001, 1_000).as_deref(), Some("the certificate of the authority has expired"));
    }

    #[test]
    fn a_shipper_that_runs_keeps_what_it_has() {
        let good = CertificateFile {
            role: "shipper".into(),
            path: "/tls/shipper.pem".into(),
            serial: "ab".into(),
            not_after: 2_000,
            holder: own().uri(),
            ..CertificateFile::default()
        };
        let damaged = CertificateFile { error: "its key is missing".into(), ..good.clone() };
        assert_eq!(of_shipper(&good, &own(), 1_000, true), None);
        assert_eq!(of_shipper(&damaged, &own(), 1_000, true), None);
        assert_eq!(of_shipper(&damaged, &own(), 1_000, false).as_deref(), Some("its key is missing"));
        for runs in [true, false] {
            let why = of_shipper(&good, &own(), 2_000, runs);
            assert_eq!(why.as_deref(), Some("/tls/shipper.pem has expired"), "{runs}");
        }
    }
}
