//! The receiver's side: dials every other site for ever, pulls what it holds and this site lacks, and checks all of it
//! before it reaches the journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cfs_config::Peer as PeerConfig;
use cfs_model::{Epoch, Lsn, StreamId, Vector};
use cfs_rpc::v1;
use cfs_rpc::v1::peer_client::PeerClient;
use cfs_rpc::v1::pull_refused::Reason;
use cfs_rpc::v1::receiver_frame::Kind as Outgoing;
use cfs_rpc::v1::source_frame::Kind as Incoming;
use cfs_shipper_core::caps::MAX_FRAME_BYTES;
use cfs_shipper_core::session::{self, Refused, Tail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::governor::own_stream;
use crate::node::Node;
use crate::path::frames::{check_hello, hello, split, stream_states};
use crate::path::replicate::Received;
use crate::path::ship::learn;

/// Frames that wait for the network.
const FRAMES: usize = 16;
/// Pause before the next try, from the first to the last; it is never given up.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A session that lasted for so long was sound, and its end begins a new episode.
const SOUND_AFTER_MS: u64 = 10_000;
/// A source that refused a stream is asked again after this.
const REFUSED_PAUSE_MS: u64 = 1000;
/// Connecting, handshake and the answer to hello together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps a session with one site for as long as the process lives.
pub(crate) async fn follow(node: Arc<Node>, site: PeerConfig, journal: mpsc::Sender<Received>) {
    let mut pause = BACKOFF.0;
    loop {
        let session = node.next_session();
        let started_ms = node.boot_ms();
        let error = run(&node, &site, session, &journal).await;
        node.plan().disconnected(session);
        let lasted = node.boot_ms().saturating_sub(started_ms) > SOUND_AFTER_MS;
        lost(&node, &site, &error, lasted);
        if lasted {
            pause = BACKOFF.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// One episode without a sound connection is counted and logged once, however many tries it takes; a moment without one,
/// as while sites start, is none.
fn lost(node: &Node, site: &PeerConfig, error: &str, lasted: bool) {
    let now_ms = node.boot_ms();
    let news = node.peers.update(&site.name, |peer| {
        peer.trouble = error.to_owned();
        peer.down &= !lasted;
        let long = peer.silent_ms(now_ms, node.started_ms) > node.silence_ms();
        long && !std::mem::replace(&mut peer.down, true)
    });
    if news == Some(true) {
        node.metrics.error("peer_lost");
        tracing::warn!(site = %site.name, address = site.peer, error, "no connection to a site; trying again for ever");
    }
    node.signals.peers.bump();
}

async fn run(node: &Arc<Node>, site: &PeerConfig, session: u64, journal: &mpsc::Sender<Received>) -> String {
    let (out, frames) = mpsc::channel(FRAMES);
    let dial = async {
        let channel = crate::dial::peer(node, site).await?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        send(&out, Outgoing::Hello(hello(node))).await?;
        let reply = client.subscribe(ReceiverStream::new(frames)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let mut incoming = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
        Ok(Ok(incoming)) => incoming,
        Ok(Err(error)) => return error,
        Err(_) => return format!("no answer within {} s", DIAL_TIMEOUT.as_secs()),
    };
    let mut session = Session {
        node: node.clone(),
        site: site.clone(),
        id: session,
        out,
        journal: journal.clone(),
        tails: BTreeMap::new(),
        pulls: 0,
        undurable: VecDeque::new(),
        durable_bytes: 0,
        echo_boot_ns: 0,
    };
    match session.serve(&mut incoming).await {
        Ok(()) => "it closed the connection".to_owned(),
        Err(error) => error,
    }
}

struct Session {
    node: Arc<Node>,
    site: PeerConfig,
    id: u64,
    out: mpsc::Sender<v1::ReceiverFrame>,
    journal: mpsc::Sender<Received>,
    /// The streams asked for, and where each ends as received.
    tails: BTreeMap<StreamId, (u64, Tail)>,
    /// Numbers the pulls, so that late answers to an earlier one are known.
    pulls: u64,
    /// What was received and is not known to be durable: (stream, last LSN, bytes).
    undurable: VecDeque<(StreamId, Lsn, u64)>,
    durable_bytes: u64,
    echo_boot_ns: u64,
}

impl Session {
    async fn serve(&mut self, incoming: &mut tonic::Streaming<v1::SourceFrame>) -> Result<(), String> {
        let mut durable = self.node.signals.durable.subscribe();
        let mut applied = self.node.signals.applied.subscribe();
        let mut role = self.node.signals.role.subscribe();
        let mut heartbeat = tokio::time::interval(self.node.heartbeat());
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let silence = Duration::from_millis(self.node.silence_ms().max(3000));
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                frame = incoming.message() => {
                    heard = tokio::time::Instant::now();
                    match frame.map_err(|status| self.broken(&status))? {
                        Some(frame) => self.take(frame).await?,
                        None => return Ok(()),
                    }
                }
                () = durable.changed() => self.report().await?,
                () = applied.changed() => self.report().await?,
                () = role.changed() => self.ask().await?,
                _ = heartbeat.tick() => {
                    if heard.elapsed() > silence {
                        return Err(format!("nothing heard for {} ms", heard.elapsed().as_millis()));
                    }
                    self.report().await?;
                    self.ask().await?;
                }
            }
        }
    }

    async fn take(&mut self, frame: v1::SourceFrame) -> Result<(), String> {
        match frame.kind {
            Some(Incoming::Hello(theirs)) => {
                check_hello(&self.node, &theirs, &self.site.name)?;
                learn(&self.node, &self.site.name, Epoch(theirs.floor), theirs.opened).await?;
                self.node.plan().connected(self.id, self.site.id);
                self.connected();
                self.offered(theirs.floor, &theirs.streams);
                self.ask().await
            }
            Some(Incoming::State(state)) => {
                self.echo_boot_ns = state.sent_boot_ns;
                learn(&self.node, &self.site.name, Epoch(state.floor), state.opened).await?;
                self.offered(state.floor, &state.streams);
                self.ask().await?;
                // At once, because the source measures the round trip by it.
                self.report().await
            }
            Some(Incoming::Batches(frame)) => self.take_batches(frame).await,
            Some(Incoming::Refused(refused)) => self.take_refusal(&refused),
            None => Err("it sent a frame that this version does not know".to_owned()),
        }
    }

    /// The end of the connection; a message over its limit is a fault of the other end.
    fn broken(&self, status: &tonic::Status) -> String {
        if status.code() == tonic::Code::OutOfRange {
            return fault(&self.node, &self.site, format!("it sent a message over the limit: {}", status.message()));
        }
        status.message().to_owned()
    }

    fn connected(&self) {
        self.node.peers.update(&self.site.name, |peer| peer.trouble.clear());
        tracing::info!(site = %self.site.name, "connected to a site");
    }

    fn offered(&self, floor: u64, streams: &[v1::StreamState]) {
        let now_ms = self.node.boot_ms();
        if self.node.peers.heard(&self.site.name, now_ms, floor, streams) {
            self.node.signals.peers.bump();
        }
        for state in streams {
            let Some((stream, lsn)) = state.durable.and_then(|p| Some((p.stream()?, p.lsn()))) else { continue };
            self.node.plan().offered(self.id, stream, lsn);
            self.node.positions.heard_of(stream, lsn, now_ms);
        }
    }

    /// Asks for what this source has and nobody else sends, and cancels what another sends by now.
    async fn ask(&mut self) -> Result<(), String> {
        let own = own_stream(&self.node).filter(|_| self.node.admission().accepting().is_some());
        let now_ms = self.node.boot_ms();
        let held: Vector = self.node.positions.lock().iter().map(|(s, p)| (*s, p.cursor.received())).collect();
        let asked = self.node.plan().to_ask(self.id, now_ms, |stream| held.get(stream), |stream| Some(stream) != own);
        let gone: Vec<StreamId> = {
            let plan = self.node.plan();
            self.tails.keys().filter(|stream| !plan.pulls(self.id, **stream)).copied().collect()
        };
        for stream in gone {
            self.tails.remove(&stream);
            let cancel = v1::CancelPull { site: u32::from(stream.site.0), incarnation: stream.incarnation.0 };
            send(&self.out, Outgoing::Cancel(cancel)).await?;
        }
        for stream in asked {
            let position = self.node.journal.position(stream);
            let tail = position
                .map_or_else(|| Tail::start(stream), |p| Tail { lsn: p.durable, chain: p.chain, epoch: p.epoch });
            let after = Some(cfs_model::op::StreamPosition::of(stream, tail.lsn));
            self.pulls += 1;
            let pull = v1::Pull { after, chain: tail.chain.0.to_vec().into(), number: self.pulls };
            self.tails.insert(stream, (self.pulls, tail));
            tracing::debug!(site = %self.site.name, %stream, "pulling");
            send(&self.out, Outgoing::Pull(pull)).await?;
        }
        Ok(())
    }

    /// Checks a frame and hands it to the journal. Anything wrong in it ends the session: the next one starts again
    /// from what is durable.
    async fn take_batches(&mut self, frame: v1::Batches) -> Result<(), String> {
        let position = cfs_model::op::StreamPosition { site: frame.site, incarnation: frame.incarnation, lsn: 0 };
        let stream = position.stream().ok_or("it sent batches of a stream that cannot be")?;
        let bytes = frame.batches.len() as u64;
        let wanted = self.node.plan().pulls(self.id, stream);
        let Some((_, tail)) = self.tails.get_mut(&stream).filter(|(number, _)| wanted && *number == frame.number)
        else {
            // An answer to an earlier pull: dropped, but the source gets its credit back.
            self.durable_bytes += bytes;
            return Ok(());
        };
        let batches = split(frame.batches).map_err(|error| bad_batch(&self.node, &self.site, stream, &error))?;
        let history = self.node.governed.history();
        for batch in &batches {
            let header = batch.header();
            match session::check(stream, tail, header, &history) {
                Ok(()) => {}
                Err(Refused::EpochUnknown(epoch)) => {
                    tracing::info!(%stream, %epoch, "batches of an epoch not known here yet; waiting to be told");
                    self.tails.remove(&stream);
                    self.node.plan().refused(self.id, stream, self.node.boot_ms() + REFUSED_PAUSE_MS);
                    return Ok(());
                }
                Err(refused) => return Err(bad_batch(&self.node, &self.site, stream, &refused)),
            }
            *tail = Tail { lsn: header.last_lsn(), chain: batch.chain_after(), epoch: header.epoch };
        }
        let end = tail.lsn;
        self.node.metrics.received(bytes);
        self.node.peers.update(&self.site.name, |peer| {
            peer.received_bytes += bytes;
            peer.fault.clear();
        });
        self.node.positions.heard_of(stream, end, self.node.boot_ms());
        self.undurable.push_back((stream, end, bytes));
        self.journal.send(Received { stream, batches }).await.map_err(|_| "the shipper is stopping".to_owned())
    }

    fn take_refusal(&mut self, refused: &v1::PullRefused) -> Result<(), String> {
        let stream = refused.after.and_then(|after| after.stream()).ok_or("it refused a stream that cannot be")?;
        self.tails.remove(&stream);
        self.node.plan().refused(self.id, stream, self.node.boot_ms() + REFUSED_PAUSE_MS);
        if refused.reason() == Reason::Diverged {
            let news = self.node.peers.update(&self.site.name, |peer| !std::mem::replace(&mut peer.diverged, true));
            if news == Some(true) {
                self.node.metrics.error("diverged");
                tracing::error!(site = %self.site.name, %stream, detail = refused.detail, "streams have diverged");
            }
        }
        let why = format!("{} refuses to send it: {}", self.site.name, refused.detail);
        self.node.positions.stuck(stream, why);
        Ok(())
    }

    /// Tells the source how far this site is, which also returns credit.
    async fn report(&mut self) -> Result<(), String> {
        while let Some((stream, lsn, bytes)) = self.undurable.front().copied() {
            if self.node.positions.cursor(stream).durable() < lsn {
                break;
            }
            self.durable_bytes += bytes;
            self.undurable.pop_front();
        }
        let ack = v1::ReceiverAck {
            streams: stream_states(&self.node),
            durable_bytes: self.durable_bytes,
            floor: self.node.governed.floor().0,
            echo_boot_ns: std::mem::take(&mut self.echo_boot_ns),
        };
        send(&self.out, Outgoing::Ack(ack)).await
    }
}

fn bad_batch(node: &Node, site: &PeerConfig, stream: StreamId, error: &dyn std::fmt::Display) -> String {
    let why = fault(node, site, format!("it sent a batch of stream {stream} that is refused: {error}"));
    node.positions.stuck(stream, format!("{}: {why}", site.name));
    why
}

/// Counts and logs what is wrong with what a site sent; the same, again and again, is one episode.
fn fault(node: &Node, site: &PeerConfig, why: String) -> String {
    let news = node.peers.update(&site.name, |peer| std::mem::replace(&mut peer.fault, why.clone()) != why);
    if news == Some(true) {
        node.metrics.error("bad_batch");
        tracing::error!(site = %site.name, why, "what a site sent was refused");
    }
    why
}

async fn send(out: &mpsc::Sender<v1::ReceiverFrame>, kind: Outgoing) -> Result<(), String> {
    let frame = v1::ReceiverFrame { kind: Some(kind) };
    out.send(frame).await.map_err(|_| "the connection broke".to_owned())
}
