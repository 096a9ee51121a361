//! What a real directory tree holds, by this file's own walk, and what a site says it holds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::harness::Cluster;

/// One path: what `find -printf` would print of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) inode: u64,
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i128,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Entry>;

/// Walks `root` on its own file system; paths begin with "/", as if it were the root.
pub(crate) fn on_disk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let device = fs::symlink_metadata(root).expect("it exists").dev();
    walk(root, b"/".to_vec(), device, &mut tree);
    tree
}

fn walk(path: &Path, shown: Vec<u8>, device: u64, tree: &mut Tree) {
    let meta = fs::symlink_metadata(path).expect("it exists");
    if meta.is_dir() && meta.dev() == device {
        for entry in fs::read_dir(path).expect("it reads") {
            let entry = entry.expect("it reads");
            let mut below = shown.clone();
            if below != b"/" {
                below.push(b'/');
            }
            below.extend_from_slice(entry.file_name().as_bytes());
            walk(&entry.path(), below, device, tree);
        }
    }
    tree.insert(
        shown,
        Entry {
            inode: meta.ino(),
            kind: kind(&meta.file_type()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            target: meta.is_symlink().then(|| fs::read_link(path).expect("it reads").into_os_string().into_vec()),
            xattrs: xattrs(path),
        },
    );
}

fn kind(file_type: &fs::FileType) -> char {
    match () {
        () if file_type.is_file() => 'f',
        () if file_type.is_dir() => 'd',
        () if file_type.is_symlink() => 'l',
        () if file_type.is_fifo() => 'p',
        () if file_type.is_socket() => 's',
        () if file_type.is_char_device() => 'c',
        () => 'b',
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = xattr::list(path).into_iter().flatten();
    let with_value = |name: std::ffi::OsString| {
        let value = xattr::get(path, &name).ok().flatten()?;
        Some((name.into_vec(), value))
    };
    names.filter_map(with_value).collect()
}

/// What `cfs admin meta ls -R /` says at a site.
pub(crate) fn at_site(cluster: &Cluster, site: &str) -> Tree {
    let lines = cluster.at(site, &["admin", "meta", "ls", "-R", "/", "-o", "jsonl"]).json_lines();
    lines.iter().map(entry).collect()
}

fn entry(line: &Value) -> (Vec<u8>, Entry) {
    let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str().expect("text")).expect("Base64");
    let number = |key: &str| line[key].as_u64().unwrap_or_else(|| panic!("{key} of {line}"));
    let small = |key: &str| u32::try_from(number(key)).expect("32 bits");
    let xattrs = line["xattrs"].as_object().expect("xattrs").iter();
    let entry = Entry {
        inode: number("inode"),
        kind: line["type"].as_str().and_then(|kind| kind.chars().next()).unwrap_or('?'),
        mode: small("mode"),
        uid: small("uid"),
        gid: small("gid"),
        size: number("size"),
        mtime_ns: line["mtime_ns"].to_string().parse().expect("a whole number"),
        target: line["target_b64"].as_str().map(|_| bytes(&line["target_b64"])),
        xattrs: xattrs.map(|(name, value)| (name.clone().into_bytes(), bytes(value))).collect(),
    };
    (bytes(&line["path_b64"]), entry)
}

/// Fails with the first differences.
pub(crate) fn expect_same(disk: &Tree, site: &Tree) {
    let differs = |path: &&Vec<u8>| disk.get(*path) != site.get(*path);
    let mut paths: Vec<&Vec<u8>> = disk.keys().chain(site.keys()).filter(differs).collect();
    paths.sort();
    paths.dedup();
    let shown = paths.iter().take(10).map(|path| {
        let name = String::from_utf8_lossy(path);
        format!("{name:.200}\n  disk {:?}\n  site {:?}", disk.get(*path), site.get(*path))
    });
    let shown: Vec<String> = shown.collect();
    assert!(paths.is_empty(), "{} of {} paths differ:\n{}", paths.len(), disk.len(), shown.join("\n"));
}

/// Makes everything that has ever confused a program which walks trees.
pub(crate) fn make_nasty(root: &Path) {
    use std::ffi::OsStr;
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    // Names.
    let long = [b'n'; 255];
    let names: &[&[u8]] = &[
        b"plain",
        b".hidden",
        b" leading and trailing ",
        b"-rf",
        b"new\nline",
        b"tab\tquote'\"\\back",
        b"\xff\xfe invalid",
        b"half \xc3",
        "n\u{303} and \u{1f980}".as_bytes(),
        b"\x01\x7f",
        &long,
        b"%s%n",
        b"...",
    ];
    for name in names {
        fs::write(at(name), name).unwrap();
    }
    // Hard links within a directory and across.
    fs::create_dir(at(b"links")).unwrap();
    fs::hard_link(at(b"plain"), at(b"links/second")).unwrap();
    fs::hard_link(at(b"plain"), at(b"links/third")).unwrap();
    // Symbolic links, most of them leading nowhere.
    let long_target = vec![b'x'; 4000];
    let targets: &[&[u8]] =
        &[b"plain", b"/etc/passwd", b"gone", b"self4", b"../../..", b"a\nb", b"\xff\xfe", b" ", b"/", &long_target];
    for (number, target) in targets.iter().enumerate() {
        std::os::unix::fs::symlink(OsStr::from_bytes(target), at(format!("self{number}").as_bytes())).unwrap();
    }
    // Sizes without content.
    let sparse = fs::File::create(at(b"sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let huge = fs::File::create(at(b"huge")).unwrap();
    // As much as this file system allows.
    (0..30).find(|shift| huge.set_len(i64::MAX as u64 >> shift).is_ok()).unwrap();
    make_times(&at);
    make_modes(&at);
    // What is neither file nor directory.
    let cwd = rustix::fs::CWD;
    rustix::fs::mknodat(cwd, at(b"fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at(b"socket")).unwrap());
    // Root may make devices, unless a container forbids it.
    let _ = rustix::fs::mknodat(
        cwd,
        at(b"null"),
        rustix::fs::FileType::CharacterDevice,
        0o666.into(),
        rustix::fs::makedev(1, 3),
    );
    // Extended attributes where there are any.
    let _ = xattr::set(at(b"plain"), "user.tag", b"\0binary\xff");
    let _ = xattr::set(at(b"plain"), "user.empty", b"");
    let _ = xattr::set(at(b"links"), "user.on a directory", b"yes");
    // Directories: empty, deep, wide.
    fs::create_dir(at(b"empty")).unwrap();
    let mut deep = at(b"deep");
    for level in 0..200 {
        deep.push(format!("level{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"x").unwrap();
    fs::create_dir(at(b"wide")).unwrap();
    for number in 0..5000 {
        fs::File::create(at(format!("wide/{number}").as_bytes())).unwrap();
    }
}

fn make_times(at: &impl Fn(&[u8]) -> std::path::PathBuf) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let times: &[(&str, i64, i64)] = &[
        ("before-1970", -2, 500_000_000),
        ("long-before-1970", -2_000_000_000, 1),
        ("zero", 0, 0),
        ("last-nanosecond", 1_700_000_000, 999_999_999),
        ("far-future", 15_000_000_000, 123_456_789),
    ];
    for (name, seconds, nanos) in times {
        fs::write(at(name.as_bytes()), name).unwrap();
        let time = Timespec { tv_sec: *seconds, tv_nsec: *nanos };
        let both = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, at(name.as_bytes()), &both, AtFlags::empty()).unwrap();
    }
}

fn make_modes(at: &impl Fn(&[u8]) -> std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    for mode in [0o000, 0o4755, 0o2644, 0o1777, 0o7777] {
        let path = at(format!("mode{mode:o}").as_bytes());
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    if crate::harness::is_root() {
        std::os::unix::fs::lchown(at(b"self2"), Some(4_000_000_000), Some(12345)).unwrap();
        std::os::unix::fs::chown(at(b"zero"), Some(1), Some(u32::MAX - 1)).unwrap();
    }
}
