//! Directories that are ours, and all the ways in which one is not.

use std::os::unix::fs::FileExt;

use super::*;

fn owner() -> Owner {
    Owner {
        cluster: ClusterId([7; 16]),
        site: SiteName::new("site-a").expect("a name"),
        site_id: SiteId(1),
        level: Level::THIS,
    }
}

/// A control directory whose current node is 3 of group 0xab.
fn made() -> tempfile::TempDir {
    let control = tempfile::tempdir().expect("a directory");
    assert!(open(control.path(), &owner()).expect("nothing is no error").is_none());
    let dir = create(control.path(), &owner(), 0xab, 3).expect("created");
    assert!(open(control.path(), &owner()).expect("not in use yet").is_none());
    take_into_use(control.path(), &dir).expect("in use");
    control
}

fn group(control: &tempfile::TempDir) -> PathBuf {
    control.path().join("00000000000000ab-3")
}

fn error(control: &tempfile::TempDir, owner: &Owner) -> String {
    open(control.path(), owner).expect_err("refused").to_string()
}

/// Everything below a directory, but for what only guards against a second opener.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            files.extend(content(&path));
        } else if !path.ends_with("lock.mdb") {
            files.push((path.clone(), fs::read(&path).expect("read")));
        }
    }
    files.sort();
    files
}

#[test]
fn a_directory_is_found_again_and_kept_when_it_is_retired() {
    let control = made();
    let dir = open(control.path(), &owner()).expect("opened").expect("one");
    assert_eq!((dir.group(), dir.node(), dir.path()), (0xab, 3, group(&control).as_path()));
    drop(dir);
    assert_eq!(retire(control.path()).expect("retired"), Some(group(&control)));
    assert!(open(control.path(), &owner()).expect("opens").is_none());
    assert!(group(&control).join("data.mdb").exists());
    assert_eq!(retire(control.path()).expect("retired"), None);
    let again = create(control.path(), &owner(), 0xab, 3).expect_err("used before").to_string();
    assert!(again.contains("never used twice"), "{again}");
    let next = create(control.path(), &owner(), 0xab, 4).expect("a fresh number");
    take_into_use(control.path(), &next).expect("in use");
    drop(next);
    assert_eq!(open(control.path(), &owner()).expect("opened").expect("one").node(), 4);
}

#[test]
fn two_processes_never_share_a_directory() {
    let control = made();
    let held = open(control.path(), &owner()).expect("opened");
    // A lock belongs to an open file, so a second open in this process stands for another process.
    assert!(error(&control, &owner()).contains("in use by another process"));
    drop(held);
    assert!(open(control.path(), &owner()).is_ok());
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let control = made();
    let before = content(control.path());
    let site = Owner { site: SiteName::new("site-b").expect("a name"), ..owner() };
    let text = error(&control, &site);
    assert!(text.contains("site-a (number 1)") && text.contains("site-b") && text.contains("paths.control"), "{text}");
    let text = error(&control, &Owner { site_id: SiteId(9), ..owner() });
    assert!(text.contains("number 9"), "{text}");
    let text = error(&control, &Owner { cluster: ClusterId([8; 16]), ..owner() });
    assert!(text.contains("cluster.id") && text.contains(&owner().cluster.to_string()), "{text}");
    // Renamed: the number in it is not the one that its name says.
    fs::rename(group(&control), control.path().join("00000000000000ab-9")).expect("renamed");
    fs::write(control.path().join(CURRENT), "00000000000000ab-9\n").expect("written");
    let text = error(&control, &owner());
    assert!(text.contains("copied or renamed") && text.contains("rejoin --primary"), "{text}");
    fs::rename(control.path().join("00000000000000ab-9"), group(&control)).expect("renamed");
    fs::write(control.path().join(CURRENT), "00000000000000ab-3\n").expect("written");
    assert_eq!(content(control.path()), before, "refusing changes nothing");
}

#[test]
fn damage_and_newer_formats_are_named_and_nothing_is_changed() {
    type Break = fn(&Path);
    let cases: [(&str, Break); 11] = [
        ("names no directory", |control| fs::write(control.join("current"), "../x").expect("written")),
        ("names no directory", |control| fs::write(control.join("current"), "").expect("written")),
        ("holds no node.json", |control| fs::write(control.join("current"), "00000000000000ac-1").expect("written")),
        ("damaged", |control| fs::write(control.join("00000000000000ab-3/node.json"), "{").expect("written")),
        ("damaged", |control| {
            fs::write(control.join("00000000000000ab-3/node.json"), "{\"format\":1}").expect("written")
        }),
        ("format 2", |control| {
            fs::write(control.join("00000000000000ab-3/node.json"), "{\"format\":2,\"what\":1}").expect("written");
        }),
        ("missing or empty", |control| fs::write(control.join("00000000000000ab-3/data.mdb"), "").expect("written")),
        ("missing or empty", |control| fs::remove_file(control.join("00000000000000ab-3/data.mdb")).expect("removed")),
        ("damaged", |control| fs::write(control.join("00000000000000ab-3/data.mdb"), [7; 9000]).expect("written")),
        ("damaged", |control| {
            let file =
                fs::OpenOptions::new().write(true).open(control.join("00000000000000ab-3/data.mdb")).expect("open");
            file.set_len(2 * 4096).expect("cut behind the two head pages");
        }),
        ("damaged", |control| {
            let file = fs::OpenOptions::new().read(true).write(true).open(control.join("00000000000000ab-3/data.mdb"));
            let file = file.expect("open");
            let bytes = fs::read(control.join("00000000000000ab-3/data.mdb")).expect("read");
            let at: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"made")).collect();
            assert!(!at.is_empty());
            for at in at {
                // The name of the only value, then its format, its checksum and itself.
                file.write_all_at(&[bytes[at + 4 + 5] ^ 1], at as u64 + 4 + 5).expect("written");
            }
        }),
    ];
    for (number, (what, damage)) in cases.into_iter().enumerate() {
        let control = made();
        damage(control.path());
        let before = content(control.path());
        let text = error(&control, &owner());
        assert!(text.contains(what), "case {number}: {text}");
        assert!(text.contains("move") || text.contains("version"), "case {number} says what next: {text}");
        let lock = PathBuf::from("lock");
        let after: Vec<_> =
            content(control.path()).into_iter().filter(|(p, _)| p.file_name() != Some(lock.as_os_str())).collect();
        let before: Vec<_> = before.into_iter().filter(|(p, _)| p.file_name() != Some(lock.as_os_str())).collect();
        assert_eq!(after, before, "case {number} changes nothing");
    }
}
