//! A directive, as read.

use std::collections::{BTreeMap, BTreeSet};

use cfs_config::Peer;
use cfs_model::op::StreamPosition;
use cfs_model::{Epoch, Lsn, SiteId, SiteName, StreamId, Vector};
use cfs_rpc::v1;
use cfs_shipper_core::ack::Rule;
use cfs_shipper_core::history::History;

use crate::governed::Error;

/// How long the primary waits for the others' cursors before it asks for a new incarnation.
const PATIENCE_MS: u64 = 500;
/// The same where nobody could take over meanwhile.
const UNHURRIED_PATIENCE_MS: u64 = 2000;
/// Positions, rules and sites in one directive (invariant 10).
const MAX_LISTED: usize = 4096;

/// What holds until the next directive or the end of the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Directed {
    pub(crate) epoch: Epoch,
    /// This site may append in `epoch`, while its lease runs.
    pub(crate) primary: bool,
    /// Every site that stores data may, and `primary_site` coordinates.
    pub(crate) shared: bool,
    pub(crate) primary_site: String,
    pub(crate) primary_address: String,
    pub(crate) lease_deadline_ns: u64,
    pub(crate) drain_op: u64,
    pub(crate) aborted_op: u64,
    /// Nothing is appended before this is applied.
    pub(crate) cut: Vector,
    /// While sealed, batches of older epochs are taken up to here.
    pub(crate) fetch: Vector,
    pub(crate) closed: BTreeMap<StreamId, Lsn>,
    pub(crate) rules: Vec<Rule>,
    /// The fewest copies that a producer may be promised; 0: none yet.
    pub(crate) promised: usize,
    /// Enrolled sites with a shipper.
    pub(crate) data_sites: BTreeSet<SiteId>,
    pub(crate) witnesses: BTreeSet<SiteId>,
    /// The same sites with a shipper, by the addresses under which they were enrolled.
    pub(crate) enrolled: Vec<Peer>,
    pub(crate) held: BTreeSet<SiteId>,
    pub(crate) fenced: bool,
    /// Why, for producers; empty: an older control process does not say.
    pub(crate) fenced_why: String,
    pub(crate) patience_ms: u64,
}

impl Directed {
    pub(crate) fn read(directive: &v1::Directive) -> Result<Self, Error> {
        let lists = [
            directive.cut.len(),
            directive.fetch.len(),
            directive.closed.len(),
            directive.rules.len(),
            directive.sites.len(),
            directive.held.len(),
        ];
        if lists.iter().any(|len| *len > MAX_LISTED) {
            return Err(Error::Refused(format!("a list in it is longer than {MAX_LISTED}")));
        }
        let sites = |witness: bool| {
            let sites = directive.sites.iter().filter(move |enrolled| enrolled.witness == witness);
            sites.map(|enrolled| site(enrolled.id)).collect::<Result<BTreeSet<SiteId>, Error>>()
        };
        Ok(Self {
            epoch: Epoch(directive.epoch),
            primary: directive.primary,
            shared: directive.shared,
            primary_site: directive.primary_site.clone(),
            primary_address: directive.primary_address.clone(),
            lease_deadline_ns: directive.lease_deadline_boot_ns,
            drain_op: directive.drain_op,
            aborted_op: directive.aborted_op,
            cut: positions(&directive.cut)?.into_iter().collect(),
            fetch: positions(&directive.fetch)?.into_iter().collect(),
            closed: positions(&directive.closed)?.into_iter().collect(),
            rules: directive.rules.iter().map(rule).collect::<Result<_, _>>()?,
            promised: directive.promised_copies as usize,
            data_sites: sites(false)?,
            witnesses: sites(true)?,
            enrolled: directive.sites.iter().filter(|site| !site.witness).map(enrolled).collect::<Result<_, _>>()?,
            held: directive.held.iter().map(|id| site(*id)).collect::<Result<_, _>>()?,
            fenced: directive.fenced,
            fenced_why: directive.fenced_why.clone(),
            patience_ms: if directive.number == 0 { UNHURRIED_PATIENCE_MS } else { PATIENCE_MS },
        })
    }

    /// Whether nothing but the lease is another than in `other`.
    pub(crate) fn differs_by_lease_only(&self, other: &Self) -> bool {
        *self == Self { lease_deadline_ns: self.lease_deadline_ns, ..other.clone() }
    }

    /// As far as anybody waits for a stream that reaches to `lsn`: not past the end of one that is closed.
    pub(crate) fn end_of(&self, stream: StreamId, lsn: Lsn) -> Lsn {
        self.closed.get(&stream).map_or(lsn, |end| lsn.min(*end))
    }

    /// Whether a site stores data for the cluster. Before a control process has said who does, everybody may.
    pub(crate) fn belongs(&self, site: SiteId) -> bool {
        self.data_sites.is_empty() || self.data_sites.contains(&site)
    }

    /// Why no streams are exchanged with a site; `None`: they are.
    pub(crate) fn kept_apart_from(&self, other: SiteId) -> Option<&'static str> {
        if self.fenced {
            return Some(
                "this site is fenced until an operator lets it take part again: cfs admin replication status says why",
            );
        }
        if self.held.contains(&other) {
            return Some(
                "an old primary is held until an operator lets it take part again (auto_rejoin is off): on it, cfs admin \
                 replication rejoin --primary SITE",
            );
        }
        if self.witnesses.contains(&other) {
            return Some("it is a witness and has no shipper");
        }
        // A site that was removed may not know it, and asks for entries as before.
        (!self.belongs(other)).then_some(
            "it does not belong to the cluster: it was removed, or is not enrolled yet; cfs admin replication status on it \
             tells",
        )
    }
}

fn site(id: u32) -> Result<SiteId, Error> {
    let id = u8::try_from(id).ok().filter(|id| *id != 0).map(SiteId);
    id.ok_or_else(|| Error::Refused("it holds a site number that cannot be".into()))
}

fn enrolled(wire: &v1::EnrolledSite) -> Result<Peer, Error> {
    let name = SiteName::new(wire.name.as_str()).map_err(|error| Error::Refused(error.to_string()))?;
    let producer = (!wire.producer.is_empty()).then(|| wire.producer.clone());
    Ok(Peer { name, id: site(wire.id)?, witness: false, peer: wire.peer.clone(), control: String::new(), producer })
}

fn rule(wire: &v1::AckRule) -> Result<Rule, Error> {
    let members = wire.members.iter().map(|id| site(*id)).collect::<Result<_, _>>()?;
    Ok(Rule { id: wire.id, copies: wire.copies as usize, members })
}

fn positions(wire: &[StreamPosition]) -> Result<Vec<(StreamId, Lsn)>, Error> {
    let read = |position: &StreamPosition| Some((position.stream()?, position.lsn()));
    let all = wire.iter().map(|position| {
        read(position).ok_or_else(|| Error::Refused("it holds a stream position that cannot be".into()))
    });
    all.collect()
}

/// Reads a history of opened epochs.
pub(crate) fn opened(wire: &[v1::Opened]) -> Result<Vec<(Epoch, SiteId)>, Error> {
    let owner = |number| if number == 0 { Ok(SiteId::EVERY) } else { site(number) };
    wire.iter().map(|opened| Ok((Epoch(opened.epoch), owner(opened.site)?))).collect()
}

/// The history as a message.
pub(crate) fn opened_to_wire(history: &History) -> Vec<v1::Opened> {
    history.iter().map(|(epoch, site)| v1::Opened { epoch: epoch.0, site: u32::from(site.0) }).collect()
}
