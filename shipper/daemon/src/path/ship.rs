//! The source's side: serves other sites the streams that this site holds, as far as they are durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use cfs_audit::{Event, Kind, Severity};
use cfs_journal::{Reader, read};
use cfs_model::{Epoch, Lsn, SiteName, StreamId};
use cfs_rpc::v1;
use cfs_rpc::v1::pull_refused::Reason;
use cfs_rpc::v1::receiver_frame::Kind as Incoming;
use cfs_rpc::v1::source_frame::Kind as Outgoing;
use cfs_shipper_core::batch::{Batch, ChainHash};
use cfs_shipper_core::caps::{FRAME_TARGET_BYTES, MAX_BATCHES_PER_FRAME};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::directed::opened_to_wire;
use crate::node::Node;
use crate::path::frames::{check_hello, hello, stream_states_and_floor};

/// Frames that wait for the network.
const FRAMES: usize = 4;

type Out = mpsc::Sender<Result<v1::SourceFrame, Status>>;

/// Serves one receiver; what it is sent waits in the stream that is returned.
pub(super) fn subscribed(
    node: &Arc<Node>,
    site: SiteName,
    incoming: Streaming<v1::ReceiverFrame>,
) -> ReceiverStream<Result<v1::SourceFrame, Status>> {
    let (out, frames) = mpsc::channel(FRAMES);
    let session = Session::new(node.clone(), site);
    tokio::spawn(async move {
        if let Err(status) = session.run(incoming, &out).await {
            let _ = out.send(Err(status)).await;
        }
    });
    ReceiverStream::new(frames)
}

/// A stream that the receiver pulls.
struct Pull {
    number: u64,
    /// Not here while it reads.
    reader: Option<Reader>,
}

/// One receiver's session.
struct Session {
    node: Arc<Node>,
    site: SiteName,
    pulls: BTreeMap<StreamId, Pull>,
    /// Bytes of batches sent, and of those made durable by the receiver, in this session.
    sent_bytes: u64,
    durable_bytes: u64,
    told_floor: Epoch,
    told_history: usize,
}

impl Session {
    const fn new(node: Arc<Node>, site: SiteName) -> Self {
        let told_floor = Epoch(0);
        Self { node, site, pulls: BTreeMap::new(), sent_bytes: 0, durable_bytes: 0, told_floor, told_history: 0 }
    }

    async fn run(mut self, mut incoming: Streaming<v1::ReceiverFrame>, out: &Out) -> Result<(), Status> {
        self.greet(&mut incoming, out).await?;
        let mut durable = self.node.signals.durable.subscribe();
        let mut applied = self.node.signals.applied.subscribe();
        let mut role = self.node.signals.role.subscribe();
        let mut heartbeat = tokio::time::interval(self.node.heartbeat());
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let silence = 2 * self.node.session_silence();
        let mut heard = tokio::time::Instant::now();
        loop {
            let sent = self.send_batches(out).await?;
            tokio::select! {
                frame = incoming.message() => match frame? {
                    Some(frame) => {
                        heard = tokio::time::Instant::now();
                        self.take(frame, out).await?;
                    }
                    None => return Ok(()),
                },
                () = durable.changed() => {}
                () = role.changed() => {
                    self.check_apart()?;
                    self.send_state(out).await?;
                }
                _ = heartbeat.tick() => {
                    // Each sign of life is answered. Where the way back is cut the other end would go on to take this site for its
                    // source, and get nothing more once it would have to acknowledge.
                    if heard.elapsed() > silence {
                        let why = format!("nothing heard of {} for {} ms", self.site, heard.elapsed().as_millis());
                        return Err(Status::unavailable(why));
                    }
                    self.send_state(out).await?;
                }
                // Applied cursors travel with the heartbeat and with batches; a session that idles tells them at once.
                () = applied.changed(), if self.pulls.is_empty() => {}
                () = std::future::ready(()), if sent => {}
            }
        }
    }

    async fn greet(&mut self, incoming: &mut Streaming<v1::ReceiverFrame>, out: &Out) -> Result<(), Status> {
        let Some(v1::ReceiverFrame { kind: Some(Incoming::Hello(theirs)) }) = incoming.message().await? else {
            return Err(Status::invalid_argument("the first frame must be hello"));
        };
        check_hello(&self.node, &theirs, &self.site).map_err(|why| {
            self.node.metrics.error("peer_refused");
            tracing::warn!(site = %self.site, why, "refused a site");
            Status::failed_precondition(why)
        })?;
        self.learn(theirs.floor, theirs.opened).await?;
        self.check_apart()?;
        if self.node.peers.heard(&self.site, self.node.boot_ms(), theirs.floor, &theirs.streams) {
            self.node.signals.peers.bump();
        }
        let hello = hello(&self.node);
        (self.told_floor, self.told_history) = (Epoch(hello.floor), hello.opened.len());
        send(out, Outgoing::Hello(hello)).await
    }

    /// Ends the session if no streams are exchanged with the site.
    fn check_apart(&self) -> Result<(), Status> {
        let peer = self.node.known_peer(&self.site);
        match peer.and_then(|peer| self.node.governed.directed().kept_apart_from(peer.id)) {
            Some(why) => Err(Status::failed_precondition(format!("{} refuses {}: {why}", self.node.site(), self.site))),
            None => Ok(()),
        }
    }

    async fn learn(&self, floor: u64, opened: Vec<v1::Opened>) -> Result<(), Status> {
        learn(&self.node, &self.site, Epoch(floor), opened).await.map_err(Status::failed_precondition)
    }

    async fn take(&mut self, frame: v1::ReceiverFrame, out: &Out) -> Result<(), Status> {
        match frame.kind {
            Some(Incoming::Ack(ack)) => {
                let now_ms = self.node.boot_ms();
                if ack.echo_boot_ns != 0 {
                    let rtt_us = self.node.boot_ns().saturating_sub(ack.echo_boot_ns) / 1000;
                    self.node.peers.update(&self.site, |peer| {
                        peer.rtt_us = rtt_us;
                        peer.answered_at_ms = Some(now_ms);
                    });
                }
                self.durable_bytes = self.durable_bytes.max(ack.durable_bytes.min(self.sent_bytes));
                tracing::trace!(site = %self.site, durable = self.durable_bytes, sent = self.sent_bytes, "acknowledged");
                self.node.peers.heard(&self.site, now_ms, ack.floor, &ack.streams);
                self.node.signals.peers.bump();
                if Epoch(ack.floor) > self.node.governed.floor() {
                    self.learn(ack.floor, Vec::new()).await?;
                }
                Ok(())
            }
            Some(Incoming::Pull(pull)) => self.start_pull(&pull, out).await,
            Some(Incoming::Cancel(cancel)) => {
                let position =
                    cfs_model::op::StreamPosition { site: cancel.site, incarnation: cancel.incarnation, lsn: 0 };
                if let Some(stream) = position.stream() {
                    self.pulls.remove(&stream);
                }
                Ok(())
            }
            Some(Incoming::Hello(_)) | None => Err(Status::invalid_argument("this frame does not come here")),
        }
    }

    /// Proves that the receiver's history is this site's, and starts to serve it.
    async fn start_pull(&mut self, pull: &v1::Pull, out: &Out) -> Result<(), Status> {
        let bad = || Status::invalid_argument("the position of the pull is not one");
        let after = pull.after.ok_or_else(bad)?;
        let stream = after.stream().ok_or_else(bad)?;
        let chain = ChainHash(pull.chain.as_ref().try_into().map_err(|_| bad())?);
        let journal = self.node.journal.clone();
        let lsn = after.lsn();
        let opened = tokio::task::spawn_blocking(move || open_reader(&journal, stream, lsn, chain)).await;
        match opened.map_err(|e| Status::internal(e.to_string()))? {
            Ok(reader) => {
                tracing::debug!(site = %self.site, %stream, after = %lsn, "serves a pull");
                self.pulls.insert(stream, Pull { number: pull.number, reader: Some(reader) });
                Ok(())
            }
            Err((reason, detail)) => {
                if reason == Reason::Diverged {
                    self.node.metrics.error("diverged");
                    let text = format!("ERROR: {} holds another content of stream {stream} at {lsn}", self.site);
                    let event = Event::new(Kind::Diverged, Severity::Error, text).site(self.site.as_str());
                    self.node.audit(event.with("stream", stream.to_string()).with("lsn", lsn.0));
                    tracing::error!(site = %self.site, %stream, lsn = %lsn, "a site holds another content of a stream");
                    self.node.peers.update(&self.site, |peer| peer.diverged = true);
                    self.node.signals.role.bump();
                }
                let refused = v1::PullRefused { after: Some(after), reason: reason.into(), detail };
                send(out, Outgoing::Refused(refused)).await
            }
        }
    }

    /// Sends one frame for each stream that has more, as credit allows. Returns whether anything was sent.
    async fn send_batches(&mut self, out: &Out) -> Result<bool, Status> {
        let mut sent = false;
        let credit = self.node.config.replication.credit_bytes;
        for stream in self.pulls.keys().copied().collect::<Vec<_>>() {
            if self.sent_bytes - self.durable_bytes >= credit {
                break;
            }
            let Some(pull) = self.pulls.get_mut(&stream) else { continue };
            let (number, Some(mut reader)) = (pull.number, pull.reader.take()) else { continue };
            let (batches, reader) = match reader.next_in_memory(FRAME_TARGET_BYTES) {
                Some(batches) => (Ok(batches), reader),
                None => {
                    let read = tokio::task::spawn_blocking(move || (reader.next(FRAME_TARGET_BYTES), reader)).await;
                    read.map_err(|e| Status::internal(e.to_string()))?
                }
            };
            let batches = match batches {
                Ok(batches) => batches,
                Err(error) => {
                    let reason = match error {
                        read::Error::Gone { .. } => Reason::Gone,
                        _ => Reason::Damaged,
                    };
                    if reason == Reason::Gone {
                        tracing::warn!(site = %self.site, %error, "retention removed what a site was being sent");
                    } else {
                        self.node.metrics.error("journal_read");
                        let text = format!("ERROR: this site's copy of stream {stream} does not read: {error}");
                        let event = Event::new(Kind::Corruption, Severity::Error, text);
                        self.node.audit(event.with("stream", stream.to_string()));
                        tracing::error!(%stream, %error, "this site's copy of a stream does not read");
                    }
                    self.pulls.remove(&stream);
                    let after = Some(cfs_model::op::StreamPosition::of(stream, Lsn::ZERO));
                    let refused = v1::PullRefused { after, reason: reason.into(), detail: error.to_string() };
                    send(out, Outgoing::Refused(refused)).await?;
                    continue;
                }
            };
            self.pulls.insert(stream, Pull { number, reader: Some(reader) });
            if batches.is_empty() {
                continue;
            }
            // Epochs before the data that was written in them.
            if self.node.governed.floor() != self.told_floor {
                self.send_state(out).await?;
            }
            for frame in batches.chunks(MAX_BATCHES_PER_FRAME) {
                self.send_frame(out, stream, number, frame).await?;
            }
            sent = true;
        }
        Ok(sent)
    }

    async fn send_frame(&mut self, out: &Out, stream: StreamId, number: u64, frame: &[Batch]) -> Result<(), Status> {
        let mut batches = BytesMut::with_capacity(frame.iter().map(|batch| batch.bytes().len()).sum());
        for batch in frame {
            batches.extend_from_slice(batch.bytes());
        }
        let len = batches.len() as u64;
        let sent_boot_ns = self.node.boot_ns();
        let (site, incarnation) = (u32::from(stream.site.0), stream.incarnation.0);
        let batches = batches.freeze();
        send(out, Outgoing::Batches(v1::Batches { site, incarnation, batches, sent_boot_ns, number })).await?;
        self.sent_bytes += len;
        if let Some(last) = frame.last().map(Batch::header) {
            let (batches, undurable) = (frame.len(), self.sent_bytes - self.durable_bytes);
            tracing::debug!(site = %self.site, %stream, end = %last.last_lsn(), batches, bytes = len, undurable, "sent");
        }
        self.node.metrics.sent(len);
        let saved = |batch: &Batch| u64::from(batch.header().raw_len.saturating_sub(batch.header().encoded_len));
        let saved: u64 = frame.iter().map(saved).sum();
        self.node.peers.update(&self.site, |peer| {
            peer.sent_bytes += len;
            peer.saved_bytes += saved;
        });
        Ok(())
    }

    async fn send_state(&mut self, out: &Out) -> Result<(), Status> {
        let (streams, floor) = stream_states_and_floor(&self.node);
        let floor = Epoch(floor);
        let history = self.node.governed.history();
        let opened = opened_to_wire(&history);
        // The whole history only when it changed.
        let news = floor != self.told_floor || opened.len() != self.told_history;
        (self.told_floor, self.told_history) = (floor, opened.len());
        let state = v1::SourceState {
            streams,
            floor: floor.0,
            opened: if news { opened } else { Vec::new() },
            sent_boot_ns: self.node.boot_ns(),
        };
        send(out, Outgoing::State(state)).await
    }
}

/// Takes note of another site's floor and history; what is new is on disk when this returns.
pub(crate) async fn learn(
    node: &Arc<Node>,
    site: &SiteName,
    floor: Epoch,
    opened: Vec<v1::Opened>,
) -> Result<(), String> {
    if floor <= node.governed.floor() && opened.is_empty() {
        return Ok(());
    }
    let learner = node.clone();
    let learnt = tokio::task::spawn_blocking(move || learner.governed.learn(floor, &opened)).await;
    match learnt.map_err(|e| e.to_string())? {
        Ok(true) => {
            node.signals.role.bump();
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(error) => {
            node.metrics.error("history");
            tracing::error!(%site, %error, "what a site says of epochs cannot be");
            Err(error.to_string())
        }
    }
}

fn open_reader(
    journal: &cfs_journal::Journal,
    stream: StreamId,
    after: Lsn,
    chain: ChainHash,
) -> Result<Reader, (Reason, String)> {
    let held = journal.position(stream).map(|p| p.durable).unwrap_or_default();
    if after > held {
        return Err((Reason::Behind, format!("this site holds {stream} up to {held}")));
    }
    let diverged = || Err((Reason::Diverged, format!("{stream} has another history at {after}")));
    match journal.reader(stream, after) {
        Ok(reader) if reader.chain() == chain => Ok(reader),
        Ok(_) | Err(read::Error::NotBoundary { .. }) => diverged(),
        // Nothing of it is here, and nothing of it is asked for.
        Err(read::Error::UnknownStream(_)) => Err((Reason::Behind, format!("this site does not hold {stream}"))),
        Err(error @ read::Error::Gone { .. }) => Err((Reason::Gone, error.to_string())),
        Err(error) => Err((Reason::Damaged, error.to_string())),
    }
}

async fn send(out: &Out, kind: Outgoing) -> Result<(), Status> {
    let frame = v1::SourceFrame { kind: Some(kind) };
    out.send(Ok(frame)).await.map_err(|_| Status::cancelled("the receiver is gone"))
}
