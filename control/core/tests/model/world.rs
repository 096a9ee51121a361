//! The cluster, its time and what can happen to it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cfs_control_core::command::{Change, Founding, Parent};
use cfs_control_core::local::Local;
use cfs_control_core::state::{Settings, Site};
use cfs_control_core::{Command, Kind, State};
use cfs_model::{ClusterId, Epoch, Level, Lsn, SiteId, SiteName, StreamId, Vector};

use super::check::Checks;
use super::control::Control;
use super::raft::{Entry, Log, What};
use super::shipper::{Disk, Shipper, Waiting};
use super::wire::{Flight, Message};

/// One round.
pub const ROUND_MS: u64 = 10;
/// Entries that a store applies in one round.
const APPLIED_PER_ROUND: u64 = 200;

pub struct Node {
    pub name: String,
    pub witness: bool,
    pub id_in_group: u64,
    pub term: u64,
    pub log: Log,
    pub voters: BTreeSet<SiteId>,
    pub commit: usize,
    pub applied: usize,
    pub state: State,
    pub apply_held: bool,
    pub heard_leader_ms: u64,
    pub control: Option<Control>,
    pub disk: Disk,
    pub shipper: Option<Shipper>,
    pub session: bool,
    pub store_held: bool,
    pub load: bool,
    pub copies: u8,
    /// How fast its boot clock runs, in thousandths.
    pub rate: u64,
    pub wall_offset_ms: i64,
    pub veto: Option<String>,
}

impl Node {
    /// A site that knows nothing and runs nothing.
    fn blank(name: String, witness: bool) -> Self {
        Self {
            name,
            witness,
            id_in_group: 0,
            term: 0,
            log: Vec::new(),
            voters: BTreeSet::new(),
            commit: 0,
            applied: 0,
            state: State::default(),
            apply_held: false,
            heard_leader_ms: 0,
            control: None,
            disk: Disk::default(),
            shipper: None,
            session: true,
            store_held: false,
            load: false,
            copies: 0,
            rate: 1000,
            wall_offset_ms: 0,
            veto: None,
        }
    }
}

pub struct World {
    pub now_ms: u64,
    pub nodes: BTreeMap<SiteId, Node>,
    /// What each group has committed.
    pub history: BTreeMap<u64, Log>,
    pub cuts: BTreeSet<(SiteId, SiteId)>,
    pub delays: BTreeMap<(SiteId, SiteId), u64>,
    pub flights: Vec<Flight>,
    pub holds: BTreeSet<(&'static str, SiteId)>,
    pub held: Vec<Flight>,
    pub lines: Vec<String>,
    pub quiet: bool,
    /// Lines are printed too, for a run that ends in a panic.
    pub loud: bool,
    pub instances: u64,
    pub checks: Checks,
    pub grace_ms: u64,
    /// How long an entry of the log takes to the others.
    pub log_delay_ms: u64,
}

/// A command in one line.
pub fn told(state: &State, kind: &Kind) -> String {
    let name = |id: &SiteId| state.name_of(*id);
    let names = |ids: &[SiteId]| ids.iter().map(name).collect::<Vec<_>>().join(", ");
    match kind {
        Kind::Found(founding) => format!("{} founds the group", founding.site.name),
        Kind::Enrol { site } => format!("{} is enrolled", site.name),
        Kind::Remove { site, .. } => format!("{} is removed", name(site)),
        Kind::Begin { op, change, reason, evidence, .. } => {
            let evidence = if evidence.is_empty() { String::new() } else { format!(" ({evidence})") };
            format!("begin {} {op}: {reason}{evidence}", change.word())
        }
        Kind::Open { op, epoch, site, cut, counted, .. } => {
            let counted: Vec<SiteId> = counted.iter().map(|seal| seal.site).collect();
            let cut = vector(state, cut);
            let mode = state.operation.as_ref().map(|running| running.change);
            let whom = match mode {
                Some(Change::Mode { shared: true, .. }) => format!("every data site, {} coordinates", name(site)),
                _ => name(site),
            };
            format!("open epoch {epoch} for {whom}, cut {cut}, counted {} (operation {op})", names(&counted))
        }
        Kind::Abort { op, why, .. } => format!("abort operation {op}: {why}"),
        Kind::Coordinate { site, reason, evidence, .. } => {
            let evidence = if evidence.is_empty() { String::new() } else { format!(" ({evidence})") };
            format!("{} coordinates: {reason}{evidence}", name(site))
        }
        Kind::Allot { site, why, .. } => format!("a new incarnation for {}: {why}", name(site)),
        Kind::SetRule { copies, members } => format!("rule remote({copies}) among {}", names(members)),
        Kind::Settle { rule } => format!("rule {rule} stands alone"),
        Kind::Promise { copies, .. } => format!("promise of {copies} copies"),
        Kind::Set(settings) => {
            let mut said = Vec::new();
            said.extend(settings.lease_ms.map(|ms| format!("lease {ms} ms")));
            said.extend(settings.copies.map(|copies| format!("copies {copies}")));
            said.extend(settings.auto_failover.map(|on| format!("automatic failover {on}")));
            said.extend(settings.auto_rejoin.map(|on| format!("automatic rejoin {on}")));
            said.extend(settings.goes_on_alone.map(|on| format!("a site goes on alone {on}")));
            format!("settings: {}", said.join(", "))
        }
        Kind::LeaseSettled => "leases of the old length are over".to_owned(),
        Kind::Close { stream, last, .. } => format!("stream {} ends at {last}", stream_name(state, *stream)),
        Kind::MoveVote { to, .. } => format!("the vote moves to {}", name(to)),
        Kind::Hold { site, held, .. } => {
            format!("{} {}", name(site), if *held { "is held" } else { "is held no more" })
        }
        Kind::Split { epoch, .. } => format!("another group acts, in epoch {epoch}"),
        Kind::Resolve { above, .. } => format!("the split is resolved, above epoch {above}"),
        Kind::Note { .. } | Kind::Raise { .. } | Kind::Configure { .. } | Kind::Invite { .. } | Kind::Redeem { .. } => {
            String::new()
        }
    }
}

fn stream_name(state: &State, stream: StreamId) -> String {
    format!("{}#{}", state.name_of(stream.site).trim_start_matches("site-"), stream.incarnation)
}

/// `a#1:5` is the fifth entry of the first incarnation of site-a's stream.
pub fn vector(state: &State, vector: &Vector) -> String {
    let parts: Vec<String> =
        vector.iter().map(|(stream, lsn)| format!("{}:{lsn}", stream_name(state, stream))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" ") }
}

/// How a cluster begins.
pub struct Setup {
    pub data: u8,
    pub witness: bool,
    pub copies: u8,
    pub lease_ms: u64,
    pub leader: SiteId,
    /// How long a dead shipper may take to be started again.
    pub grace_ms: u64,
}

pub const WITNESS: SiteId = SiteId(9);

pub fn site(id: SiteId, name: &str, node: u64, priority: u8) -> Site {
    Site {
        id,
        name: SiteName::new(name).unwrap(),
        witness: id == WITNESS,
        node,
        peer: String::new(),
        producer: String::new(),
        control: String::new(),
        http: String::new(),
        priority,
    }
}

pub fn founding(setup: &Setup) -> Founding {
    let settings = Settings { lease_ms: Some(setup.lease_ms), copies: Some(setup.copies), ..Settings::default() };
    let cluster = ClusterId([1; 16]);
    Founding {
        cluster,
        group: 0x1111,
        site: site(SiteId(1), "site-a", 1, 100),
        settings,
        level: Level::THIS,
        parent: None,
    }
}

impl World {
    /// A cluster that is founded, enrolled, and has run for two seconds.
    pub fn new(setup: &Setup) -> Self {
        let mut ids: Vec<(SiteId, String)> =
            (1..=setup.data).map(|n| (SiteId(n), format!("site-{}", (b'a' + n - 1) as char))).collect();
        if setup.witness {
            ids.push((WITNESS, "site-w".to_owned()));
        }
        let command = |kind| What::Command(Command { at_ms: 1_000_000_000, by: "operator".into(), kind });
        let mut log: Log = Vec::new();
        let mut push = |what| log.push(Rc::new(Entry { term: 1, at_ms: 0, what }));
        push(What::Voters([SiteId(1)].into()));
        push(command(Kind::Found(Box::new(founding(setup)))));
        for (id, name) in ids.iter().skip(1) {
            push(command(Kind::Enrol { site: site(*id, name, 0, 100) }));
        }
        let mut state = State::default();
        for entry in &log {
            if let What::Command(command) = &entry.what {
                state.apply(command);
            }
        }
        log.push(Rc::new(Entry { term: 1, at_ms: 0, what: What::Voters(state.wanted_voters()) }));
        let nodes = ids.into_iter().map(|(id, name)| {
            let node = Node {
                id_in_group: state.site(id).unwrap().node,
                term: 1,
                log: log.clone(),
                voters: state.wanted_voters(),
                commit: log.len(),
                applied: log.len(),
                state: state.clone(),
                copies: setup.copies,
                ..Node::blank(name, id == WITNESS)
            };
            (id, node)
        });
        let mut world = Self {
            now_ms: 0,
            nodes: nodes.collect(),
            history: [(state.group, log.clone())].into(),
            cuts: BTreeSet::new(),
            delays: BTreeMap::new(),
            flights: Vec::new(),
            holds: BTreeSet::new(),
            held: Vec::new(),
            lines: Vec::new(),
            quiet: true,
            loud: false,
            instances: 0,
            checks: Checks::default(),
            grace_ms: setup.grace_ms,
            log_delay_ms: 0,
        };
        for id in world.ids() {
            world.start_shipper(id);
            world.start_control(id);
        }
        let _ = world.elect(setup.leader);
        world.run(2000);
        world.quiet = false;
        world
    }

    /// Another site is switched on. It is no member yet.
    pub fn add(&mut self, id: SiteId, name: &str) {
        self.nodes.insert(id, Node::blank(name.to_owned(), id == WITNESS));
        self.start_shipper(id);
        self.start_control(id);
    }

    pub fn ids(&self) -> Vec<SiteId> {
        self.nodes.keys().copied().collect()
    }

    pub fn name(&self, id: SiteId) -> String {
        self.nodes[&id].name.clone()
    }

    pub fn vector(&self, vector_: &Vector) -> String {
        let state = self.nodes.values().map(|node| &node.state).max_by_key(|state| state.sites.len());
        vector(state.unwrap(), vector_)
    }

    pub fn say(&mut self, line: String) {
        if !self.quiet {
            let line = format!("[{:>5}] {line}", self.now_ms);
            if self.loud {
                println!("{line}");
            }
            self.lines.push(line);
        }
    }

    /// A site's boot clock: it runs at its own rate from its own beginning.
    pub fn boot_ns(&self, id: SiteId) -> u64 {
        u64::from(id.0) * 1_000_000_000_000 + self.now_ms * self.nodes[&id].rate * 1000
    }

    pub fn lives(&self, id: SiteId) -> bool {
        self.nodes[&id].control.as_ref().is_some_and(|control| !control.paused)
    }

    pub fn leads(&self, id: SiteId) -> bool {
        self.lives(id) && self.nodes[&id].control.as_ref().is_some_and(|control| control.leading.is_some())
    }

    /// A site that lost everything takes part in nothing until it is enrolled again.
    pub fn wiped(&self, id: SiteId) -> bool {
        self.nodes[&id].id_in_group == 0
    }

    fn open(&self, from: SiteId, to: SiteId) -> bool {
        from == to || !self.cuts.contains(&(from, to))
    }

    /// Whether both can ask each other.
    pub fn talks(&self, a: SiteId, b: SiteId) -> bool {
        self.same_group(a, b) && self.lives(a) && self.lives(b) && self.open(a, b) && self.open(b, a)
    }

    fn same_group(&self, a: SiteId, b: SiteId) -> bool {
        let (a, b) = (self.nodes[&a].state.group, self.nodes[&b].state.group);
        a == b || a == 0 || b == 0
    }

    pub fn send(&mut self, from: SiteId, to: SiteId, message: Message) {
        let delay = if from == to { 0 } else { self.delays.get(&(from, to)).copied().unwrap_or(1) };
        let flight = Flight { at_ms: self.now_ms + delay, from, to, message };
        if self.holds.contains(&flight.held_as()) {
            self.held.push(flight);
        } else {
            self.flights.push(flight);
        }
    }

    fn deliver(&mut self) {
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.at_ms <= now_ms);
        self.flights = later;
        for Flight { from, to, message, .. } in due {
            if !self.open(from, to) {
                continue;
            }
            match message {
                Message::Ack { durable, floor } => {
                    if let Some(shipper) = &mut self.nodes.get_mut(&to).unwrap().shipper {
                        shipper.peers.insert(from, (durable, floor));
                    }
                }
                message if self.lives(to) && self.same_group(from, to) => self.receive(from, to, message),
                _ => {}
            }
        }
    }

    /// Lets held messages go, in the order in which they were sent.
    pub fn release(&mut self, word: &'static str, id: SiteId, lost: bool) {
        self.holds.remove(&(word, id));
        let (free, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|flight| flight.held_as() == (word, id));
        self.held = held;
        let now_ms = self.now_ms;
        if !lost {
            self.flights.extend(free.into_iter().map(|flight| Flight { at_ms: now_ms, ..flight }));
        }
    }

    pub fn run(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms += ROUND_MS;
            self.round();
        }
    }

    /// What happens in one round: messages, the log, controls, shippers.
    fn round(&mut self) {
        self.deliver();
        for id in self.ids() {
            if self.leads(id) {
                self.replicate(id);
            }
        }
        for id in self.ids() {
            if self.lives(id) {
                self.run_control(id);
            }
        }
        // Orders and answers to one's own site take no round.
        self.deliver();
        for id in self.ids() {
            if self.nodes[&id].load {
                let _ = self.write(id, self.nodes[&id].copies);
            }
            self.pull(id);
            self.acknowledge(id);
        }
        self.watch();
    }

    /// A producer appends one entry.
    pub fn write(&mut self, id: SiteId, copies: u8) -> Result<Lsn, String> {
        let boot_ns = self.boot_ns(id);
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(shipper) = node.shipper.as_mut() else { return Err("its shipper does not run".into()) };
        if let Some(why) = shipper.why_not(&node.disk, boot_ns) {
            return Err(why);
        }
        let stream = Shipper::stream(id, &node.disk);
        let lsn = node.disk.durable.get(stream).next();
        let epoch = shipper.told.epoch;
        node.disk.durable.set(stream, lsn);
        shipper.queue.push_back(Waiting { epoch, stream, lsn, copies });
        self.appended(id, stream, lsn, epoch);
        Ok(lsn)
    }

    /// Fetches what others hold, as far as the floor lets it, and applies.
    fn pull(&mut self, id: SiteId) {
        let node = &self.nodes[&id];
        let Some(shipper) = node.shipper.as_ref().filter(|s| !s.paused && !s.hung && s.told_any && !s.told.fenced)
        else {
            return;
        };
        let held: BTreeSet<SiteId> = shipper.told.held.iter().copied().collect();
        let usable = |peer: &SiteId| {
            let other = &self.nodes[peer];
            *peer != id
                && !held.contains(peer)
                && self.open(id, *peer)
                && self.open(*peer, id)
                && other.shipper.as_ref().is_some_and(|s| !s.paused && s.told_any && !s.told.held.contains(&id))
        };
        let peers: Vec<SiteId> = self.ids().into_iter().filter(usable).collect();
        let silent = self.nodes.iter().filter(|(peer, other)| **peer != id && !other.witness).map(|(peer, _)| *peer);
        let silent: Vec<SiteId> = silent.filter(|peer| !peers.contains(peer)).collect();
        let mut disk = node.disk.clone();
        let floor_before = disk.floor;
        let before = disk.durable.clone();
        for peer in &peers {
            let theirs = &self.nodes[peer].disk;
            // Both ends exchange and persist the highest epoch and the history.
            disk.floor = disk.floor.max(theirs.floor);
            disk.opened.extend(theirs.opened.iter());
        }
        let newest = disk.opened.keys().last().copied().unwrap_or_default();
        let sealed = disk.floor > newest;
        for peer in &peers {
            for (stream, lsn) in self.nodes[peer].disk.durable.iter() {
                let end = if sealed { lsn.min(shipper.told.fetch.get(stream)) } else { lsn };
                let mut have = disk.durable.get(stream);
                while have < end && disk.opened.contains_key(&self.epoch_of(stream, have.next())) {
                    have = have.next();
                }
                disk.durable.advance(stream, have);
            }
        }
        let already = shipper.resumed;
        let resumed = already || self.compared(id, &peers);
        if !self.nodes[&id].store_held {
            let durable: Vec<(StreamId, Lsn)> = disk.durable.iter().collect();
            for (stream, lsn) in durable {
                let end = lsn.min(disk.applied.get(stream).plus(APPLIED_PER_ROUND));
                disk.applied.advance(stream, end);
            }
        }
        let grown = disk.durable != before || disk.floor != floor_before || self.now_ms.is_multiple_of(100);
        let ack = Message::Ack { durable: disk.durable.clone(), floor: disk.floor };
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk = disk;
        let shipper = node.shipper.as_mut().unwrap();
        shipper.resumed = resumed;
        shipper.sourced_ms.extend(peers.iter().map(|peer| (*peer, self.now_ms)));
        for peer in silent {
            shipper.sourced_ms.entry(peer).or_insert(self.now_ms);
        }
        if grown {
            for peer in peers {
                self.send(id, peer, ack.clone());
            }
        }
    }

    /// Whether every other enrolled data site has shown that it holds no more of this site's stream.
    fn compared(&mut self, id: SiteId, peers: &[SiteId]) -> bool {
        let others: Vec<SiteId> =
            self.nodes[&id].state.data_sites().map(|site| site.id).filter(|other| *other != id).collect();
        let disk = &self.nodes[&id].disk;
        let whole = |peer: &SiteId| {
            let stream = Shipper::stream(id, disk);
            peers.contains(peer) && self.nodes[peer].disk.durable.get(stream) <= disk.durable.get(stream)
        };
        if others.iter().all(whole) {
            return true;
        }
        // What is not heard may hold more: a new incarnation is asked for, once reachable sites gave back what they have.
        if peers.iter().all(|peer| self.nodes[peer].witness || whole(peer)) {
            let shipper = self.nodes.get_mut(&id).unwrap().shipper.as_mut().unwrap();
            shipper.needs_incarnation = true;
        }
        false
    }

    fn acknowledge(&mut self, id: SiteId) {
        let boot_ns = self.boot_ns(id);
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(shipper) = &mut node.shipper else { return };
        for acked in shipper.acknowledge(id, &mut node.disk, boot_ns) {
            self.saw_ack(id, acked);
        }
    }

    // What a script or the simulation does to it.

    pub fn start_control(&mut self, id: SiteId) {
        self.instances += 1;
        let (instance, grace_ms) = (self.instances, self.grace_ms);
        let node = self.nodes.get_mut(&id).unwrap();
        if node.control.is_none() {
            node.control = Some(Control {
                instance,
                sequence: 0,
                local: Local::new(id, grace_ms),
                leading: None,
                report_at_ms: 0,
                tick_at_ms: 0,
                tasks: Vec::new(),
                paused: false,
                said: Default::default(),
            });
        }
    }

    pub fn start_shipper(&mut self, id: SiteId) {
        self.instances += 1;
        let instance = self.instances;
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.witness && node.shipper.is_none() {
            node.shipper = Some(Shipper { instance, ..Shipper::default() });
        }
    }

    pub fn kill_control(&mut self, id: SiteId) {
        self.nodes.get_mut(&id).unwrap().control = None;
        // Its connections break.
        for other in self.ids() {
            let (open, boot_ms) = (self.open(id, other), self.boot_ns(other) / 1_000_000);
            let node = self.nodes.get_mut(&other).unwrap();
            if open && let Some(leading) = node.control.as_mut().and_then(|control| control.leading.as_mut()) {
                leading.coordinator.lost(id, boot_ms);
            }
        }
    }

    pub fn kill_shipper(&mut self, id: SiteId) {
        self.nodes.get_mut(&id).unwrap().shipper = None;
    }

    pub fn pause(&mut self, id: SiteId, paused: bool) {
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(control) = &mut node.control {
            control.paused = paused;
        }
        if let Some(shipper) = &mut node.shipper {
            shipper.paused = paused;
            shipper.hung_since_ms = now_ms;
        }
    }

    pub fn hang(&mut self, id: SiteId, hung: bool) {
        let now_ms = self.now_ms;
        if let Some(shipper) = &mut self.nodes.get_mut(&id).unwrap().shipper {
            shipper.hung = hung;
            shipper.hung_since_ms = now_ms;
        }
    }

    pub fn cut(&mut self, from: SiteId, to: SiteId, both: bool) {
        self.cuts.insert((from, to));
        if both {
            self.cuts.insert((to, from));
        }
    }

    /// The last `n` entries of a site's own stream are gone from its disk. Its shipper must not run.
    pub fn lose_tail(&mut self, id: SiteId, n: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let stream = Shipper::stream(id, &node.disk);
        let left = Lsn(node.disk.durable.get(stream).0.saturating_sub(n));
        node.disk.durable.set(stream, left);
        node.disk.applied.set(stream, left.min(node.disk.applied.get(stream)));
        self.checks.lost_tail(id, stream, left);
    }

    /// A site loses everything.
    pub fn wipe(&mut self, id: SiteId) {
        self.kill_control(id);
        let node = self.nodes.get_mut(&id).unwrap();
        (node.control, node.shipper, node.disk) = (None, None, Disk::default());
        (node.log, node.voters, node.commit, node.applied) = (Vec::new(), BTreeSet::new(), 0, 0);
        (node.state, node.id_in_group, node.term) = (State::default(), 0, 0);
        self.checks.wiped(id);
    }

    /// The leader that commits.
    pub fn working_leader(&self) -> Option<SiteId> {
        self.ids().into_iter().find(|id| self.leads(*id) && self.has_quorum(*id))
    }

    pub fn switchover(&mut self, to: SiteId, timeout_ms: u64) -> Result<(), String> {
        let leader = self.working_leader().ok_or("no leader")?;
        let state = &self.nodes[&leader].state;
        let kind = if state.wanted_voters().len() == 1 && state.primary != Some(to) {
            Kind::MoveVote { to, timeout_ms }
        } else {
            Kind::Begin {
                op: state.last_op + 1,
                epoch: state.epoch,
                change: Change::Switchover { to, timeout_ms },
                reason: "planned by operator".into(),
                evidence: String::new(),
            }
        };
        self.propose(leader, kind, "operator");
        Ok(())
    }

    /// An operator switches active-active on or off, whatever stands against it.
    pub fn mode(&mut self, shared: bool, timeout_ms: u64) -> Result<(), String> {
        let leader = self.working_leader().ok_or("no leader")?;
        let state = &self.nodes[&leader].state;
        let to = state.primary.ok_or("no primary")?;
        let kind = Kind::Begin {
            op: state.last_op + 1,
            epoch: state.epoch,
            change: Change::Mode { shared, to, timeout_ms },
            reason: "an operator said so".into(),
            evidence: String::new(),
        };
        self.propose(leader, kind, "operator");
        Ok(())
    }

    /// An operator's command that is committed as it is.
    pub fn command(&mut self, kind: Kind) -> Result<(), String> {
        let leader = self.working_leader().ok_or("no leader")?;
        self.propose(leader, kind, "operator");
        Ok(())
    }

    /// A survivor founds a new group. Its control process starts anew in it.
    pub fn force(&mut self, id: SiteId) {
        let node = &self.nodes[&id];
        let mut state = node.state.clone();
        for entry in node.log.iter().skip(node.applied) {
            if let What::Command(command) = &entry.what {
                state.apply(command);
            }
        }
        let highest = state.epoch.max(node.disk.floor);
        let evidence = "an operator said so".to_owned();
        let parent = Parent { state, highest, cut: node.disk.durable.clone(), evidence };
        let own = Site { node: 1, ..node.state.site(id).unwrap().clone() };
        let founding = Founding {
            cluster: node.state.cluster,
            group: 0x2222 + u64::from(id.0),
            site: own,
            settings: Settings::default(),
            level: Level::FIRST,
            parent: Some(parent),
        };
        let command = Command {
            at_ms: 1_000_000_000 + self.now_ms,
            by: "operator".into(),
            kind: Kind::Found(Box::new(founding)),
        };
        self.kill_control(id);
        let mut state = State::default();
        let outcome = state.apply(&command);
        self.checks.forced = true;
        let node = self.nodes.get_mut(&id).unwrap();
        node.log = vec![
            Rc::new(Entry { term: 1, at_ms: 0, what: What::Voters([id].into()) }),
            Rc::new(Entry { term: 1, at_ms: 0, what: What::Command(command) }),
        ];
        (node.term, node.commit, node.applied, node.id_in_group) = (1, 2, 2, 1);
        node.voters = [id].into();
        let (epoch, cut) = (state.epoch, state.cut.clone());
        self.history.insert(state.group, node.log.clone());
        node.state = state;
        let text =
            format!("{} founds a group by force: {outcome:?}, epoch {epoch}, cut {}", self.name(id), self.vector(&cut));
        self.say(text);
        self.start_control(id);
        let _ = self.elect(id);
    }

    pub fn primary(&self) -> Option<(SiteId, Epoch)> {
        let accepting = |id: &SiteId| {
            let node = &self.nodes[id];
            node.shipper.as_ref().is_some_and(|s| s.accepting(&node.disk, self.boot_ns(*id)))
        };
        let id = self.ids().into_iter().find(accepting)?;
        Some((id, self.nodes[&id].shipper.as_ref()?.told.epoch))
    }
}
