//! Becoming a member, coming back, and leaving.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use cfs_control_core::{Kind, Outcome, Site};
use cfs_model::{Epoch, Incarnation, Levels, SiteId, SiteName, Vector};
use cfs_rpc::{private_file, v1};

use crate::control::{Control, blocking};
use crate::lead::Undone;
use crate::member::Node;
use crate::{contact, sealed, status, wire};

/// Where a control process listens unless its configuration says otherwise.
const CONTROL_PORT: u16 = 9501;
/// A site whose address was only looked up is reached within this.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// A site that joins is heard by the group within this.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// While the leadership moves, whoever gets it is looked for this long.
const MOVE_LIMIT: Duration = Duration::from_secs(3);
const MOVE_PAUSE: Duration = Duration::from_millis(100);
/// Sites that name another one as leader are followed so often.
const MOST_NAMED: u32 = 4;

/// A member's log and state take less at first.
const ROOM_BYTES: usize = 8 << 20;

/// Why a site did not become a member.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} is not in the configuration ([[peers]]) of this site")]
    UnknownSite(String),
    #[error("{site} does not answer: {why}")]
    Unreachable { site: String, why: String },
    #[error("{0}")]
    Refused(String),
    #[error("the state of this site cannot be kept: {0}")]
    State(String),
    #[error("the disk of this site is too full: {0}")]
    NoRoom(String),
    #[error("the group has not reached this site within {0:?}")]
    NotReached(Duration),
}

/// Lets a site in: on the leader by a command, elsewhere by naming the leader.
pub(crate) async fn admit(control: &Arc<Control>, caller: &SiteName, request: v1::JoinRequest) -> v1::JoinReply {
    let refused = |why: String| v1::JoinReply { why, ..v1::JoinReply::default() };
    if request.cluster != control.config.cluster.id.to_string() {
        return refused(format!(
            "it belongs to cluster {}, this site to {}",
            request.cluster, control.config.cluster.id
        ));
    }
    let theirs = Levels::told(request.level, request.oldest_level);
    if let Err(why) = Levels::acting_as(control.config.cluster.level).meet(caller.as_str(), theirs) {
        return refused(why);
    }
    if control.local().is_fenced() {
        // It would be a member where nobody takes appends, and would have no way on from there.
        let here = status::here(control);
        return refused(format!("{} is fenced itself: {}; next: {}", control.site(), here.why, here.next));
    }
    let Some(lead) = control.lead() else { return elsewhere(control) };
    let site = match member(caller, &request) {
        Ok(site) => site,
        Err(why) => return refused(why),
    };
    let state = control.state();
    if let Err(why) = theirs.acts_as.reaches(state.level, caller.as_str()) {
        return refused(why);
    }
    let theirs = Epoch(request.floor);
    if theirs > state.epoch && theirs.generation() >= state.generation && !request.opened.is_empty() {
        return refused(format!(
            "{caller} has seen epoch {theirs}, which is newer than {}, the epoch of this group: see \
             `cfs admin replication split-brain status`",
            state.epoch
        ));
    }
    let undone = |undone: Undone| v1::JoinReply { moving: undone.moved, ..refused(undone.why) };
    if let Err(not) = resolve(&lead, &state, &request).await {
        return undone(not);
    }
    match lead.commit(caller.as_str(), Kind::Enrol { site: site.clone() }).await {
        Ok(Outcome::Allotted(node)) => v1::JoinReply {
            accepted: true,
            group: control.state().group,
            node,
            leader_site: control.site().to_string(),
            ..v1::JoinReply::default()
        },
        Ok(_) => refused("the group gave no number".into()),
        Err(not) => undone(not),
    }
}

/// A site that comes back from another group brings what that group opened; then the split is over.
async fn resolve(
    lead: &crate::lead::Lead,
    state: &cfs_control_core::State,
    request: &v1::JoinRequest,
) -> Result<(), Undone> {
    let opened = wire::history(&request.opened);
    let split = state.open_split();
    let foreign = opened.iter().any(|(epoch, _)| !state.opened.contains_key(epoch));
    if !request.rejoin || (split.is_none() && !foreign) {
        return Ok(());
    }
    let mut incarnations: Vec<(SiteId, Incarnation)> = Vec::new();
    for stream in request.streams.iter().filter_map(|s| s.durable?.stream()) {
        incarnations.push((stream.site, stream.incarnation));
    }
    let above = opened.iter().map(|(epoch, _)| *epoch).max().unwrap_or_default().max(state.epoch);
    lead.commit("rejoin", Kind::Resolve { above, opened, incarnations, forked_at: Vector::new() }).await.map(|_| ())
}

fn elsewhere(control: &Control) -> v1::JoinReply {
    let leader = control.node().and_then(|node| node.leader_site());
    match leader {
        Some(leader) => v1::JoinReply {
            leader_address: control.others().get(&leader).cloned().unwrap_or_default(),
            leader_site: leader.to_string(),
            ..v1::JoinReply::default()
        },
        None => v1::JoinReply {
            moving: status::quorum_of(control).settles(),
            why: if control.node().is_some() {
                "no leader is known: a majority of the voters must be up".into()
            } else {
                format!("{} is not enrolled itself", control.site())
            },
            ..v1::JoinReply::default()
        },
    }
}

fn member(caller: &SiteName, request: &v1::JoinRequest) -> Result<Site, String> {
    let site = request.site.clone().unwrap_or_default();
    if site.name != caller.as_str() {
        return Err(format!("it joins as {}, its certificate names {caller}", site.name));
    }
    let id = wire::site_id(site.id).ok_or_else(|| format!("site number {} cannot be", site.id))?;
    Ok(Site {
        id,
        name: caller.clone(),
        witness: site.witness,
        node: 0,
        peer: bounded(site.peer),
        producer: bounded(site.producer),
        control: bounded(request.control.clone()),
        http: bounded(request.http.clone()),
        priority: u8::try_from(request.priority).unwrap_or(u8::MAX),
    })
}

fn bounded(mut address: String) -> String {
    address.truncate((0..=300.min(address.len())).rev().find(|at| address.is_char_boundary(*at)).unwrap_or(0));
    address
}

/// Finds out whether a member's state can be kept here: a group counts on a member from the moment that it is let in.
async fn find_room(control: &Control) -> Result<(), Error> {
    let shipper = control.shipper.borrow().live().filter(|report| report.status == "READ_ONLY").map(|r| r.why.clone());
    if let Some(why) = shipper {
        return Err(Error::NoRoom(why));
    }
    let directory = control.config.control_dir().to_owned();
    let tried = blocking(move || {
        private_file::create_directory(&directory)?;
        let path = directory.join("room");
        let mut file = File::create(&path)?;
        // Written, not only asked for: a file system may promise what it does not have.
        let zeros = vec![0; 64 * 1024];
        let written = (0..ROOM_BYTES / zeros.len()).try_for_each(|_| file.write_all(&zeros));
        let kept = written.and_then(|()| file.sync_all());
        fs::remove_file(&path)?;
        kept
    });
    match tried.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::NoRoom(format!("{} MiB cannot be written: {error}", ROOM_BYTES >> 20))),
        Err(error) => Err(Error::State(error.to_string())),
    }
}

/// Makes this site a member of the group that `through` is in. What it was before is kept in its own directory.
pub(crate) async fn join(control: &Arc<Control>, through: &SiteName, rejoin: bool) -> Result<String, Error> {
    let _changing = control.changing.lock().await;
    find_room(control).await?;
    let reply = ask(control, through, rejoin).await?;
    control.set_lead(None);
    if let Some(old) = control.node() {
        control.set_node(None);
        old.shutdown().await;
    }
    let node = Node::create(control, reply.group, reply.node).await.map_err(|error| Error::State(error.to_string()))?;
    sealed::lift(control).await;
    control.set_waiting("", "");
    control.set_node(Some(node.clone()));
    let deadline = tokio::time::Instant::now() + JOIN_LIMIT;
    loop {
        let state = control.state();
        if state.site(control.id()).is_some_and(|site| site.node == reply.node) {
            let follow =
                if control.config.site.witness { "" } else { "; follow it: cfs admin replication bootstrap-status" };
            return Ok(format!("{} is a member under node id {}{follow}", control.site(), reply.node));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::NotReached(JOIN_LIMIT));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Connects to a site that was not known before.
async fn reach(control: &Control, site: &SiteName, address: &str) -> Result<(), Error> {
    control.peers.add(site.as_str(), address);
    let deadline = tokio::time::Instant::now() + REACH_LIMIT;
    loop {
        let link = control.peers.link(site.as_str());
        if link.connected {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            let why = format!("it is not in the configuration ([[peers]]), and {address} is not reached: {}", link.why);
            return Err(Error::Unreachable { site: site.to_string(), why });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks `through`, and whom it names, until a leader lets this site in.
async fn ask(control: &Arc<Control>, through: &SiteName, rejoin: bool) -> Result<v1::JoinReply, Error> {
    let (mut site, mut told) = (through.clone(), String::new());
    let (until, mut named) = (tokio::time::Instant::now() + MOVE_LIMIT, 0);
    while named < MOST_NAMED {
        // Without a known address the name itself is looked up.
        if !control.others().contains_key(&site) {
            let address = if told.is_empty() { format!("{site}:{CONTROL_PORT}") } else { told.clone() };
            reach(control, &site, &address).await?;
        }
        let unreachable = |why: String| Error::Unreachable { site: site.to_string(), why };
        let mut client = control.peers.client(site.as_str()).map_err(|error| unreachable(error.to_string()))?;
        let request = request(control, rejoin);
        let reply = match tokio::time::timeout(JOIN_LIMIT, client.join(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(unreachable(status.message().to_owned())),
            Err(_) => return Err(unreachable(format!("no answer within {JOIN_LIMIT:?}"))),
        };
        if reply.accepted {
            return Ok(reply);
        }
        if reply.moving && tokio::time::Instant::now() < until {
            tokio::time::sleep(MOVE_PAUSE).await;
            continue;
        }
        if !reply.why.is_empty() {
            return Err(Error::Refused(format!("{site} refuses: {}", reply.why)));
        }
        named += 1;
        told = reply.leader_address;
        site = SiteName::new(reply.leader_site).map_err(|error| Error::Refused(error.to_string()))?;
    }
    Err(Error::Refused("the leadership moves: try again".into()))
}

fn request(control: &Control, rejoin: bool) -> v1::JoinRequest {
    let own = control.as_member();
    let levels = Levels::acting_as(control.config.cluster.level);
    let state = control.state();
    let history: Vec<_> = state.opened.iter().map(|(epoch, site)| (*epoch, *site)).collect();
    let streams = control.shipper.borrow().report.as_ref().map(|report| report.streams.clone()).unwrap_or_default();
    v1::JoinRequest {
        cluster: control.config.cluster.id.to_string(),
        site: Some(v1::EnrolledSite {
            id: u32::from(own.id.0),
            name: own.name.to_string(),
            witness: own.witness,
            peer: own.peer,
            producer: own.producer,
        }),
        control: own.control,
        http: own.http,
        priority: u32::from(own.priority),
        opened: wire::opened(&history),
        floor: contact::highest_epoch(control).0,
        streams,
        rejoin,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: levels.acts_as.0,
        oldest_level: levels.oldest.0,
    }
}
