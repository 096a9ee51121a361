//! From which site each stream is pulled.

use std::collections::BTreeMap;

use cfs_model::{Lsn, SiteId, StreamId, Vector};

/// Which session pulls what. A session is one connection to one source.
#[derive(Debug, Default)]
pub struct Plan {
    sources: BTreeMap<u64, Source>,
    pulls: BTreeMap<StreamId, u64>,
    /// Since when the source of a stream has had nothing more while another has.
    outrun_since_ms: BTreeMap<StreamId, u64>,
}

/// A source is left for one that is ahead after this long; sooner, it is only that the other's word came first.
const PATIENCE_MS: u64 = 1000;

#[derive(Debug)]
struct Source {
    site: SiteId,
    durable: BTreeMap<StreamId, Lsn>,
    /// The first LSN that it still holds.
    first: BTreeMap<StreamId, Lsn>,
    /// Not to be asked for these streams before that time.
    refused_until_ms: BTreeMap<StreamId, u64>,
}

impl Plan {
    /// A source answered.
    pub fn connected(&mut self, session: u64, site: SiteId) {
        let source =
            Source { site, durable: BTreeMap::new(), first: BTreeMap::new(), refused_until_ms: BTreeMap::new() };
        self.sources.insert(session, source);
    }

    /// A source is gone; its streams are free to be pulled from others.
    pub fn disconnected(&mut self, session: u64) {
        self.sources.remove(&session);
        self.pulls.retain(|_, by| *by != session);
    }

    /// A source said how far it holds a stream.
    pub fn offered(&mut self, session: u64, stream: StreamId, durable: Lsn) {
        if let Some(source) = self.sources.get_mut(&session) {
            let known = source.durable.entry(stream).or_default();
            *known = durable.max(*known);
        }
    }

    /// A source said from where on it holds a stream; it is not asked for what lies before.
    pub fn keeps_from(&mut self, session: u64, stream: StreamId, first: Lsn) {
        if let Some(source) = self.sources.get_mut(&session) {
            let known = source.first.entry(stream).or_default();
            *known = first.max(*known);
        }
    }

    /// A source would not serve a stream; it is not asked again before `until_ms`.
    pub fn refused(&mut self, session: u64, stream: StreamId, until_ms: u64) {
        if self.pulls.get(&stream) == Some(&session) {
            self.pulls.remove(&stream);
        }
        if let Some(source) = self.sources.get_mut(&session) {
            source.refused_until_ms.insert(stream, until_ms);
        }
    }

    /// Nothing of what is under way of a stream will fit: whoever pulls it asks again.
    pub fn start_again(&mut self, stream: StreamId) {
        self.pulls.remove(&stream);
    }

    /// The session that pulls a stream.
    pub fn puller(&self, stream: StreamId) -> Option<(u64, SiteId)> {
        let session = *self.pulls.get(&stream)?;
        Some((session, self.sources.get(&session)?.site))
    }

    /// The streams that `session` has to ask its source for now. `held` is how far a stream was received here; `wanted`
    /// says whether it is to be pulled at all (the own stream is only after a loss).
    ///
    /// A stream goes to the first source that has more than is held here and still has what comes next, and moves to its origin when that has more;
    /// it leaves a source that has had nothing more for a while when another has. A session that asked for a stream which it does not
    /// [pull](Self::pulls) any more cancels it.
    pub fn to_ask(
        &mut self,
        session: u64,
        now_ms: u64,
        held: impl Fn(StreamId) -> Lsn,
        wanted: impl Fn(StreamId) -> bool,
    ) -> Vec<StreamId> {
        self.pulls.retain(|stream, by| *by != session || wanted(*stream));
        let Some(source) = self.sources.get(&session) else { return Vec::new() };
        let mut asked = Vec::new();
        for (stream, durable) in &source.durable {
            let refused = source.refused_until_ms.get(stream).is_some_and(|until| now_ms < *until);
            let gone = source.first.get(stream).is_some_and(|first| *first > held(*stream).next());
            if refused || gone || !wanted(*stream) || *durable <= held(*stream) {
                continue;
            }
            let take = match self.pulls.get(stream) {
                None => true,
                Some(by) if *by == session => false,
                Some(by) => {
                    let other = self.sources.get(by).and_then(|other| other.durable.get(stream)).copied();
                    if other.is_some_and(|other| other > held(*stream)) {
                        self.outrun_since_ms.remove(stream);
                    }
                    let outrun = other.is_none_or(|other| other <= held(*stream));
                    let origin = stream.site == source.site;
                    let since_ms = outrun.then(|| *self.outrun_since_ms.entry(*stream).or_insert(now_ms));
                    origin || since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= PATIENCE_MS)
                }
            };
            if take {
                self.outrun_since_ms.remove(stream);
                asked.push(*stream);
            }
        }
        self.pulls.extend(asked.iter().map(|stream| (*stream, session)));
        asked
    }

    /// Whether `session` still pulls `stream`; what arrives otherwise is late and dropped.
    pub fn pulls(&self, session: u64, stream: StreamId) -> bool {
        self.pulls.get(&stream) == Some(&session)
    }

    /// The furthest that any connected source holds each stream.
    pub fn furthest(&self) -> Vector {
        let sources = self.sources.values().flat_map(|source| &source.durable);
        sources.map(|(stream, lsn)| (*stream, *lsn)).collect()
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
