//! Sites whose hook said no, and operators who overrule it.

use cfs_model::SiteId;

use super::Drive;

impl Drive {
    /// What a site's hook said, if it is passed over for that.
    pub(crate) fn vetoed(&self, site: SiteId) -> Option<&str> {
        self.excluded.get(&site).filter(|excluded| excluded.vetoed).map(|excluded| excluded.why.as_str())
    }

    /// All of them.
    pub(crate) fn vetoes(&self) -> impl Iterator<Item = SiteId> {
        self.excluded.iter().filter(|(_, excluded)| excluded.vetoed).map(|(site, _)| *site)
    }

    /// A site may be chosen without its hook being asked, for as long as this operation takes. Returns whether its hook stood
    /// in the way.
    pub(crate) fn overrule(&mut self, site: SiteId) -> bool {
        let stood = self.vetoed(site).is_some();
        if stood {
            self.excluded.remove(&site);
            self.overruled.insert(site);
        }
        stood
    }
}
