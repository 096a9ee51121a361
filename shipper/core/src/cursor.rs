//! How far a site is in one stream.

use cfs_model::Lsn;

/// A site's cursor in one stream: `applied ≤ durable ≤ received`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    applied: Lsn,
    durable: Lsn,
    received: Lsn,
}

impl Cursor {
    /// After a start: what is on disk is all that there is.
    ///
    /// `applied` may be ahead of `durable` when a journal lost a tail that the store had applied; the cursor then
    /// starts at the journal's end.
    pub fn restored(applied: Lsn, durable: Lsn) -> Self {
        Self { applied: applied.min(durable), durable, received: durable }
    }

    /// Committed in the store.
    pub const fn applied(&self) -> Lsn {
        self.applied
    }

    /// On stable storage in the journal.
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Handed to the journal.
    pub const fn received(&self) -> Lsn {
        self.received
    }

    /// Moves `received`; a smaller position changes nothing.
    pub fn receive(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// Moves `durable`. It is a fault of the program if that was not received.
    pub fn persist(&mut self, lsn: Lsn) {
        assert!(lsn <= self.received, "durable {lsn} was never received ({self:?})");
        self.durable = self.durable.max(lsn);
    }

    /// Moves `applied`. It is a fault of the program if that is not durable.
    pub fn apply(&mut self, lsn: Lsn) {
        assert!(lsn <= self.durable, "applied {lsn} is not durable ({self:?})");
        self.applied = self.applied.max(lsn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_keeps_its_order() {
        let mut cursor = Cursor::restored(Lsn(9), Lsn(5));
        assert_eq!((cursor.applied(), cursor.durable(), cursor.received()), (Lsn(5), Lsn(5), Lsn(5)));
        cursor.receive(Lsn(8));
        cursor.persist(Lsn(7));
        cursor.apply(Lsn(6));
        assert_eq!((cursor.applied(), cursor.durable(), cursor.received()), (Lsn(6), Lsn(7), Lsn(8)));
        cursor.receive(Lsn(1));
        cursor.persist(Lsn(1));
        cursor.apply(Lsn(1));
        assert_eq!((cursor.applied(), cursor.durable(), cursor.received()), (Lsn(6), Lsn(7), Lsn(8)), "never back");
    }

    #[test]
    #[should_panic(expected = "is not durable")]
    fn applying_what_is_not_durable_is_a_fault() {
        Cursor::restored(Lsn(5), Lsn(5)).apply(Lsn(6));
    }
}
