//! A directory tree at site A becomes the same tree at site B.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::{Cluster, is_root, skipped};
use crate::tree::{at_site, expect_same, make_nasty, on_disk};

fn appended(cluster: &Cluster) -> u64 {
    cluster.status("site-a")["entries_appended"].as_u64().expect("a number")
}

/// Imports, waits for site B, and compares every path at both sites with the disk.
fn expect_imported(cluster: &Cluster, tree: &Path) {
    let said = cluster.import(tree);
    assert_eq!(said.code, 0, "{said:?}");
    cluster.settle();
    let disk = on_disk(tree);
    expect_same(&disk, &at_site(cluster, "site-b"));
    expect_same(&disk, &at_site(cluster, "site-a"));
}

/// Invariants 5 and 8: both sites hold exactly what the tree holds, and importing again changes nothing.
#[test]
fn a_nasty_tree_arrives_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_nasty(&tree);
    let cluster = Cluster::up();
    expect_imported(&cluster, &tree);

    let before = appended(&cluster);
    cluster.import(&tree).ok();
    assert_eq!(appended(&cluster), before, "a second import of an unchanged tree appended something");

    change(&tree);
    expect_imported(&cluster, &tree);
    let changes = appended(&cluster) - before;
    // Six changes touch a dozen inodes and their directories, out of more than five thousand.
    assert!((6..60).contains(&changes), "{changes} entries for a handful of changes");
    cluster.expect_identical();
    cluster.expect_same_journals();
}

/// A file grows, one goes, one comes, a directory moves with what is in it, a mode and a target change.
fn change(tree: &Path) {
    fs::write(tree.join("plain"), "longer than before").unwrap();
    fs::remove_file(tree.join("wide/17")).unwrap();
    fs::write(tree.join("wide/new"), "x").unwrap();
    fs::rename(tree.join("links"), tree.join("empty/moved")).unwrap();
    fs::set_permissions(tree.join("wide/18"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::remove_file(tree.join("self0")).unwrap();
    std::os::unix::fs::symlink("elsewhere", tree.join("self0")).unwrap();
}

/// Invariant 5, with what people have on their disks.
#[test]
fn a_real_tree_arrives_as_it_is() {
    let tree = Path::new("/usr/share/doc");
    if !tree.exists() {
        return skipped("there is no /usr/share/doc here");
    }
    let cluster = Cluster::up();
    expect_imported(&cluster, tree);
    let before = appended(&cluster);
    cluster.import(tree).ok();
    assert_eq!(appended(&cluster), before);
}

/// What cannot be read is said and left out; the rest arrives. Vanishing files are no error at all.
#[test]
fn unreadable_and_vanishing_files_do_not_stop_an_import() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    for directory in 0..20 {
        let directory = tree.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        (0..100).for_each(|file| fs::write(directory.join(file.to_string()), b"").unwrap());
    }
    let cluster = Cluster::up();
    let importing = cluster.spawn("site-a", &["journal", "import", "--tree", tree.to_str().unwrap()]);
    for directory in (0..20).rev() {
        let directory = tree.join(directory.to_string());
        if directory.ends_with("13") {
            fs::remove_dir_all(&directory).unwrap();
        } else {
            (50..100).for_each(|file| fs::remove_file(directory.join(file.to_string())).unwrap());
        }
    }
    importing.finish().ok();
    // Whatever the first walk saw, a second one ends at the truth.
    expect_imported(&cluster, &tree);

    if is_root() {
        return skipped("unreadable files: root reads everything");
    }
    fs::set_permissions(tree.join("3"), fs::Permissions::from_mode(0o000)).unwrap();
    let said = cluster.import(&tree);
    fs::set_permissions(tree.join("3"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(said.err.contains("/3"), "the unreadable directory is not named: {said:?}");
    cluster.settle();
    let held = at_site(&cluster, "site-b");
    assert!(held.contains_key(&b"/3/7"[..]), "what cannot be read was taken for removed");
}
