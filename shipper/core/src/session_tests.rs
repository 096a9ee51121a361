use cfs_model::{Incarnation, SiteId};

use super::*;
use crate::codec::Codec;

fn stream(site: u8) -> StreamId {
    StreamId { site: SiteId(site), incarnation: Incarnation(1) }
}

fn header(change: impl FnOnce(&mut Header)) -> Header {
    let mut header = Header {
        stream: stream(1),
        epoch: Epoch(2),
        first_lsn: Lsn(6),
        count: 1,
        first_clock: 1,
        durable_lsn: Lsn(5),
        vector: None,
        codec: Codec::None,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain: ChainHash([7; 16]),
    };
    change(&mut header);
    header
}

/// Invariant 3: replayed, reordered, foreign and divergent batches never reach the journal.
#[test]
fn only_the_next_batch_of_the_same_history_passes() {
    let tail = Tail { lsn: Lsn(5), chain: ChainHash([7; 16]), epoch: Epoch(1) };
    let mut history = History::default();
    history.merge([(Epoch(1), SiteId(1)), (Epoch(2), SiteId(1)), (Epoch(3), SiteId(2))]).unwrap();
    let check = |header: Header| check(stream(1), &tail, &header, &history);

    assert_eq!(check(header(|_| ())), Ok(()));
    assert_eq!(check(header(|h| h.stream = stream(2))), Err(Refused::Stream(stream(2))));
    for lsn in [5, 7] {
        let refused = Refused::NotNext { want: Lsn(6), got: Lsn(lsn) };
        assert_eq!(check(header(|h| h.first_lsn = Lsn(lsn))), Err(refused));
    }
    assert!(matches!(check(header(|h| h.chain = ChainHash([8; 16]))), Err(Refused::Diverged { .. })));
    assert!(matches!(check(header(|h| h.epoch = Epoch(0))), Err(Refused::EpochWentBack { .. })));
    assert_eq!(check(header(|h| h.epoch = Epoch(9))), Err(Refused::EpochUnknown(Epoch(9))));
    let another = Refused::EpochOfAnother { epoch: Epoch(3), owner: SiteId(2) };
    assert_eq!(check(header(|h| h.epoch = Epoch(3))), Err(another));
}
