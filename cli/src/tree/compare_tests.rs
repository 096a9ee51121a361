use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cfs_shipper_core::merge;

use super::*;
use crate::tree::ROOT_NAME;
use crate::tree::disk::Directory;

/// A store as far as the comparison sees one.
#[derive(Default)]
struct Model {
    names: HashMap<(u64, Bytes), u64>,
    nodes: HashMap<u64, Node>,
}

impl Model {
    fn apply(&mut self, op: &Op) {
        merge::validate(op).unwrap_or_else(|error| panic!("{error}: {op:?}"));
        match op.kind.clone().expect("an operation") {
            Kind::Create(o) => {
                let kind = InodeKind::try_from(o.kind).expect("a kind");
                self.make(o.parent, o.name, o.inode, kind, o.attributes, Bytes::new(), o.device);
            }
            Kind::Mkdir(o) => {
                self.make(o.parent, o.name, o.inode, InodeKind::Directory, o.attributes, Bytes::new(), 0);
            }
            Kind::Symlink(o) => self.make(o.parent, o.name, o.inode, InodeKind::Symlink, o.attributes, o.target, 0),
            Kind::Link(o) => {
                self.names.insert((o.parent, o.name), o.inode);
            }
            Kind::Unlink(o) => {
                self.names.remove(&(o.parent, o.name));
                if o.last {
                    self.nodes.remove(&o.inode);
                }
            }
            Kind::Rmdir(o) => {
                self.names.remove(&(o.parent, o.name));
                self.nodes.remove(&o.inode);
            }
            Kind::SetAttr(o) => {
                let held = self.nodes.get_mut(&o.inode).expect("it exists").attributes.as_mut().expect("attributes");
                let set = o.attributes.expect("attributes");
                held.mode = set.mode.or(held.mode);
                held.uid = set.uid.or(held.uid);
                held.gid = set.gid.or(held.gid);
                held.size = set.size.or(held.size);
                held.mtime = set.mtime.or(held.mtime);
            }
            Kind::SetXattr(o) => {
                let node = self.nodes.get_mut(&o.inode).expect("it exists");
                node.xattrs.retain(|xattr| xattr.name != o.name);
                node.xattrs.push(Xattr { name: o.name, value: o.value });
            }
            Kind::RemoveXattr(o) => {
                self.nodes.get_mut(&o.inode).expect("it exists").xattrs.retain(|xattr| xattr.name != o.name);
            }
            other => panic!("a comparison does not yield {other:?}"),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an inode has that many parts")]
    fn make(
        &mut self,
        parent: u64,
        name: Bytes,
        inode: u64,
        kind: InodeKind,
        attributes: Option<Attributes>,
        target: Bytes,
        device: u64,
    ) {
        self.names.insert((parent, name), inode);
        let xattrs = self.nodes.remove(&inode).map(|node| node.xattrs).unwrap_or_default();
        self.nodes.insert(inode, Node { inode, kind: kind as i32, attributes, target, device, nlink: 1, xattrs });
    }

    fn held(&self, parent: u64) -> Names {
        let of_parent = self.names.iter().filter(|((at, _), _)| *at == parent);
        of_parent
            .map(|((_, name), inode)| (name.clone(), Held { inode: *inode, node: self.nodes.get(inode).cloned() }))
            .collect()
    }

    /// Compares everything below `tree` and applies it; the operations, and what is gone.
    fn take(&mut self, tree: &Path) -> (Vec<Op>, Vec<Gone>) {
        let (root, node) = Directory::open_root(tree).expect("a tree");
        let mut seen = Seen::new();
        let (mut ops, mut gone) = (Vec::new(), Vec::new());
        let top = vec![DiskEntry { name: ROOT_NAME, node: Some(node) }];
        let mut changes = self.one(0, &top, &mut seen);
        let mut waiting: Vec<(Directory, Child)> = Vec::new();
        waiting.extend(changes.children.pop().map(|child| (root.clone(), child)));
        ops.append(&mut changes.ops);
        while let Some((above, child)) = waiting.pop() {
            let directory = if child.name == ROOT_NAME {
                above
            } else {
                above.open_child(&child.name, child.inode).expect("a directory")
            };
            let listing = directory.list();
            assert_eq!(listing.troubles, []);
            let mut changes = self.one(child.inode, &listing.entries, &mut seen);
            assert_eq!(changes.moved, []);
            ops.append(&mut changes.ops);
            gone.append(&mut changes.gone);
            waiting.extend(changes.children.into_iter().map(|child| (directory.clone(), child)));
        }
        (ops, gone)
    }

    fn one(&mut self, parent: u64, disk: &[DiskEntry], seen: &mut Seen) -> Changes {
        let held = self.held(parent);
        let elsewhere =
            unknown(disk, &held).into_iter().filter_map(|inode| Some((inode, self.nodes.get(&inode)?.clone())));
        let elsewhere = elsewhere.collect();
        let changes = compare(Sides { parent, disk, complete: true, held, elsewhere: &elsewhere }, seen);
        changes.ops.iter().for_each(|op| self.apply(op));
        changes
    }

    /// Every path below `tree` leads to what the disk has.
    fn assert_holds(&self, tree: &Path) {
        let mut directories = vec![(tree.to_owned(), self.names[&(0, ROOT_NAME)])];
        while let Some((path, parent)) = directories.pop() {
            for entry in fs::read_dir(&path).expect("a directory") {
                let entry = entry.expect("an entry");
                let stat = entry.metadata().expect("metadata");
                let name = Bytes::copy_from_slice(entry.file_name().as_bytes());
                let inode = self.names[&(parent, name)];
                let node = &self.nodes[&inode];
                let held = node.attributes.clone().expect("attributes");
                let time = held.mtime.expect("a time");
                assert_eq!(inode, stat.ino(), "{entry:?}");
                assert_eq!((held.mode, held.size), (Some(stat.mode() & 0o7777), Some(stat.size())), "{entry:?}");
                assert_eq!((time.seconds, i64::from(time.nanos)), (stat.mtime(), stat.mtime_nsec()), "{entry:?}");
                assert_eq!((held.uid, held.gid), (Some(stat.uid()), Some(stat.gid())), "{entry:?}");
                if stat.is_symlink() {
                    let target = fs::read_link(entry.path()).expect("a target");
                    assert_eq!(node.target, target.as_os_str().as_bytes());
                }
                if stat.is_dir() {
                    directories.push((entry.path(), inode));
                }
            }
        }
    }
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn nasty(tree: &Path) {
    for bytes in [&b"new\nline"[..], b"\xff\xfe", b"-rf", b" ", b"\\x0a", &[b'a'; 255]] {
        fs::write(tree.join(name(bytes)), "x").expect("a file");
    }
    symlink(name(b"gone\xff\n"), tree.join("symlink")).expect("a link");
    symlink("/", tree.join("root")).expect("a link");
    symlink("loop", tree.join("loop")).expect("a link");
    fs::create_dir_all(tree.join("d/e/f")).expect("directories");
    fs::write(tree.join("d/one"), "1").expect("a file");
    fs::hard_link(tree.join("d/one"), tree.join("d/e/two")).expect("a link");
    fs::hard_link(tree.join("symlink"), tree.join("d/symlink")).expect("a link");
    fs::File::create(tree.join("sparse")).expect("a file").set_len(1 << 40).expect("a size");
    let old = fs::File::create(tree.join("old")).expect("a file");
    let before = std::time::UNIX_EPOCH - std::time::Duration::new(1_000_000_000, 1);
    old.set_modified(before).expect("a time");
    let far = fs::File::create(tree.join("far")).expect("a file");
    far.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(10_000_000_000, 7)).expect("a time");
}

fn tree() -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().expect("a directory");
    nasty(dir.path());
    let mut model = Model::default();
    model.take(dir.path());
    (dir, model)
}

fn names(ops: &[Op]) -> HashSet<&'static str> {
    ops.iter()
        .map(|op| match op.kind.as_ref().expect("an operation") {
            Kind::Create(_) => "create",
            Kind::Mkdir(_) => "mkdir",
            Kind::Symlink(_) => "symlink",
            Kind::Link(_) => "link",
            Kind::Unlink(_) => "unlink",
            Kind::Rmdir(_) => "rmdir",
            Kind::SetAttr(_) => "set_attr",
            Kind::SetXattr(_) => "set_xattr",
            Kind::RemoveXattr(_) => "remove_xattr",
            _ => "other",
        })
        .collect()
}

#[test]
fn a_nasty_tree_arrives_as_it_is() {
    let (dir, model) = tree();
    model.assert_holds(dir.path());
}

/// Invariant 8: what is there already is not journalled again.
#[test]
fn an_unchanged_tree_yields_nothing() {
    let (dir, mut model) = tree();
    assert_eq!(model.take(dir.path()), (Vec::new(), Vec::new()));
}

#[test]
fn parents_come_before_children() {
    let dir = tempfile::tempdir().expect("a directory");
    nasty(dir.path());
    let (ops, _) = Model::default().take(dir.path());
    let mut made = HashSet::from([0]);
    for op in &ops {
        match op.kind.as_ref().expect("an operation") {
            Kind::Mkdir(o) => {
                assert!(made.contains(&o.parent));
                made.insert(o.inode);
            }
            Kind::Create(o) => assert!(made.contains(&o.parent)),
            Kind::Symlink(o) => assert!(made.contains(&o.parent)),
            Kind::Link(o) => assert!(made.contains(&o.parent)),
            _ => {}
        }
    }
}

#[test]
fn only_what_changed_is_journalled() {
    let (dir, mut model) = tree();
    fs::set_permissions(dir.path().join("d/one"), fs::Permissions::from_mode(0o4700)).expect("a mode");
    let (ops, gone) = model.take(dir.path());
    let inode = fs::metadata(dir.path().join("d/one")).expect("metadata").ino();
    let attributes = Some(Attributes { mode: Some(0o4700), ..Attributes::default() });
    assert_eq!(ops, [Op { kind: Some(Kind::SetAttr(SetAttr { inode, attributes })) }]);
    assert_eq!(gone, []);
}

#[test]
fn a_rename_keeps_the_inode_and_the_subtree() {
    let (dir, mut model) = tree();
    let at = |path: &str| -> PathBuf { dir.path().join(path) };
    fs::rename(at("d"), at("moved")).expect("a rename");
    fs::rename(at("old"), at("moved/e/old")).expect("a rename");
    let (ops, gone) = model.take(dir.path());
    model.assert_holds(dir.path());
    assert_eq!(names(&ops), HashSet::from(["mkdir", "link", "set_attr"]));
    let gone: HashSet<_> = gone.into_iter().map(|gone| (gone.name, gone.occupant)).collect();
    assert_eq!(gone, HashSet::from([("d".into(), None), ("old".into(), None)]));
}

#[test]
fn a_replaced_name_leaves_the_inode_that_it_led_to_for_later() {
    let (dir, mut model) = tree();
    let at = |path: &str| -> PathBuf { dir.path().join(path) };
    let old = fs::metadata(at("far")).expect("metadata").ino();
    fs::rename(at("old"), at("far")).expect("a rename");
    let new = fs::metadata(at("far")).expect("metadata").ino();
    let (_, gone) = model.take(dir.path());
    model.assert_holds(dir.path());
    let displaced = gone.iter().find(|gone| gone.inode == old).expect("it is reported");
    assert_eq!(displaced.occupant, Some((new, InodeKind::File)));
}

fn node(inode: u64, kind: InodeKind) -> DiskNode {
    DiskNode {
        inode,
        kind,
        attributes: Attributes { mode: Some(0o644), ..Attributes::default() },
        target: if kind == InodeKind::Symlink { "t".into() } else { Bytes::new() },
        device: 0,
        xattrs: Some(Vec::new()),
        mount_point: false,
    }
}

fn entry(name: &'static str, node: DiskNode) -> DiskEntry {
    DiskEntry { name: name.into(), node: Some(node) }
}

/// A number that was given to another kind of inode dies first, and takes nothing of its former life along.
#[test]
fn a_reused_number_is_made_anew() {
    let mut model = Model::default();
    let mut tagged = node(7, InodeKind::File);
    tagged.xattrs = Some(vec![("user.a".into(), "1".into())]);
    model.one(1, &[entry("f", tagged)], &mut Seen::new());
    let changes = model.one(1, &[entry("g", node(7, InodeKind::Symlink))], &mut Seen::new());
    assert!(matches!(changes.ops[0].kind, Some(Kind::Unlink(Unlink { inode: 7, last: true, .. }))), "{changes:?}");
    assert!(matches!(changes.ops[1].kind, Some(Kind::Symlink(_))));
    assert_eq!(names(&changes.ops[2..]), HashSet::from(["remove_xattr"]));
    assert_eq!((changes.gone.len(), &changes.gone[0].name[..]), (1, &b"f"[..]));

    let mut model = Model::default();
    model.one(1, &[entry("d", node(7, InodeKind::Directory))], &mut Seen::new());
    let changes = model.one(1, &[entry("d", node(7, InodeKind::File))], &mut Seen::new());
    assert!(matches!(changes.ops[0].kind, Some(Kind::Rmdir(Rmdir { inode: 7, .. }))));
    assert_eq!(changes.emptied, [7]);
}

#[test]
fn extended_attributes_are_compared_one_by_one() {
    let mut model = Model::default();
    let with = |xattrs: &[(&'static str, &'static str)]| {
        let mut node = node(7, InodeKind::File);
        node.xattrs = Some(xattrs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        [entry("f", node)]
    };
    model.one(1, &with(&[("user.a", "1"), ("user.b", "2")]), &mut Seen::new());
    let changes = model.one(1, &with(&[("user.b", "3"), ("user.c", "")]), &mut Seen::new());
    assert_eq!((changes.ops.len(), names(&changes.ops)), (3, HashSet::from(["set_xattr", "remove_xattr"])));
    assert_eq!(model.one(1, &with(&[("user.b", "3"), ("user.c", "")]), &mut Seen::new()), Changes::default());
    let mut unreadable = node(7, InodeKind::File);
    unreadable.xattrs = None;
    assert_eq!(model.one(1, &[entry("f", unreadable)], &mut Seen::new()), Changes::default());
}

/// What is there and unreadable is neither compared nor removed, nor is anything when a directory was read in part.
#[test]
fn unreadable_names_stay() {
    let mut model = Model::default();
    model.one(1, &[entry("f", node(7, InodeKind::File)), entry("g", node(8, InodeKind::File))], &mut Seen::new());
    let unreadable = [DiskEntry { name: "f".into(), node: None }];
    let changes = model.one(1, &unreadable, &mut Seen::new());
    assert_eq!(changes.gone.iter().map(|gone| gone.inode).collect::<Vec<_>>(), [8]);
    let part = Sides { parent: 1, disk: &[], complete: false, held: model.held(1), elsewhere: &HashMap::new() };
    assert_eq!(compare(part, &mut Seen::new()), Changes::default());
}

#[test]
fn a_directory_met_twice_moved_meanwhile() {
    let mut model = Model::default();
    let disk = [entry("d", node(7, InodeKind::Directory)), entry("e", node(7, InodeKind::Directory))];
    let changes = model.one(1, &disk, &mut Seen::new());
    assert_eq!((changes.children.len(), changes.moved.len(), changes.ops.len()), (1, 1, 1));
}

#[test]
fn a_dangling_name_is_made_whole() {
    let mut model = Model::default();
    model.names.insert((1, "f".into()), 7);
    model.one(1, &[entry("f", node(7, InodeKind::File))], &mut Seen::new());
    assert!(model.nodes.contains_key(&7));
}
