use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::tree::marked::Marked;

struct Tree {
    dir: tempfile::TempDir,
    watcher: Arc<Watcher>,
    root: Directory,
    inode: u64,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let watcher = Watcher::start().expect("a watcher");
        let (root, node) = Directory::open_root(dir.path()).expect("a directory");
        watcher.watch(&root, node.inode, 0, ROOT_NAME);
        Self { dir, watcher, root, inode: node.inode }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Makes and watches a directory in the root.
    fn directory(&self, name: &str) -> u64 {
        fs::create_dir(self.at(name)).expect("a directory");
        let inode = inode_of(&self.at(name));
        let directory = self.root.open_child(name.as_bytes(), inode).expect("it opens");
        self.watcher.watch(&directory, inode, self.inode, Bytes::copy_from_slice(name.as_bytes()));
        inode
    }

    async fn marked(&self) -> Marked {
        tokio::time::timeout(Duration::from_secs(10), self.watcher.changed()).await.expect("an event");
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.watcher.take()
    }

    fn assert_marked(&self, marked: &Marked, directory: u64, name: &str) {
        let names = marked.names.get(&directory);
        assert!(names.is_some_and(|names| names.contains(name.as_bytes())), "{name} in {marked:?}");
    }
}

fn inode_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("metadata").ino()
}

#[tokio::test]
async fn names_that_change_are_marked() {
    let tree = Tree::new();
    fs::write(tree.at("f"), "1").expect("a file");
    tree.assert_marked(&tree.marked().await, tree.inode, "f");
    fs::rename(tree.at("f"), tree.at("g")).expect("a rename");
    let marked = tree.marked().await;
    tree.assert_marked(&marked, tree.inode, "f");
    tree.assert_marked(&marked, tree.inode, "g");
    rustix::fs::setxattr(tree.at("g"), "user.x", b"1", rustix::fs::XattrFlags::empty()).expect("an attribute");
    tree.assert_marked(&tree.marked().await, tree.inode, "g");
    fs::remove_file(tree.at("g")).expect("it goes");
    tree.assert_marked(&tree.marked().await, tree.inode, "g");
}

#[tokio::test]
async fn a_deleted_directory_is_not_watched_any_more() {
    let tree = Tree::new();
    let inode = tree.directory("d");
    tree.marked().await;
    assert!(tree.watcher.is_watched_at(inode, tree.inode, b"d"));
    fs::remove_dir(tree.at("d")).expect("it goes");
    tree.assert_marked(&tree.marked().await, tree.inode, "d");
    assert!(!tree.watcher.is_watched_at(inode, tree.inode, b"d"));
}

#[tokio::test]
async fn what_left_the_tree_is_forgotten_with_all_below_it() {
    let tree = Tree::new();
    let (inode, other) = (tree.directory("d"), tree.directory("other"));
    fs::create_dir(tree.at("d/e")).expect("a directory");
    let below = inode_of(&tree.at("d/e"));
    let directory = tree.root.open_child(b"d", inode).and_then(|d| d.open_child(b"e", below)).expect("it opens");
    tree.watcher.watch(&directory, below, inode, Bytes::from_static(b"e"));
    assert_eq!(tree.watcher.way(below), Some(vec![("d".into(), inode), ("e".into(), below)]));
    tree.watcher.left(inode);
    assert_eq!((tree.watcher.place(inode), tree.watcher.place(below)), (None, None));
    assert!(tree.watcher.is_watched_at(other, tree.inode, b"other"));
    tree.marked().await;
    fs::write(tree.at("d/e/f"), "").expect("a file");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!tree.watcher.take().names.contains_key(&below));
}

#[tokio::test]
async fn a_pass_forgets_what_it_does_not_meet() {
    let tree = Tree::new();
    let inode = tree.directory("d");
    tree.watcher.begin_pass();
    tree.watcher.watch(&tree.root, tree.inode, 0, ROOT_NAME);
    tree.watcher.end_pass();
    assert_eq!(tree.watcher.place(inode), None);
    assert_eq!(tree.watcher.way(tree.inode), Some(Vec::new()));
}

#[tokio::test]
async fn a_directory_in_two_places_is_looked_at_again_in_both() {
    let tree = Tree::new();
    let inode = tree.directory("d");
    tree.marked().await;
    tree.watcher.look_again(99, &[Child { name: "x".into(), inode, mtime: None }]);
    let marked = tree.watcher.take();
    tree.assert_marked(&marked, tree.inode, "d");
    tree.assert_marked(&marked, 99, "x");
}
