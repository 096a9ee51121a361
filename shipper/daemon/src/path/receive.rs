//! The receiver's side: a session with one source, which pulls what it holds and this site lacks, and checks all of it before it
//! reaches the journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cfs_audit::{Event, Kind, Severity};
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
use tonic::transport::Channel;

use crate::governor::own_stream;
use crate::node::Node;
use crate::path::frames::{check_hello, hello, split, stream_states_and_floor};
use crate::path::replicate::{Received, Work};
use crate::path::ship::learn;

/// Frames that wait for the network.
const FRAMES: usize = 16;
/// A source that refused a stream is asked again after this.
const REFUSED_PAUSE_MS: u64 = 1000;
/// Connecting, handshake and the answer to hello together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How a session ended.
pub(super) enum Ended {
    /// The next one goes on at once, over this connection.
    Renewed(Channel),
    Broken(String),
}

/// One session, over `renewed` if there is a connection already.
pub(super) async fn run(
    node: &Arc<Node>,
    site: &PeerConfig,
    session: u64,
    journal: &mpsc::Sender<Work>,
    channel: Option<Channel>,
) -> Ended {
    let (out, frames) = mpsc::channel(FRAMES);
    let dial = async {
        let channel = match channel {
            Some(channel) => channel,
            None => crate::dial::peer(node, site).await?,
        };
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        let frame = v1::ReceiverFrame { kind: Some(Outgoing::Hello(hello(node))) };
        out.send(frame).await.map_err(|_| "the connection broke".to_owned())?;
        let reply = client.subscribe(ReceiverStream::new(frames)).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let mut incoming = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
        Ok(Ok(incoming)) => incoming,
        Ok(Err(error)) => return Ended::Broken(error),
        Err(_) => return Ended::Broken(format!("no answer within {} s", DIAL_TIMEOUT.as_secs())),
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
    tokio::select! {
        outcome = session.serve(&mut incoming) => match outcome {
            Ok(()) => Ended::Broken("it closed the connection".to_owned()),
            Err(error) => Ended::Broken(error),
        },
        // What was received over this one and is not written yet may come again, and is then passed over.
        channel = crate::dial::again(node, site) => Ended::Renewed(channel),
    }
}

struct Session {
    node: Arc<Node>,
    site: PeerConfig,
    id: u64,
    out: mpsc::Sender<v1::ReceiverFrame>,
    journal: mpsc::Sender<Work>,
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
        let silence = self.node.session_silence();
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                frame = incoming.message() => {
                    heard = tokio::time::Instant::now();
                    let Some(frame) = frame.map_err(|status| self.broken(&status))? else { return Ok(()) };
                    self.node.peers.sourced(&self.site.name, self.node.boot_ms());
                    self.take(frame).await?;
                }
                () = durable.changed() => self.report().await?,
                () = applied.changed() => self.report().await?,
                () = role.changed() => {
                    if let Some(why) = self.node.governed.directed().kept_apart_from(self.site.id) {
                        return Err(why.to_owned());
                    }
                    if self.node.data_peer(&self.site.name).is_none() {
                        return Err("it is no longer enrolled".to_owned());
                    }
                    self.ask().await?;
                }
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
        let mut claimed = BTreeMap::new();
        let directed = self.node.governed.directed();
        for state in streams {
            let Some((stream, lsn)) = state.durable.and_then(|p| Some((p.stream()?, p.lsn()))) else { continue };
            let mut plan = self.node.plan();
            plan.offered(self.id, stream, lsn);
            plan.keeps_from(self.id, stream, Lsn(state.first_lsn));
            drop(plan);
            claimed.insert(stream, directed.end_of(stream, lsn));
        }
        self.node.positions.claimed(self.site.id, &claimed, now_ms);
    }

    /// Asks for what this source has and nobody else sends, and cancels what another sends by now.
    async fn ask(&mut self) -> Result<(), String> {
        // A site that holds nothing has to know first from where it goes on.
        if !self.node.bootstrap.pulls() {
            return Ok(());
        }
        let own = own_stream(&self.node).filter(|_| self.node.admission().accepting().is_some());
        let now_ms = self.node.boot_ms();
        let held: Vector = self.node.positions.lock().iter().map(|(s, p)| (*s, p.cursor.received())).collect();
        // A stream that has reached its limit is not asked for until there is another; that is no fault of anybody.
        let limits = self.node.governed.limits();
        let wanted = |stream| Some(stream) != own && limits.of(stream).is_none_or(|limit| held.get(stream) < limit);
        let asked = self.node.plan().to_ask(self.id, now_ms, |stream| held.get(stream), wanted);
        let gone: Vec<StreamId> = {
            let plan = self.node.plan();
            self.tails.keys().filter(|stream| !plan.pulls(self.id, **stream)).copied().collect()
        };
        for stream in gone {
            self.tails.remove(&stream);
            let cancel = v1::CancelPull { site: u32::from(stream.site.0), incarnation: stream.incarnation.0 };
            self.send(Outgoing::Cancel(cancel)).await?;
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
            self.send(Outgoing::Pull(pull)).await?;
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
        let mut batches = split(frame.batches).map_err(|error| bad_batch(&self.node, &self.site, stream, &error))?;
        let (history, limit) = (self.node.governed.history(), self.node.governed.limits().of(stream));
        let mut within = 0;
        for batch in &batches {
            let header = batch.header();
            if limit.is_some_and(|limit| header.last_lsn() > limit) {
                break;
            }
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
            within += 1;
        }
        let end = tail.lsn;
        if within < batches.len() {
            // Held back, not refused: it is pulled again from here once there is another limit.
            batches.truncate(within);
            self.node.plan().start_again(stream);
            tracing::debug!(%stream, %end, "received as far as allowed");
        }
        if batches.is_empty() {
            self.durable_bytes += bytes;
            return Ok(());
        }
        tracing::debug!(site = %self.site.name, %stream, %end, batches = batches.len(), bytes, "received");
        self.node.metrics.received(bytes);
        self.node.peers.update(&self.site.name, |peer| {
            peer.received_bytes += bytes;
            peer.fault.clear();
        });
        self.node.positions.sent_by(self.site.id, stream, end, self.node.boot_ms());
        self.undurable.push_back((stream, end, bytes));
        self.journal
            .send(Work::Batches(Received { stream, batches }))
            .await
            .map_err(|_| "the shipper is stopping".to_owned())
    }

    fn take_refusal(&mut self, refused: &v1::PullRefused) -> Result<(), String> {
        let stream = refused.after.and_then(|after| after.stream()).ok_or("it refused a stream that cannot be")?;
        self.tails.remove(&stream);
        self.node.plan().refused(self.id, stream, self.node.boot_ms() + REFUSED_PAUSE_MS);
        if refused.reason() == Reason::Diverged {
            let news = self.node.peers.update(&self.site.name, |peer| !std::mem::replace(&mut peer.diverged, true));
            if news == Some(true) {
                self.node.metrics.error("diverged");
                let text =
                    format!("ERROR: {} has another content of stream {stream}: {}", self.site.name, refused.detail);
                let event = Event::new(Kind::Diverged, Severity::Error, text).site(self.site.name.as_str());
                self.node.audit(event.with("stream", stream.to_string()));
                tracing::error!(site = %self.site.name, %stream, detail = refused.detail, "streams have diverged");
                self.node.signals.role.bump();
            }
        }
        // Whether another site still has it, or a snapshot is needed, is judged from what all of them say.
        if refused.reason() != Reason::Gone {
            let why = format!("{} refuses to send it: {}", self.site.name, refused.detail);
            self.node.positions.stuck(stream, why);
        }
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
        let (streams, floor) = stream_states_and_floor(&self.node);
        let ack = v1::ReceiverAck {
            streams,
            durable_bytes: self.durable_bytes,
            floor,
            echo_boot_ns: std::mem::take(&mut self.echo_boot_ns),
        };
        self.send(Outgoing::Ack(ack)).await
    }

    /// Where the way there is cut and the way back is not, what is sent piles up: the session ends, and another source is looked for.
    async fn send(&self, kind: Outgoing) -> Result<(), String> {
        let (frame, limit) = (v1::ReceiverFrame { kind: Some(kind) }, self.node.session_silence());
        match tokio::time::timeout(limit, self.out.send(frame)).await {
            Ok(sent) => sent.map_err(|_| "the connection broke".to_owned()),
            Err(_) => Err(format!("it takes nothing that is sent to it, for {} ms", limit.as_millis())),
        }
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
