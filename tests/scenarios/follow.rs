//! `import --follow` keeps up with a tree that changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::{Cluster, PATIENCE, eventually};
use crate::tree::{at_site, expect_same, on_disk};

/// Invariant 5: after every kind of change both sites come to hold what the disk holds.
#[test]
fn changes_arrive_as_they_happen() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("old/inner")).unwrap();
    (0..10).for_each(|file| fs::write(tree.join(format!("old/inner/{file}")), b"x").unwrap());
    let cluster = Cluster::up();
    let mut following = cluster.spawn("site-a", &["journal", "import", "--follow", "--tree", tree.to_str().unwrap()]);
    arrives(&cluster, &tree, "the tree as it was");

    type Change = (&'static str, fn(&Path));
    let changes: &[Change] = &[
        ("create", |tree| fs::write(tree.join("created"), b"").unwrap()),
        ("write", |tree| fs::write(tree.join("created"), b"some content").unwrap()),
        ("chmod", |tree| fs::set_permissions(tree.join("created"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("rename", |tree| fs::rename(tree.join("created"), tree.join("old/renamed")).unwrap()),
        ("hard link", |tree| fs::hard_link(tree.join("old/renamed"), tree.join("linked")).unwrap()),
        ("new directories and files in them at once", |tree| {
            let deep = tree.join("a/b/c/d");
            fs::create_dir_all(&deep).unwrap();
            (0..50).for_each(|file| fs::write(deep.join(format!("f{file}")), b"x").unwrap());
        }),
        ("rename of a directory", |tree| fs::rename(tree.join("old"), tree.join("a/b/old")).unwrap()),
        ("change in a directory that was renamed", |tree| fs::write(tree.join("a/b/old/inner/3"), b"longer").unwrap()),
        ("replacing rename", |tree| fs::rename(tree.join("linked"), tree.join("a/b/c/d/f1")).unwrap()),
        ("removal of a tree", |tree| fs::remove_dir_all(tree.join("a/b")).unwrap()),
        ("symbolic link and fifo", |tree| {
            std::os::unix::fs::symlink("nowhere", tree.join("a/link")).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, tree.join("a/fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .unwrap();
        }),
    ];
    for (what, change) in changes {
        change(&tree);
        arrives(&cluster, &tree, what);
    }
    assert!(!following.has_ended(), "it stopped following");
    following.kill();
    cluster.expect_identical();
}

fn arrives(cluster: &Cluster, tree: &Path, what: &str) {
    eventually(what, PATIENCE, || {
        let held = cluster.at("site-b", &["admin", "meta", "ls", "-R", "/", "-o", "jsonl"]);
        // Before anything was imported there is no root.
        let at_b = if held.code == 0 { at_site(cluster, "site-b") } else { Default::default() };
        let disk = on_disk(tree);
        if at_b == disk { Ok(()) } else { Err(format!("{} paths on disk, {} at site-b", disk.len(), at_b.len())) }
    });
    expect_same(&on_disk(tree), &at_site(cluster, "site-b"));
}
