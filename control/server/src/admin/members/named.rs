//! The site that an operator names for another one to come through, and why it cannot be that.

use cfs_control_core::plan::Refused;
use cfs_model::SiteName;

use crate::control::Control;
use crate::status;

/// What a site is named as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Any site that is enrolled.
    Member,
    /// One that is primary, or may be.
    Primary,
}

/// Why the site that an operator named cannot be what it is named as, as far as this one knows.
pub(super) fn unusable(control: &Control, name: &str, named: Named) -> Option<Refused> {
    let state = control.state();
    let site = SiteName::new(name).ok();
    let known = site.as_ref().is_some_and(|site| control.others().contains_key(site));
    let configured = site.as_ref().and_then(|site| control.config.peer(site)).is_some_and(|peer| peer.witness);
    // The newest side's, if there is another.
    let stands = status::fences::stands(control, &state);
    let newest = stands.iter().filter(|stand| !stand.primary.is_empty()).max_by_key(|stand| stand.epoch);
    let facts = NamedSite {
        here: control.site().as_str(),
        name,
        known,
        witness: state.named(name).map_or(configured, |site| site.witness),
        removed: state.removed.values().any(|gone| gone.as_str() == name),
        primary: newest.map(|stand| stand.primary.as_str()).filter(|primary| *primary != control.site().as_str()),
    };
    facts.refusal(named)
}

/// A site that an operator named, as it is known here.
#[derive(Debug, Clone, Copy)]
struct NamedSite<'a> {
    here: &'a str,
    name: &'a str,
    /// Enrolled, or in the configuration.
    known: bool,
    witness: bool,
    removed: bool,
    primary: Option<&'a str>,
}

impl NamedSite<'_> {
    fn refusal(&self, named: Named) -> Option<Refused> {
        let Self { here, name, .. } = self;
        let primary = self.primary.unwrap_or("SITE");
        let next = match named {
            Named::Member => format!("name the primary: cfs admin replication enroll --primary {primary}"),
            Named::Primary => format!("name the primary: cfs admin replication rejoin --primary {primary}"),
        };
        let (code, why) = if name == here {
            ("ITSELF", format!("{here} is this site itself"))
        } else if self.removed {
            ("REMOVED", format!("{name} was removed from the cluster"))
        } else if !self.known {
            ("UNKNOWN_SITE", format!("{name} is neither enrolled nor in the configuration of {here}"))
        } else if self.witness && named == Named::Primary {
            ("WITNESS", format!("{name} is a witness: it votes, holds no data and can never be primary"))
        } else {
            return None;
        };
        Some(Refused { code, why, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_cannot_be_what_it_is_named_as_is_refused_and_the_right_one_is_named() {
        let site = NamedSite {
            here: "site-a",
            name: "site-b",
            known: true,
            witness: false,
            removed: false,
            primary: Some("site-c"),
        };
        let code = |site: NamedSite<'_>, named| {
            site.refusal(named).map_or("", |refused| {
                assert!(refused.next.ends_with("--primary site-c"), "{refused:?}");
                refused.code
            })
        };
        for (site, at_enroll, at_rejoin) in [
            (site, "", ""),
            (NamedSite { witness: true, ..site }, "", "WITNESS"),
            (NamedSite { known: false, ..site }, "UNKNOWN_SITE", "UNKNOWN_SITE"),
            (NamedSite { removed: true, ..site }, "REMOVED", "REMOVED"),
            (NamedSite { name: "site-a", known: false, ..site }, "ITSELF", "ITSELF"),
        ] {
            assert_eq!((code(site, Named::Member), code(site, Named::Primary)), (at_enroll, at_rejoin), "{site:?}");
        }
    }
}
