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

#[test]
fn the_lease_ends_by_itself_and_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    assert_eq!(governed.may_append(0), None, "nobody said so");
    governed.take(&directive(3, true)).unwrap();
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
    governed.take(&directive(3, true)).unwrap();
    assert!(governed.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 2 }]).unwrap());
    assert_eq!(governed.may_append(0), None);
    assert!(matches!(governed.take(&directive(3, true)), Err(Error::Refused(_))));
    let again = Governed::load(dir.path()).unwrap();
    assert_eq!(again.floor(), Epoch(4));
    assert!(matches!(again.learn(Epoch(4), &[v1::Opened { epoch: 4, site: 3 }]), Err(Error::Contradiction(_))));
}

/// Invariant 3: an incarnation is never taken back, and whether it was used is known after a restart.
#[test]
fn incarnations_only_grow() {
    let dir = tempfile::tempdir().unwrap();
    let governed = Governed::load(dir.path()).unwrap();
    governed.take(&v1::Directive { incarnation: 5, ..directive(1, true) }).unwrap();
    assert_eq!(governed.incarnation(), (Some(Incarnation(5)), false));
    governed.mark_opened().unwrap();
    assert!(governed.take(&v1::Directive { incarnation: 4, ..directive(1, true) }).is_err());
    governed.take(&v1::Directive { incarnation: 0, ..directive(1, true) }).unwrap();
    assert_eq!(Governed::load(dir.path()).unwrap().incarnation(), (Some(Incarnation(5)), true));
    governed.take(&v1::Directive { incarnation: 6, ..directive(1, true) }).unwrap();
    assert_eq!(governed.incarnation(), (Some(Incarnation(6)), false));
}

#[test]
fn a_damaged_file_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), b"{").unwrap();
    let error = Governed::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains(FILE) && error.contains("restore"), "{error}");
}
