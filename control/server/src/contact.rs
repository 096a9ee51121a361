//! What this process knows of every other control process, whatever group it is in: asked every few seconds, and when an operator looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfs_config::Config;
use cfs_control_core::local::Fence;
use cfs_control_core::skew::Exchanges;
use cfs_control_core::split::{self, Side};
use cfs_control_core::{Kind, State};
use cfs_model::{Epoch, SiteId, SiteName, Vector};
use cfs_rpc::v1;

use crate::control::Control;
use crate::{status, wire, words};

/// Every other process is asked so often.
const INTERVAL: Duration = Duration::from_millis(2500);
/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_millis(1500);

/// Who answers at once does so within this.
const QUICK_LIMIT: Duration = Duration::from_millis(400);

/// One other control process, as last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contact {
    pub(crate) id: SiteId,
    pub(crate) reply: Option<v1::ContactReply>,
    /// What it said last, also before this site changed its group: for people.
    pub(crate) last: Option<v1::ContactReply>,
    /// What its shipper said last; a control process that was just started again does not know its shipper yet.
    pub(crate) shipper: Option<v1::ShipperReport>,
    /// When it last acknowledged an append, as far as it ever said, in ms since 1970; 0: not known. A shipper that was
    /// started again has forgotten.
    pub(crate) acknowledged_at_ms: u64,
    /// Boot time of the last answer; `None`: it never answered.
    pub(crate) at_ms: Option<u64>,
    /// Why it does not answer; empty: it did.
    pub(crate) error: String,
    /// How far its clock and it itself are away.
    pub(crate) exchanges: Exchanges,
}

/// All of them, by name.
#[derive(Debug)]
pub(crate) struct Contacts(Mutex<BTreeMap<SiteName, Contact>>);

impl Contacts {
    pub(crate) fn new(config: &Config) -> Self {
        let known = config.peers.iter().map(|p| (p.name.clone(), Contact { id: p.id, ..Contact::default() }));
        Self(Mutex::new(known.collect()))
    }

    /// A copy of what is known.
    pub(crate) fn all(&self) -> BTreeMap<SiteName, Contact> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, site: &SiteName) -> Option<Contact> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(site).cloned()
    }

    fn update(&self, site: &SiteName, change: impl FnOnce(&mut Contact)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(site.clone()).or_default());
    }

    /// This site has changed its group: what others said before says nothing of theirs now.
    pub(crate) fn forget(&self) {
        for contact in self.0.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            contact.reply = None;
        }
    }

    /// Only these can be asked: a site that was removed is nobody's business any more.
    fn keep(&self, names: &[SiteName]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    /// What everybody said who answered when last asked.
    pub(crate) fn answers(&self) -> Vec<v1::ContactReply> {
        self.all()
            .into_values()
            .filter(|contact| contact.error.is_empty())
            .filter_map(|contact| contact.reply)
            .collect()
    }

    /// How long ago each was heard.
    pub(crate) fn heard(&self, now_ms: u64) -> Vec<v1::PeerHeard> {
        let contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = |contact: &Contact| v1::PeerHeard {
            site: u32::from(contact.id.0),
            age_ms: contact.at_ms.map_or(u64::MAX, |at| now_ms.saturating_sub(at)),
            ..v1::PeerHeard::default()
        };
        contacts.values().filter(|contact| contact.id != SiteId(0)).map(heard).collect()
    }
}

/// Asks everybody for as long as the process lives.
pub(crate) async fn run(control: Arc<Control>) {
    loop {
        ask_all(&control).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks every other control process once, all at the same time.
pub(crate) async fn ask_all(control: &Arc<Control>) {
    let names: Vec<SiteName> = control.others().into_keys().collect();
    control.contacts.keep(&names);
    futures::future::join_all(names.iter().map(|name| ask(control, name))).await;
    judge(control);
    control.metrics.look_for_split(control);
}

/// The same for those who answer at once; of the others the last answer stays.
pub(crate) async fn ask_quickly(control: &Arc<Control>) {
    let _ = tokio::time::timeout(QUICK_LIMIT, ask_all(control)).await;
}

/// Asks one; what it says is kept.
pub(crate) async fn ask(control: &Arc<Control>, site: &SiteName) -> Result<v1::ContactReply, String> {
    let (asked_ms, asked_wall_ms, asked) = (control.boot_ms(), control.wall_ms(), tokio::time::Instant::now());
    let answer = tokio::time::timeout(LIMIT, async {
        let mut client = control.peers.client(site.as_str()).map_err(|error| error.to_string())?;
        let reply = client.contact(request(control)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    });
    let answer = answer.await.unwrap_or_else(|_| Err(format!("no answer within {} ms", LIMIT.as_millis())));
    let round_trip_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
    let now_ms = control.boot_ms();
    let state = control.state();
    if let Ok(reply) = &answer
        && reply.group == state.group
    {
        control.words.take(&state, control.site(), reply.words.clone(), asked_ms);
    }
    let id = control.config.peer(site).map(|peer| peer.id).or_else(|| state.named(site.as_str()).map(|s| s.id));
    control.contacts.update(site, |contact| {
        contact.id = id.unwrap_or(contact.id);
        match &answer {
            Ok(reply) => {
                contact.reply = Some(reply.clone());
                contact.last = Some(reply.clone());
                if let Some(shipper) = &reply.shipper {
                    contact.acknowledged_at_ms = contact.acknowledged_at_ms.max(shipper.acknowledged_at_ms);
                    contact.shipper = Some(shipper.clone());
                }
                contact.at_ms = Some(now_ms);
                if reply.wall_ms > 0 {
                    contact.exchanges.note(now_ms, round_trip_us, asked_wall_ms, reply.wall_ms);
                }
                contact.error.clear();
            }
            Err(error) => contact.error.clone_from(error),
        }
    });
    answer
}

pub(crate) fn request(control: &Control) -> v1::ContactRequest {
    let state = control.state();
    v1::ContactRequest {
        cluster: control.config.cluster.id.to_string(),
        site: control.site().to_string(),
        group: state.group,
        epoch: state.epoch.0,
        highest_epoch: highest_epoch(control).0,
        hears: String::new(),
    }
}

/// The highest epoch that this site has seen, its shipper included.
pub(crate) fn highest_epoch(control: &Control) -> Epoch {
    let shipper = control.shipper.borrow().report.as_ref().map(|report| Epoch(report.floor)).unwrap_or_default();
    control.state().epoch.max(shipper)
}

/// What this process says of itself to who asks. Members of its own group know the history.
pub(crate) fn reply(control: &Control, asked: &v1::ContactRequest) -> v1::ContactReply {
    let state = control.state();
    // Let go before anything below looks at it again: two looks in one thread, with a change waiting between, never end.
    let shipper = control.shipper.borrow().live().cloned();
    let node = control.node();
    let own = asked.group == state.group;
    let history: Vec<_> = state.opened.iter().filter(|_| !own).map(|(epoch, site)| (*epoch, *site)).collect();
    v1::ContactReply {
        cluster: control.config.cluster.id.to_string(),
        site: control.site().to_string(),
        site_id: u32::from(control.id().0),
        group: state.group,
        node: node.as_ref().map(|node| node.id()).unwrap_or_default(),
        epoch: state.epoch.0,
        highest_epoch: highest_epoch(control).0,
        primary: state.primary.map(|id| state.name_of(id)).unwrap_or_default(),
        leads: control.lead().is_some(),
        leader_site: node.as_ref().and_then(|node| node.leader_site()).map(|s| s.to_string()).unwrap_or_default(),
        opened: wire::opened(&history),
        shipper,
        status: Some(status::here(control)),
        removed: state.removed.keys().map(|site| u32::from(site.0)).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hears: false,
        signs: control.signs(),
        wall_ms: control.wall_ms(),
        words: if own { words::known(control, &state, &asked.site) } else { Vec::new() },
        forked_at: state.forked_at.to_wire(),
        applied_index: node.as_ref().map_or(0, |node| node.applied().borrow().index()),
        leader_age_ms: node.map_or(u32::MAX, |node| u32::try_from(node.leader_age_ms()).unwrap_or(u32::MAX)),
    }
}

/// What is known of the group of one that answered.
pub(crate) fn side(reply: &v1::ContactReply) -> Side {
    let shipper = reply.shipper.as_ref();
    Side {
        group: reply.group,
        epoch: Epoch(reply.epoch),
        highest: Epoch(reply.highest_epoch),
        generation: 0,
        opened: wire::history(&reply.opened).into_iter().collect(),
        durable: shipper.map(|shipper| wire::vectors(&shipper.streams).0).unwrap_or_default(),
        forked_at: Vector::from_wire(&reply.forked_at).unwrap_or_default(),
    }
}

/// The same of this site's own.
pub(crate) fn own_side(control: &Control, state: &State) -> Side {
    let shipper = control.shipper.borrow().report.clone();
    Side {
        group: state.group,
        epoch: state.epoch,
        highest: highest_epoch(control),
        generation: state.generation,
        opened: state.opened.clone(),
        durable: shipper.map(|shipper| wire::vectors(&shipper.streams).0).unwrap_or_default(),
        forked_at: state.forked_at.clone(),
    }
}

/// Compares this site's group with the others'. Whoever acts for a lower epoch is fenced; nothing else is done
/// without an operator.
fn judge(control: &Arc<Control>) {
    let state = control.state();
    if state.group == 0 {
        return;
    }
    let removed = status::was_removed(control, &state);
    if control.local().set_removed(removed) {
        control.direct_soon.notify_one();
    }
    let others: Vec<v1::ContactReply> =
        control.contacts.answers().into_iter().filter(|reply| reply.group != 0 && reply.group != state.group).collect();
    let here = own_side(control, &state);
    let newer = others.iter().filter(|reply| split::compare(&state, &here, &side(reply)) == split::Verdict::HereFenced);
    let fenced = matches!(control.local().fenced(), Fence::Newer(_));
    if let Some(newer) = newer.max_by_key(|reply| side(reply).standing())
        && !fenced
    {
        tracing::error!(
            site = newer.site,
            epoch = %Epoch(newer.epoch),
            own = %state.epoch,
            "a newer generation acts for this cluster: this site is fenced until `cfs admin replication rejoin`"
        );
        control.local().fence(Fence::Newer(side(newer).standing()));
        control.direct_soon.notify_one();
        control.report_soon.notify_one();
    }
    let Some(lead) = control.lead() else { return };
    for reply in others {
        if let Some(site) = wire::site_id(reply.site_id) {
            control.restart().answered.insert(site, Epoch(reply.epoch).generation());
        }
        let known = state.split.as_ref().is_some_and(|split| split.group == reply.group);
        if !known {
            let evidence = format!(
                "{} answers for group {:016x}, epoch {}, primary {}",
                reply.site,
                reply.group,
                Epoch(reply.epoch),
                reply.primary
            );
            let lead = lead.clone();
            tokio::spawn(async move {
                let split = Kind::Split { group: reply.group, epoch: Epoch(reply.highest_epoch), evidence };
                // It is seen again in a second if this came to nothing.
                let _ = lead.propose(&reply.site, split).await;
            });
        }
    }
    for contact in control.contacts.all().values() {
        let ours = contact.reply.as_ref().filter(|reply| reply.group == state.group || reply.group == 0);
        if let Some(reply) = ours.filter(|_| contact.error.is_empty()) {
            control.restart().answered.insert(contact.id, Epoch(reply.highest_epoch).generation());
        }
    }
}
