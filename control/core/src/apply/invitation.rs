//! Invitations: what lets one named site, once and for a while, ask for certificates without having any.

use cfs_model::{SiteId, SiteName};
use serde::{Deserialize, Serialize};

use super::{Applied, Outcome};
use crate::caps;
use crate::command::Command;
use crate::state::State;

/// An invitation. Its secret is known to nobody here: the state holds a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Who may use it.
    pub site: SiteName,
    /// Until when, by the clocks of those who propose.
    pub until_ms: u64,
    /// What it was used for: a digest of the requests for signatures.
    pub used_for: Option<String>,
}

impl State {
    pub(super) fn invite(
        &mut self,
        command: &Command,
        hash: &str,
        site: &SiteName,
        now_ms: u64,
        until_ms: u64,
    ) -> Applied {
        if let Some(member) = self.named(site.as_str()) {
            return Err(format!("{} is enrolled already", member.name));
        }
        if hash.len() != caps::INVITATION_HASH_BYTES || self.invitations.contains_key(hash) {
            return Err("the hash cannot be that of a new invitation".into());
        }
        if until_ms.saturating_sub(now_ms) > caps::MAX_INVITATION_MS || until_ms <= now_ms {
            return Err(format!("an invitation lasts for {} minutes at most", caps::MAX_INVITATION_MS / 60_000));
        }
        // Those long over are forgotten; until then a second use is told from a token that never was.
        self.invitations.retain(|_, known| known.until_ms.saturating_add(caps::MAX_INVITATION_MS) > now_ms);
        if self.invitations.len() >= caps::MAX_INVITATIONS {
            return Err(format!("there are {} invitations already: wait until some are over", caps::MAX_INVITATIONS));
        }
        self.invitations.insert(hash.to_owned(), Invitation { site: site.clone(), until_ms, used_for: None });
        self.note(command, "invite", SiteId(0), format!("{site} is invited"), "");
        Ok(Outcome::Done)
    }

    pub(super) fn redeem(
        &mut self,
        command: &Command,
        hash: &str,
        site: &SiteName,
        now_ms: u64,
        what: &str,
    ) -> Applied {
        let Some(invitation) = self.invitations.get_mut(hash) else {
            return Err(
                "the token is of no invitation that is known here: it is another cluster's, or long over".into()
            );
        };
        if invitation.site != *site {
            return Err(format!("the token is for {}, not for {site}", invitation.site));
        }
        if invitation.used_for.is_some() {
            return Err(format!("the token of {site} was used already"));
        }
        if now_ms >= invitation.until_ms {
            return Err(format!("the token of {site} has expired"));
        }
        if what.len() > caps::MAX_TEXT_BYTES {
            return Err("what the token is to be used for is too long".into());
        }
        invitation.used_for = Some(what.to_owned());
        self.note(command, "invite", SiteId(0), format!("{site} used its invitation"), what);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
#[path = "invitation_tests.rs"]
mod tests;
