//! The journal behind a copy: each stream goes on where the copied store begins. Done by the thread that writes received
//! streams, so that nothing is written to one at the same time.

use cfs_journal::{Position, remove};
use cfs_model::{Epoch, Lsn, StreamId};
use cfs_store::snapshot::Snapshot;
use tokio::sync::oneshot;

use crate::fatal::fatal;
use crate::node::Node;

/// Streams that are to go on behind a copy.
#[derive(Debug)]
pub(crate) struct Begin {
    positions: Vec<(StreamId, Position)>,
    done: oneshot::Sender<Result<(), String>>,
}

impl Begin {
    /// Where `snapshot` begins, and how it is told that all streams are there.
    pub(super) fn after(snapshot: &Snapshot) -> (Self, oneshot::Receiver<Result<(), String>>) {
        let position = |(stream, lsn): (StreamId, Lsn)| {
            let chain = *snapshot.chains.get(&stream)?;
            // Its epoch is not known: the next batch's is taken as it is.
            Some((stream, Position { durable: lsn, chain, epoch: Epoch(0), clock: snapshot.clock }))
        };
        let (done, told) = oneshot::channel();
        (Self { positions: snapshot.applied.iter().filter_map(position).collect(), done }, told)
    }

    /// The streams.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.positions.iter().map(|(stream, _)| *stream)
    }

    /// Makes the journal begin there, unless it holds the position already: what lies past it, and nobody else may have, is
    /// kept and applied again. Blocks.
    pub(crate) fn carry_out(self, node: &Node) {
        let outcome = self.positions.iter().try_for_each(|(stream, position)| begin(node, *stream, *position));
        for stream in self.streams() {
            node.plan().start_again(stream);
        }
        // Whoever asked may be gone.
        let _ = self.done.send(outcome);
    }
}

fn begin(node: &Node, stream: StreamId, position: Position) -> Result<(), String> {
    let held = node.journal.position(stream).map(|held| held.durable).unwrap_or_default();
    if held >= position.durable && node.journal.first(stream).is_some_and(|first| first <= position.durable.next()) {
        return Ok(());
    }
    if held > position.durable {
        return Err(format!(
            "the copy ends stream {stream} at {}, before what this site's journal begins with",
            position.durable
        ));
    }
    match node.journal.begin_after(stream, position) {
        Ok(_) | Err(remove::Error::Left { .. }) => {}
        Err(error @ remove::Error::Fatal { .. }) => fatal("the journal cannot be written", &error),
        Err(error) => return Err(error.to_string()),
    }
    node.saw_clock(position.clock);
    node.positions.restore(stream, position.durable, position.durable);
    Ok(())
}
