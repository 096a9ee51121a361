//! A change of primary that waits because hooks said no.

use cfs_model::SiteId;

use super::Coordinator;
use crate::state::State;

impl Coordinator {
    /// What the hook of a site said, if the operation under way passes it over for that.
    pub fn vetoed(&self, site: SiteId) -> Option<&str> {
        self.drive.as_ref()?.vetoed(site)
    }

    /// An operator wants a site all the same: the operation under way asks its hook no more. Returns which operation that is;
    /// `None`: none waits for that hook.
    pub fn overrule(&mut self, site: SiteId) -> Option<u64> {
        let drive = self.drive.as_mut()?;
        drive.overrule(site).then(|| drive.op())
    }

    /// What an operator may do where hooks stand in the way; `None`: none does.
    pub fn past_vetoes(&self, state: &State) -> Option<String> {
        let vetoed: Vec<String> = self.drive.as_ref()?.vetoes().map(|site| state.name_of(site)).collect();
        let first = vetoed.first()?;
        let all = vetoed.join(", ");
        Some(format!(
            "mend the pre_promote hook of {all}; or without it: cfs admin replication failover --to {first} --force"
        ))
    }
}
