//! What it means that this site's own certificates are of no use. Pure.

use super::checks::finding;
use super::finding::{self as code, Finding, Level};

const NEXT: &str = "cfs admin tls status";

/// The one thing that is wrong, if it is.
pub(super) fn own(site: &str, useless: &[String]) -> Option<Finding> {
    let impact = "other sites take nothing from such a process: from here they look as if they were down";
    (!useless.is_empty())
        .then(|| finding(code::OWN_CERTIFICATES, Level::Critical, site, useless.join("; "), impact, NEXT.to_owned()))
}

/// Takes back what was advised as if the other sites were gone: what is missing is a certificate here, and a second primary
/// beside one that is well would be a split-brain.
pub(super) fn force_nothing(found: &mut [Finding]) {
    for finding in found.iter_mut().filter(|finding| finding.next.contains("--force")) {
        finding.next = format!("{NEXT}: this site needs other certificates; nothing is to be forced for that");
    }
}
