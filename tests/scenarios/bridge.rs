//! Three sites, of which the origin is dead.

use std::fs;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::tree::{at_site, expect_same, on_disk};

/// Invariants 3 and 5: any site serves what it holds. A site that was away gets a dead origin's entries from a third one,
/// byte for byte, and all agree when the origin is back.
#[test]
fn a_third_site_bridges_a_dead_origin() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    (0..300).for_each(|file| fs::write(tree.join(file.to_string()), b"x").unwrap());
    let cluster = Cluster::up_with("site-a,site-b,site-c");
    cluster.import(&tree).ok();
    cluster.settle();
    cluster.stop("site-c");
    (300..600).for_each(|file| fs::write(tree.join(file.to_string()), b"x").unwrap());
    cluster.import(&tree).ok();
    cluster.settle();
    cluster.kill("site-a");

    cluster.start("site-c");
    eventually("site-c to have what site-b has", PATIENCE, || {
        let (b, c) = (cluster.cursors("site-b"), cluster.cursors("site-c"));
        if b == c { Ok(()) } else { Err(format!("site-b {b:?}, site-c {c:?}\n{}", cluster.log("site-c"))) }
    });
    expect_same(&on_disk(&tree), &at_site(&cluster, "site-c"));
    // With one site dead there is no proof that all agree, and none is claimed.
    let said = cluster.at("site-c", &["admin", "meta", "consistency-check", "--timeout", "2"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("site-b: MATCH") && said.out.contains("RESULT: NOT COMPARED(site-a"), "{said:?}");

    cluster.start("site-a");
    cluster.expect_identical();
    let said = cluster.at("site-c", &["admin", "meta", "consistency-check"]);
    assert!(said.code == 0 && said.out.contains("RESULT: MATCH"), "{said:?}");
    cluster.expect_same_journals();
    let journal = |site| cluster.path(site, "state/journal").to_str().expect("UTF-8").to_owned();
    let said = crate::harness::cfs(["journal", "verify", &journal("site-c"), "--against", &journal("site-b")]);
    assert_eq!(said.code, 0, "{said:?}");
}
