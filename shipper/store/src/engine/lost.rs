//! A register that holds a value when another write arrives.

use cfs_model::Version;
use cfs_shipper_core::merge::{Incoming, Outcome, Register, decide};

use super::head;
use super::txn::Txn;
use crate::backend::{Read, Scan, Write};
use crate::lost;
use crate::table::{Error, Table};

/// A register with a write that wants in.
pub(super) struct Contest<'a> {
    pub(super) incoming: &'a Incoming<'a>,
    /// The version held; `None` when the register itself is gone but lost writes of it wait.
    pub(super) held: Option<Version>,
    /// Whether lost writes of it wait that nothing has superseded.
    pub(super) has_lost: bool,
    /// Its name; asked for only when something is lost.
    pub(super) register: &'a dyn Fn() -> Register,
    /// Appends the value that arrives, without version.
    pub(super) incoming_value: &'a dyn Fn(&mut Vec<u8>),
    /// Appends the value held, without version.
    pub(super) held_value: &'a dyn Fn(&mut Vec<u8>),
}

/// How a contest ends.
pub(super) struct Verdict {
    /// Whether the write becomes the register's value.
    pub(super) takes: bool,
    /// Whether lost writes wait afterwards.
    pub(super) has_lost: bool,
}

impl<W: Write> Txn<'_, W> {
    pub(super) fn contest(&mut self, c: &Contest<'_>) -> Result<Verdict, Error> {
        let mut outcome = match &c.held {
            None => Outcome::Replaces,
            Some(held) => decide(c.incoming, held, || self.author_saw(held, &c.incoming.version))?,
        };
        let mut has_lost = c.has_lost;
        if outcome == Outcome::Duplicate {
            return Ok(Verdict { takes: false, has_lost });
        }
        if has_lost {
            let settled = self.supersede(c)?;
            has_lost = settled.left;
            if settled.covers_incoming && outcome == Outcome::Loses {
                outcome = Outcome::Dropped;
            }
        }
        match (outcome, &c.held) {
            (Outcome::Wins, Some(held)) => has_lost |= self.lose(c, held, c.held_value)?,
            (Outcome::Loses, _) => has_lost |= self.lose(c, &c.incoming.version, c.incoming_value)?,
            _ => {}
        }
        Ok(Verdict { takes: matches!(outcome, Outcome::Replaces | Outcome::Wins), has_lost })
    }

    /// Whether the author of `of` had seen `what`. A site that replays the end of a snapshot meets this; elsewhere,
    /// what has been seen has been applied before.
    fn author_saw(&self, of: &Version, what: &Version) -> Result<bool, Error> {
        author_saw(&self.tables, of, what)
    }

    /// Records a lost write, and answers whether it waits: it does not if it was recorded and superseded before.
    fn lose(&mut self, c: &Contest<'_>, version: &Version, value: &dyn Fn(&mut Vec<u8>)) -> Result<bool, Error> {
        let (mut register, mut encoded) = (Vec::new(), Vec::new());
        (c.register)().encode(&mut register);
        value(&mut encoded);
        let (mut key, mut row, mut existing) = (Vec::new(), Vec::new(), Vec::new());
        lost::encode_key(&register, version.stamp.stream(), version.lsn, &mut key);
        lost::encode_value(version, &encoded, &mut row);
        if !self.tables.insert(Table::Lost, &key, &row, &mut existing)? {
            return Ok(!lost::is_superseded(&existing));
        }
        let event = lost::decode(&key, &row).map_err(|e| Error::corrupt(Table::Lost, &key, e))?;
        let (mut held, mut incoming) = (Vec::new(), Vec::new());
        (c.held_value)(&mut held);
        (c.incoming_value)(&mut incoming);
        if held == incoming {
            self.told.applied.repeated.insert(event.key.clone());
        }
        self.told.applied.conflicts.push(event);
        Ok(true)
    }

    /// Marks the lost writes of a register that the author of the incoming write had seen.
    fn supersede(&mut self, c: &Contest<'_>) -> Result<Settled, Error> {
        let mut register = Vec::new();
        (c.register)().encode(&mut register);
        let mut waiting = Vec::new();
        self.tables.scan_prefix(Table::Lost, &register, &mut |key, row| {
            if !lost::is_superseded(row) {
                waiting.push((key.to_vec(), row.to_vec()));
            }
            Ok(Scan::More)
        })?;
        let mut settled = Settled::default();
        for (key, mut row) in waiting {
            let version = lost::version_of(&row).map_err(|e| Error::corrupt(Table::Lost, &key, e))?;
            if c.incoming.covers(&version) {
                lost::mark_superseded(&mut row);
                self.tables.put(Table::Lost, &key, &row)?;
                let event = lost::decode(&key, &row).map_err(|e| Error::corrupt(Table::Lost, &key, e))?;
                self.told.applied.superseded.push(event);
            } else {
                settled.left = true;
                settled.covers_incoming |=
                    version == c.incoming.version || self.author_saw(&version, &c.incoming.version)?;
            }
        }
        Ok(settled)
    }
}

/// Whether the author of `of` had seen `what`, by what is known here.
pub(super) fn author_saw(tables: &impl Read, of: &Version, what: &Version) -> Result<bool, Error> {
    let (author, stream) = (of.stamp.stream(), what.stamp.stream());
    if author == stream {
        return Ok(of.lsn > what.lsn);
    }
    Ok(head::seen_at(tables, author, of.lsn)?.is_some_and(|seen| seen.covers_entry(stream, what.lsn)))
}

#[derive(Default)]
struct Settled {
    /// Whether lost writes are left that wait.
    left: bool,
    /// Whether one of them is the incoming write, or covers it.
    covers_incoming: bool,
}
