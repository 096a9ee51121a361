//! Why this site takes part in nothing, and what leads out of that.

use cfs_control_core::State;
use cfs_control_core::local::{Fence, Sealed};
use cfs_control_core::way_out::{self, Stand};
use cfs_model::Epoch;
use cfs_rpc::v1;

use crate::contact::Contact;
use crate::control::Control;

/// This site and all others, as far as they matter for what leads out of a fence.
pub(crate) fn stands(control: &Control, state: &State) -> Vec<Stand> {
    let here = Stand {
        name: control.site().to_string(),
        group: state.group,
        epoch: state.epoch,
        primary: state.primary.map(|id| state.name_of(id)).unwrap_or_default(),
        sealed: match control.local().fenced() {
            Fence::SealedFor(sealed) => Some((state.name_of(sealed.target), sealed.at_ms)),
            Fence::Newer(_) | Fence::None => None,
        },
        witness: control.config.site.witness,
        silent: false,
    };
    let others = control.contacts.all();
    let other = |(name, contact): (&cfs_model::SiteName, &Contact)| {
        let reply = contact.reply.as_ref().or(contact.last.as_ref());
        let status = reply.and_then(|reply| reply.status.clone()).unwrap_or_default();
        Stand {
            name: name.to_string(),
            group: reply.map_or(0, |reply| reply.group),
            epoch: Epoch(reply.map_or(0, |reply| reply.epoch)),
            primary: reply.map(|reply| reply.primary.clone()).unwrap_or_default(),
            sealed: (!status.sealed_for.is_empty()).then_some((status.sealed_for, status.sealed_at_ms)),
            witness: status.witness || state.named(name.as_str()).is_some_and(|site| site.witness),
            silent: contact.reply.is_none() || !contact.error.is_empty(),
        }
    };
    std::iter::once(here).chain(others.iter().map(other)).collect()
}

/// (why, next command) of a site that an operator sealed, or whose group an older one.
pub(super) fn fenced(control: &Control, state: &State) -> Option<(String, String)> {
    let why = control.local().fenced();
    if why == Fence::None {
        return None;
    }
    let stands = stands(control, state);
    let next = way_out::next(control.site().as_str(), matches!(why, Fence::Newer(_)), &stands);
    let why = match why {
        Fence::SealedFor(sealed) => words(&sealed, &state.name_of(sealed.target), control.wall_ms()),
        _ => match newer_sealed_for(&stands, state) {
            Some(target) if target == control.site().as_str() => {
                "a newer generation acts for this cluster, and an operator sealed it for this site".to_owned()
            }
            Some(target) => format!("a newer generation acts for this cluster, and an operator sealed it for {target}"),
            None => "a newer generation acts for this cluster; what this site acknowledged is kept".to_owned(),
        },
    };
    Some((why, next.unwrap_or_default()))
}

/// (why, next command) where the primary of this site's own group is sealed, so that nobody takes appends.
pub(super) fn primary_sealed(control: &Control, state: &State) -> Option<(String, String)> {
    let stands = stands(control, state);
    let next = way_out::next(control.site().as_str(), false, &stands)?;
    let primary = state.name_of(state.primary?);
    let (target, _) = stands.iter().find(|stand| stand.name == primary)?.sealed.as_ref()?;
    Some((format!("{primary} is primary and fenced: an operator sealed it for {target}"), next))
}

/// For whom the primary of the newest other group was sealed.
fn newer_sealed_for(stands: &[Stand], state: &State) -> Option<String> {
    let newer = stands.iter().filter(|stand| stand.group != 0 && stand.group != state.group);
    let newest = newer.filter(|stand| stand.epoch > state.epoch).max_by_key(|stand| stand.epoch)?;
    let primary = stands.iter().find(|stand| stand.name == newest.primary)?;
    primary.sealed.as_ref().map(|(target, _)| target.clone())
}

fn words(sealed: &Sealed, target: &str, now_ms: u64) -> String {
    let ago = match now_ms.saturating_sub(sealed.at_ms) / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    };
    format!("sealed by an operator, who wants {target} to be primary ({}, {ago} ago)", sealed.by)
}

/// What others are told of a seal.
pub(super) fn told(control: &Control, state: &State, status: &mut v1::SiteStatus) {
    if let Fence::SealedFor(sealed) = control.local().fenced() {
        status.sealed_for = state.name_of(sealed.target);
        status.sealed_at_ms = sealed.at_ms;
        status.sealed_by = sealed.by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cfs_model::SiteId;

    #[test]
    fn a_seal_says_whose_word_it_was_for_whom_and_when() {
        let (by, epoch) = ("root@host".to_owned(), Epoch(1));
        let sealed = Sealed { target: SiteId(2), by, at_ms: 1_000, group: 1, epoch };
        let said = |now_ms| words(&sealed, "site-b", now_ms);
        assert_eq!(said(13_000), "sealed by an operator, who wants site-b to be primary (root@host, 12 s ago)");
        assert!(said(601_000).ends_with("10 min ago)") && said(36_001_000).ends_with("10 h ago)"));
    }
}
