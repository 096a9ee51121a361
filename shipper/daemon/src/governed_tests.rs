use super::*;

fn directive(epoch: u64, primary: bool) -> v1::Directive {
    v1::Directive {
        epoch,
        primary,
        primary_site: "site-a".into(),
        lease_deadline_boot_ns: 1000,
        opened: vec![v1::Opened { epoch, site: 1 }],
        incarnation: 1,
        ..v1::Directive::default()
    }
}

const SITE_A: SiteId = SiteId(1);

fn take(governed: &Governed, directive: &v1::Directive) -> Result<bool, Error> {
    governed.take(SITE_A, None, directive)
}

fn position(site: u32, lsn: u64) -> cfs_model::op::StreamPosition {
    cfs_model::op::StreamPosition { site, incarnation: 1, lsn }
}

fn stream(site: u8) -> StreamId {
    StreamId { site: SiteId(site), incarnation: Incarnation(1) }
}

fn claim(asked: usize) -> Claim {
    Claim { session: 7, epoch: Epoch(3), stream: stream(1), asked }
}

/// Acknowledges up to LSN 5 at boot time `now_ns`.
fn acknowledge(governed: &Governed, asked: usize, now_ns: u64) -> Acknowledgement {
    governed.acknowledge(claim(asked), 0, || now_ns, |_| Some(Lsn(5)), |through| Some((2, through)))
}

fn given(lease_deadline_ns: u64) -> Acknowledgement {
    Acknowledgement::Given { through_seq: 2, lsn: Lsn(5), lease_deadline_ns }
}

/// Another file with every write, since it is replaced as a whole.
fn file(directory: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(directory.join(FILE)).unwrap())
}

#[test]
fn the_lease_ends_by_itself_and_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    assert_eq!(governed.may_append(0), None, "nobody said so");
    take(&governed, &directive(3, true)).unwrap();
    assert_eq!(governed.may_append(999), Some(Epoch(3)));
    assert_eq!(governed.may_append(1000), None);
    let again = Governed::load(dir.path()).unwrap();
    assert_eq!(again.may_append(0), None);
    assert_eq!(again.floor(), Epoch(3));
}

/// Invariants 2 and 6: what a peer showed is persisted, fences at once, and never goes back.
#[test]
fn a_newer_epoch_seen_anywhere_fences() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &directive(3, true)).unwrap();
    assert!(governed.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 2 }]).unwrap());
    assert_eq!(governed.may_append(0), None);
    assert!(matches!(take(&governed, &directive(3, true)), Err(Error::Refused(_))));
    let again = Governed::load(dir.path()).unwrap();
    assert_eq!(again.floor(), Epoch(4));
    assert!(matches!(again.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 3 }]), Err(Error::Contradiction(_))));
}

/// Invariant 3: an incarnation is never taken back, and whether it was used is known after a restart.
#[test]
fn incarnations_only_grow() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &v1::Directive { incarnation: 5, ..directive(1, true) }).unwrap();
    assert_eq!(governed.incarnation(), (Some(Incarnation(5)), false));
    governed.mark_opened().unwrap();
    assert!(take(&governed, &v1::Directive { incarnation: 4, ..directive(1, true) }).is_err());
    take(&governed, &v1::Directive { incarnation: 0, ..directive(1, true) }).unwrap();
    assert_eq!(Governed::load(dir.path()).unwrap().incarnation(), (Some(Incarnation(5)), true));
    take(&governed, &v1::Directive { incarnation: 6, ..directive(1, true) }).unwrap();
    assert_eq!(governed.incarnation(), (Some(Incarnation(6)), false));
}

#[test]
fn a_damaged_file_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), b"{").unwrap();
    let error = Governed::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains(FILE) && error.contains("restore"), "{error}");
}

/// Renewals come several times a second and write nothing.
#[test]
fn a_renewed_lease_is_not_written_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    assert!(take(&governed, &directive(3, true)).unwrap());
    let before = file(dir.path());
    for lease_deadline_boot_ns in 2000..2020 {
        let renewed = v1::Directive { lease_deadline_boot_ns, ..directive(3, true) };
        assert!(!take(&governed, &renewed).unwrap());
        assert_eq!(governed.lease_deadline_ns(), lease_deadline_boot_ns);
        assert_eq!(file(dir.path()), before);
    }
    assert!(take(&governed, &v1::Directive { floor: 4, ..directive(3, false) }).unwrap());
    assert_ne!(file(dir.path()), before);
}

/// Invariant 1: a control process that lies, or that was cut off, gets no appends.
#[test]
fn an_epoch_that_is_old_or_of_another_site_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let of_another = v1::Directive { opened: vec![v1::Opened { epoch: 3, site: 2 }], ..directive(3, true) };
    assert!(matches!(take(&governed, &of_another), Err(Error::Refused(_))));
    let unheard_of = v1::Directive { opened: Vec::new(), ..directive(3, true) };
    assert!(matches!(take(&governed, &unheard_of), Err(Error::Refused(_))));
    assert_eq!(governed.may_append(0), None);
    assert_eq!(governed.floor(), Epoch(0), "a refused directive changes nothing");
    take(&governed, &v1::Directive { floor: 5, ..directive(4, false) }).unwrap();
    assert!(matches!(take(&governed, &directive(4, true)), Err(Error::Refused(_))));
    assert_eq!(governed.may_append(0), None);
}

/// Invariant 2: once the floor is in force, nothing older is acknowledged, whatever was on its way; and it is on disk
/// before it is reported (invariant 6).
#[test]
fn a_seal_ends_acknowledgements_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &directive(3, true)).unwrap();
    assert_eq!(acknowledge(&governed, 0, 10), given(1000));
    assert!(!governed.is_sealed());
    take(&governed, &v1::Directive { floor: 4, ..directive(3, false) }).unwrap();
    assert!(governed.is_sealed() && governed.change_under_way().unwrap().contains("sealed"));
    assert_eq!(acknowledge(&governed, 0, 10), Acknowledgement::Ended);
    assert_eq!(governed.may_append(10), None);
    let again = Governed::load(dir.path()).unwrap();
    assert!(again.is_sealed());
    assert_eq!(again.floor(), Epoch(4));
    // The next epoch opens.
    take(&again, &directive(4, true)).unwrap();
    assert!(!again.is_sealed());
    assert_eq!(again.may_append(10), Some(Epoch(4)));
}

/// Invariants 2 and 4: an acknowledgement and a seal never overlap. While one is being decided no floor comes into force;
/// so what it covers is below the cursors that are read once the floor shows.
#[test]
fn acknowledgements_are_serialised_with_seals() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &directive(3, true)).unwrap();
    std::thread::scope(|threads| {
        let answer = governed.acknowledge(
            claim(0),
            0,
            || 10,
            |_| {
                threads.spawn(|| take(&governed, &v1::Directive { floor: 4, ..directive(3, false) }).unwrap());
                // The seal would be reported by now if it could overtake this.
                std::thread::sleep(std::time::Duration::from_millis(50));
                let on_disk = Governed::load(dir.path()).unwrap();
                assert_eq!(on_disk.floor(), Epoch(3));
                Some(Lsn(5))
            },
            |through| Some((2, through)),
        );
        assert_eq!(answer, given(1000));
    });
    assert_eq!(governed.floor(), Epoch(4));
    assert_eq!(acknowledge(&governed, 0, 10), Acknowledgement::Ended);
}

/// Invariant 2: a process that slept past its lease while it decided acknowledges nothing.
#[test]
fn the_lease_is_compared_last() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &directive(3, true)).unwrap();
    let now = std::cell::Cell::new(999);
    let slept = governed.acknowledge(
        claim(0),
        0,
        || now.get(),
        |_| {
            now.set(1000);
            Some(Lsn(5))
        },
        |through| Some((2, through)),
    );
    assert_eq!(slept, Acknowledgement::Ended);
    assert!(governed.furthest().is_none());
}

/// Invariant 4: no copies are promised to a producer before the group counts on them in a failover.
#[test]
fn a_session_that_asks_for_copies_waits_until_they_are_promised() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let promised = |promised_copies| v1::Directive { promised_copies, ..directive(3, true) };
    take(&governed, &promised(0)).unwrap();
    assert_eq!(acknowledge(&governed, 0, 10), given(1000), "local needs no promise");
    assert_eq!(acknowledge(&governed, 1, 10), Acknowledgement::Unpromised);
    assert_eq!(governed.wants_promise(), 1);
    take(&governed, &promised(2)).unwrap();
    assert_eq!(acknowledge(&governed, 1, 10), Acknowledgement::Unpromised, "two are promised: one is not enough");
    take(&governed, &promised(1)).unwrap();
    assert_eq!(acknowledge(&governed, 1, 10), given(1000));
    assert_eq!(governed.wants_promise(), 0);
    assert_eq!(acknowledge(&governed, 2, 10), given(1000), "more than promised is as good");
}

/// Invariant 1: a drained stream goes on in the same epoch only after an abort, also when the old lease is at hand after a
/// restart.
#[test]
fn a_drained_stream_stays_drained_until_an_abort_or_a_later_epoch() {
    let drain = v1::Directive { drain_op: 9, ..directive(3, true) };
    let drained = || {
        let dir = tempfile::tempdir().unwrap();
        let governed = Governed::load(dir.path()).unwrap();
        take(&governed, &drain).unwrap();
        assert_eq!((governed.may_append(10), governed.may_acknowledge(10)), (None, Some(Epoch(3))));
        assert_eq!((governed.draining(), governed.drained_op()), (Some((9, Epoch(3))), 0));
        assert!(governed.mark_drained(9, Epoch(3)).unwrap());
        assert_eq!(governed.drained_op(), 9);
        (Governed::load(dir.path()).unwrap(), dir)
    };
    let (again, _dir) = drained();
    take(&again, &directive(3, true)).unwrap();
    assert_eq!(again.may_append(10), None, "the old lease alone does not wake it");
    assert_eq!(again.drained_op(), 9);
    take(&again, &v1::Directive { aborted_op: 8, ..directive(3, true) }).unwrap();
    assert_eq!(again.may_append(10), None, "an earlier operation was aborted");
    take(&again, &v1::Directive { aborted_op: 9, ..drain.clone() }).unwrap();
    assert_eq!(again.may_append(10), Some(Epoch(3)));
    assert_eq!((again.draining(), again.drained_op()), (None, 0));

    let (again, _dir) = drained();
    take(&again, &directive(4, true)).unwrap();
    assert_eq!(again.may_append(10), Some(Epoch(4)));
}

/// An abort that overtakes the end of the drain wins.
#[test]
fn nothing_is_drained_that_nobody_asks_for_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &v1::Directive { drain_op: 9, ..directive(3, true) }).unwrap();
    take(&governed, &v1::Directive { drain_op: 9, aborted_op: 9, ..directive(3, true) }).unwrap();
    assert!(!governed.mark_drained(9, Epoch(3)).unwrap());
    assert_eq!(governed.may_append(10), Some(Epoch(3)));
}

/// Between seal and open, batches of older epochs move only as far as ordered; a closed stream never goes past its end.
#[test]
fn a_sealed_site_receives_only_what_was_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let closed = vec![position(2, 30)];
    take(&governed, &v1::Directive { closed: closed.clone(), ..directive(3, false) }).unwrap();
    let limits = |governed: &Governed| [1, 2].map(|site| governed.limits().of(stream(site)));
    assert_eq!(limits(&governed), [None, Some(Lsn(30))]);
    governed.learn(Epoch(4), &[]).unwrap();
    assert_eq!(limits(&governed), [Some(Lsn(0)), Some(Lsn(0))], "a floor learnt from a peer seals too");
    let fetch = vec![position(1, 20), position(2, 40)];
    take(&governed, &v1::Directive { fetch, closed: closed.clone(), floor: 4, ..directive(3, false) }).unwrap();
    assert_eq!(limits(&governed), [Some(Lsn(20)), Some(Lsn(30))]);
    governed.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 2 }]).unwrap();
    assert_eq!(limits(&governed), [None, Some(Lsn(30))], "late entries flow again");
}

/// A later session of the control process ends the earlier one, whose directives do not count any more.
#[test]
fn a_later_session_is_listened_to() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let first = governed.attended();
    governed.take(SITE_A, Some(first), &directive(3, true)).unwrap();
    let second = governed.attended();
    assert!(!governed.is_attended_by(first) && governed.is_attended_by(second));
    let late = governed.take(SITE_A, Some(first), &directive(3, false));
    assert!(matches!(late, Err(Error::Superseded)));
    assert_eq!(governed.may_append(10), Some(Epoch(3)), "the last directive stays in force");
}

/// A site of an older generation takes part in nothing.
#[test]
fn a_fenced_site_neither_appends_nor_exchanges() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    take(&governed, &v1::Directive { held: vec![2], ..directive(3, true) }).unwrap();
    let apart = |governed: &Governed, site| governed.directed().kept_apart_from(SiteId(site)).is_some();
    assert_eq!([apart(&governed, 2), apart(&governed, 3)], [true, false]);
    // Once it is said who belongs to the cluster, nobody else is given anything.
    let sites = [1, 3].map(|id| v1::EnrolledSite { id, name: format!("site-{id}"), ..Default::default() }).to_vec();
    take(&governed, &v1::Directive { sites, ..directive(3, true) }).unwrap();
    assert_eq!([apart(&governed, 2), apart(&governed, 3)], [true, false]);
    take(&governed, &v1::Directive { fenced: true, ..directive(3, true) }).unwrap();
    assert_eq!((governed.may_append(10), apart(&governed, 3)), (None, true));
    assert_eq!(acknowledge(&governed, 0, 10), Acknowledgement::Ended);
}

/// Active-active: an epoch that was opened for every site is this one's too, for as long as its lease has no end; a newer one
/// that a peer shows ends it, and one that was opened for another site never was.
#[test]
fn an_epoch_of_every_site_is_taken_until_a_newer_one_shows() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    let of_all = |epoch| vec![v1::Opened { epoch, site: 0 }];
    let shared = v1::Directive {
        shared: true,
        primary_site: "site-b".into(),
        lease_deadline_boot_ns: u64::MAX,
        opened: of_all(3),
        ..directive(3, true)
    };
    take(&governed, &shared).unwrap();
    assert_eq!((governed.may_append(u64::MAX - 1), acknowledge(&governed, 0, 1)), (Some(Epoch(3)), given(u64::MAX)));
    let drained = v1::Directive { drain_op: 4, ..shared.clone() };
    take(&governed, &drained).unwrap();
    assert_eq!(governed.may_append(1), None);
    assert!(governed.mark_drained(4, Epoch(3)).unwrap());
    take(&governed, &shared).unwrap();
    assert_eq!(governed.may_append(1), None, "drained, whatever the lease says");
    take(&governed, &v1::Directive { aborted_op: 4, ..shared.clone() }).unwrap();
    assert_eq!(governed.may_append(1), Some(Epoch(3)));
    governed.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 2 }]).unwrap();
    assert_eq!((governed.may_append(1), acknowledge(&governed, 0, 1)), (None, Acknowledgement::Ended));
    let other = Governed::load(tempfile::tempdir().unwrap().path()).unwrap();
    let of_another = v1::Directive { opened: vec![v1::Opened { epoch: 3, site: 2 }], ..shared };
    assert!(matches!(take(&other, &of_another), Err(Error::Refused(_))));
}
