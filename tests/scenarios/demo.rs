//! The first thing a new user runs.

use std::fs;

use crate::harness::cfs;

/// The demo proves the two sites identical, and can fail: it notices a store that somebody touched.
#[test]
fn the_demo_ends_with_a_verdict() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    for directory in 0..10 {
        fs::create_dir_all(tree.join(directory.to_string())).unwrap();
        (0..30).for_each(|file| fs::write(tree.join(format!("{directory}/{file}")), b"x").unwrap());
    }
    let tree = tree.to_str().unwrap();
    let said = cfs(["demo", "--tree", tree]);
    assert!(said.code == 0 && said.out.to_lowercase().contains("identical"), "{said:?}");
    let said = cfs(["demo", "--tree", tree, "--fast", "--tamper"]);
    assert!(said.code == 1 && said.out.contains("DIFFERENT"), "the demo did not notice the tampering: {said:?}");
}
