use super::*;

const OWN: SiteId = SiteId(1);

fn rule(id: u64, copies: usize, members: &[u8]) -> Rule {
    Rule { id, copies, members: members.iter().map(|site| SiteId(*site)).collect() }
}

fn others(held: &[(u8, u64)]) -> BTreeMap<SiteId, Lsn> {
    held.iter().map(|(site, lsn)| (SiteId(*site), Lsn(*lsn))).collect()
}

/// Invariant 4: an ack waits for every copy that its durability mode promises.
#[test]
fn the_kth_furthest_member_decides() {
    let held = others(&[(2, 3), (3, 9), (4, 5)]);
    let all = [rule(1, 0, &[1, 2, 3, 4])];
    let acked = |asked| acknowledged(Lsn(8), OWN, &all, asked, &held);
    assert_eq!([0, 1, 2, 3, 4].map(acked), [Some(Lsn(8)), Some(Lsn(8)), Some(Lsn(5)), Some(Lsn(3)), None]);
    assert_eq!(
        acknowledged(Lsn(8), OWN, &[rule(1, 2, &[1, 2, 3, 4])], 1, &held),
        Some(Lsn(5)),
        "the rule asks for more"
    );
}

/// Invariant 4: only members count, and while rules change, all of them have to be met.
#[test]
fn every_rule_is_met_by_its_own_members() {
    let held = others(&[(2, 3), (3, 9)]);
    let rules = [rule(1, 1, &[1, 3]), rule(2, 1, &[1, 2])];
    assert_eq!(acknowledged(Lsn(8), OWN, &rules[..1], 0, &held), Some(Lsn(8)));
    assert_eq!(acknowledged(Lsn(8), OWN, &rules, 0, &held), Some(Lsn(3)));
    assert_eq!(acknowledged(Lsn(8), OWN, &rules, 2, &held), None, "no rule has two others");
    assert_eq!(acknowledged(Lsn(8), OWN, &[], 0, &held), Some(Lsn(8)), "not enrolled: local");
    assert_eq!(acknowledged(Lsn(8), OWN, &[], 1, &held), None, "and never more than that");
}

/// Invariant 4: the old rule goes only once everything that was acknowledged under it meets the new one.
#[test]
fn a_rule_is_confirmed_when_all_that_was_acknowledged_meets_it() {
    let rules = [rule(1, 0, &[1, 2, 3]), rule(2, 2, &[1, 2, 3]), rule(3, 1, &[1, 4])];
    let mut given = Given::default();
    assert_eq!(given.confirmed(OWN, &rules, 0, &others(&[])), 3, "nothing was acknowledged");
    given.record(0, Lsn(8));
    let confirmed = |given: &Given, held| given.confirmed(OWN, &rules, 1, &others(held));
    assert_eq!(confirmed(&given, &[(2, 8), (3, 7), (4, 9)]), 1, "an earlier rule that is not met holds up later ones");
    assert_eq!(confirmed(&given, &[(2, 8), (3, 8), (4, 7)]), 2);
    assert_eq!(confirmed(&given, &[(2, 8), (3, 8), (4, 8)]), 3);
    given.record(1, Lsn(9));
    assert_eq!(confirmed(&given, &[(2, 8), (3, 8), (4, 9)]), 0, "what a session asked for counts for every rule");
    assert_eq!(confirmed(&given, &[(2, 9), (3, 9), (4, 9)]), 3);
}

/// Invariant 4, across a restart: what an earlier process acknowledged is not known, so all of it counts.
#[test]
fn what_an_earlier_process_may_have_acknowledged_counts_as_promised() {
    let rules = [rule(1, 0, &[1, 2])];
    let given = Given::after(Some(Lsn(5)));
    assert_eq!(given.confirmed(OWN, &rules, 1, &others(&[(2, 4)])), 0);
    assert_eq!(given.confirmed(OWN, &rules, 1, &others(&[(2, 5)])), 1);
    assert_eq!(given.confirmed(OWN, &rules, 0, &others(&[])), 1, "nobody was ever promised a copy");
    let fresh = Given::after(Some(Lsn::ZERO));
    assert_eq!(fresh.confirmed(OWN, &rules, 1, &others(&[])), 0, "a new incarnation: who counts holds the old one");
    assert_eq!(fresh.confirmed(OWN, &rules, 1, &others(&[(2, 0)])), 1);
    let alone_first = [rule(1, 0, &[1]), rule(2, 1, &[1, 2])];
    assert_eq!(given.confirmed(OWN, &alone_first, 1, &others(&[(2, 5)])), 2, "alone, no copy was ever acknowledged");
}

#[test]
fn acks_leave_in_order() {
    let mut owed = Owed::default();
    owed.push(2, Lsn(20));
    owed.push(5, Lsn(23));
    owed.push(4, Lsn(23));
    owed.push(9, Lsn(30));
    assert_eq!(owed.take(Lsn(19)), None);
    assert_eq!(owed.take(Lsn(25)), Some((5, Lsn(23))));
    assert!(!owed.is_empty());
    assert_eq!(owed.take(Lsn(30)), Some((9, Lsn(30))));
    assert!(owed.is_empty());
}
