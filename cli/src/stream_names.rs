//! What streams are called where people read.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::{Incarnation, StreamId};

/// The streams that are shown together. A stream has the name of its site; where several of one site are shown, the
/// incarnation follows, as in `site-a.2`, or `site-a.1.3.2` for the second of the generation that site number 3 forced.
#[derive(Debug, Clone, Default)]
pub struct StreamNames {
    sites: BTreeMap<u32, String>,
    shown: BTreeSet<(u32, u64)>,
}

impl StreamNames {
    /// Of these streams, as (site's number, incarnation), with the names of sites by number. A site without a name keeps its
    /// number.
    pub fn new(sites: impl IntoIterator<Item = (u32, String)>, shown: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let sites = sites.into_iter().filter(|(_, name)| !name.is_empty()).collect();
        Self { sites, shown: shown.into_iter().collect() }
    }

    /// The same, with the names of the configuration.
    pub fn of_config(config: &cfs_config::Config, shown: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let this = (u32::from(config.site.id.0), config.site.name.to_string());
        let peers = config.peers.iter().map(|peer| (u32::from(peer.id.0), peer.name.to_string()));
        Self::new(std::iter::once(this).chain(peers), shown)
    }

    /// The name of one of them that is written as `SITE_NUMBER.INCARNATION`; anything else stays as it is.
    pub fn of_text(&self, stream: &str) -> String {
        match stream.parse::<StreamId>() {
            Ok(stream) => self.name(u32::from(stream.site.0), stream.incarnation.0),
            Err(_) => stream.to_owned(),
        }
    }

    /// The name of one of them.
    pub fn name(&self, site: u32, incarnation: u64) -> String {
        let several = self.shown.range((site, 0)..=(site, u64::MAX)).any(|(_, other)| *other != incarnation);
        match self.sites.get(&site) {
            Some(name) if !several => name.clone(),
            Some(name) => format!("{name}.{}", Incarnation(incarnation)),
            None => format!("{site}.{}", Incarnation(incarnation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use cfs_model::SiteId;

    use super::*;

    #[test]
    fn a_stream_is_called_after_its_site_and_told_apart_only_where_it_must_be() {
        let forced = Incarnation::new(1, SiteId(2), 1).0;
        let sites = || [(1, "site-a".to_owned()), (2, "site-b".to_owned())];
        let names = StreamNames::new(sites(), [(1, forced), (2, 1), (7, 3)]);
        assert_eq!(names.name(1, forced), "site-a");
        assert_eq!(names.name(2, 1), "site-b");
        assert_eq!(names.name(7, 3), "7.3", "a site that nobody names");
        assert_eq!([format!("1.{forced}"), "-".to_owned()].map(|text| names.of_text(&text)), ["site-a", "-"]);
        let names = StreamNames::new(sites(), [(1, 1), (1, forced), (2, 1)]);
        let all = [(1, 1), (1, forced), (2, 1)].map(|(site, incarnation)| names.name(site, incarnation));
        assert_eq!(all, ["site-a.1", "site-a.1.2.1", "site-b"]);
    }
}
