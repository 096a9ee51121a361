use proptest::prelude::*;

use super::*;

fn header() -> Header {
    let stream = StreamId { site: SiteId(1), incarnation: Incarnation(1) };
    let other = StreamId { site: SiteId(2), incarnation: Incarnation(4) };
    Header {
        stream,
        epoch: Epoch(3),
        first_lsn: Lsn(11),
        count: 3,
        first_clock: 1_700_000_000_000_000_000,
        durable_lsn: Lsn(10),
        vector: Some([(other, Lsn(9))].into_iter().collect()),
        codec: Codec::Lz4,
        raw_len: 0,
        encoded_len: 0,
        payload_checksum: 0,
        chain: ChainHash::start(stream),
    }
}

fn batch() -> Batch {
    Batch::build(header(), &b"abc".repeat(50), &mut Vec::new()).unwrap()
}

#[test]
fn a_batch_reads_back_and_may_be_followed_by_others() {
    let batch = batch();
    let mut bytes = batch.bytes().to_vec();
    bytes.extend_from_slice(b"whatever follows");
    assert_eq!(Batch::decode(&bytes.into()).unwrap(), batch);
    assert_eq!(batch.decompress().unwrap(), b"abc".repeat(50));
    assert_eq!(batch.header().last_lsn(), Lsn(13));
    assert_eq!(batch.header().stamp(2).clock, header().first_clock + 2);
}

/// Invariant 3: no damaged batch passes for another one.
#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bytes = batch().bytes().to_vec();
    for cut in 0..bytes.len() {
        assert!(Batch::decode(&bytes[..cut].to_vec().into()).is_err(), "cut at {cut}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Batch::decode(&flipped.into()).is_err(), "bit {bit}");
    }
}

#[test]
fn the_chain_depends_on_everything_before() {
    let one = batch();
    let mut other = header();
    other.chain = one.chain_after();
    let other = Batch::build(other, &b"abc".repeat(50), &mut Vec::new()).unwrap();
    assert_ne!(one.chain_after(), other.chain_after());
    let different = Batch::build(header(), &b"abd".repeat(50), &mut Vec::new()).unwrap();
    assert_ne!(one.chain_after(), different.chain_after());
}

/// Invariant 10: lengths are checked before anything is allocated, also when the checksum fits.
#[test]
fn lengths_beyond_the_caps_are_refused() {
    let encode = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        let mut out = Vec::new();
        header.encode(&mut out);
        Header::decode(&out).map(|_| ())
    };
    assert_eq!(encode(&|_| ()), Ok(()));
    assert_eq!(encode(&|h| h.raw_len = u32::MAX), Err(Error::Range("raw length")));
    assert_eq!(encode(&|h| h.encoded_len = u32::MAX), Err(Error::Range("encoded length")));
    assert_eq!(encode(&|h| h.count = 0), Err(Error::Range("count")));
    assert_eq!(encode(&|h| h.count = u32::MAX), Err(Error::Range("count")));
    assert_eq!(encode(&|h| h.first_lsn = Lsn(u64::MAX)), Err(Error::Range("first LSN")));
    assert_eq!(encode(&|h| h.durable_lsn = Lsn(11)), Err(Error::Range("durable LSN")));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), real_start: bool) {
        if real_start {
            let start = batch().bytes().slice(..8);
            let n = start.len().min(bytes.len());
            bytes[..n].copy_from_slice(&start[..n]);
        }
        prop_assert!(Batch::decode(&bytes.into()).is_err());
    }
}

/// Invariant 10: what cannot be applied is found out before it is stored, at no more cost than the cap.
#[test]
fn a_payload_that_could_never_be_applied_is_found_out() {
    let entries = |count: u64| {
        let mut builder = crate::payload::Builder::default();
        (1..=count).for_each(|seq| builder.push(&Bytes::from_static(b"p"), seq, b"an operation"));
        builder.finish()
    };
    let checked = |raw: &[u8]| Batch::build(header(), raw, &mut Vec::new()).unwrap().check_payload();
    assert_eq!(checked(&entries(3)), Ok(()));
    assert_eq!(checked(&entries(2)), Err(Unusable::Count { found: 2, claimed: 3 }));
    assert_eq!(checked(&entries(4)), Err(Unusable::Count { found: 4, claimed: 3 }));
    assert!(matches!(checked(&b"no entries".repeat(20)), Err(Unusable::Payload(_))));
    // The checksum fits, the length does not.
    let mut bomb = Vec::new();
    Codec::Lz4.compress(&vec![0; crate::caps::MAX_BATCH_RAW_BYTES], &mut bomb).unwrap();
    let claims =
        Header { raw_len: 100_000, encoded_len: bomb.len() as u32, payload_checksum: xxh3_64(&bomb), ..header() };
    let mut bytes = Vec::new();
    claims.encode(&mut bytes);
    bytes.extend_from_slice(&bomb);
    let batch = Batch::decode(&bytes.into()).unwrap();
    assert_eq!(batch.check_payload(), Err(Error::Codec(codec::Error::Corrupt(100_000)).into()));
}
