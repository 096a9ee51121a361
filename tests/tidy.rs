//! The shape of the repository: sizes, layers, names, links. What is checked here needs no reviewer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Most lines of a source file, its unit tests apart.
const MAX_LINES: usize = 400;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
/// All that may stand at the top, beside names that begin with a dot.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cli",
    "control",
    "deploy",
    "docs",
    "proto",
    "shipper",
    "tests",
];
/// Names that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// Which packages must not reach which, directly or through others, tests apart.
const BANS: &[(&str, &[&str])] = &[
    // Decisions: no runtime, no database, no network.
    ("cfs-model", &["tokio", "heed", "tonic", "hyper", "rustls", "rand", "cfs-shipper-core", "cfs-rpc"]),
    ("cfs-config", &["tokio", "heed", "tonic", "hyper", "rustls", "rand", "cfs-rpc"]),
    ("cfs-shipper-core", &["tokio", "heed", "tonic", "hyper", "rustls", "rand", "cfs-rpc"]),
    ("cfs-control-core", &["tokio", "heed", "tonic", "hyper", "rustls", "rand", "cfs-rpc", "openraft"]),
    // Disks: they block, and know nothing of sites.
    ("cfs-journal", &["tokio", "tonic", "hyper", "heed", "cfs-rpc", "cfs-store", "cfs-audit", "prometheus-client"]),
    ("cfs-audit", &["tokio", "tonic", "hyper", "heed", "cfs-rpc", "cfs-journal", "cfs-store", "prometheus-client"]),
    ("cfs-store", &["tokio", "tonic", "hyper", "cfs-rpc", "cfs-journal", "prometheus-client"]),
    // What two processes agree on knows neither of them.
    ("cfs-rpc", &["heed", "openraft", "cfs-journal", "cfs-store", "cfs-client", "cfs-shipper", "cfs-control", "cfs"]),
    ("cfs-client", &["heed", "openraft", "cfs-journal", "cfs-store", "cfs-shipper", "cfs-control", "cfs"]),
    // A shipper obeys; it takes no part in the group.
    ("cfs-shipper", &["cfs", "cfs-client", "cfs-control", "cfs-control-core", "openraft", "indicatif"]),
    // The group holds decisions, never data.
    ("cfs-control", &["cfs", "cfs-store", "cfs-journal", "cfs-audit", "cfs-shipper", "cfs-client", "indicatif"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli lies below the root").to_owned()
}

/// Every file of the repository, relative to its root; build output and names that begin with a dot apart.
fn files() -> Vec<PathBuf> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') || path == root.join("target") {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, out);
            } else {
                out.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &root(), &mut out);
    out.sort();
    out
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn only_known_things_stand_at_the_top() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).expect("readable") {
        let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && name != "target" && !TOP.contains(&name.as_str()) {
            found.push(name);
        }
    }
    none("find a better place for", found);
}

/// Lines of a source file before its unit tests.
fn product_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"));
    tests.unwrap_or(lines.len())
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

#[test]
fn source_files_stay_short() {
    let mut found = Vec::new();
    for path in with_extension("rs").into_iter().filter(|path| !is_test(path)) {
        let lines = product_lines(&read(&path));
        let excepted = LONG_FILES.iter().any(|(file, _)| Path::new(file) == path);
        if lines > MAX_LINES && !excepted {
            found.push(format!("{} has {lines} lines, {MAX_LINES} are allowed", path.display()));
        }
        if lines <= MAX_LINES && excepted {
            found.push(format!("{} needs no exception any more", path.display()));
        }
    }
    none("split these files where they change subject", found);
}

#[test]
fn names_say_what_is_inside() {
    let found = files().into_iter().filter(|path| {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let in_a_folder = path.parent().into_iter().flat_map(Path::components);
        let folder = in_a_folder.map(Component::as_os_str).any(|name| EMPTY_NAMES.contains(&&*name.to_string_lossy()));
        folder || EMPTY_NAMES.contains(&stem.as_str())
    });
    none("give these a name that says what is inside", found.map(|path| path.display().to_string()).collect());
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut found = Vec::new();
    for path in with_extension("rs").into_iter().chain(with_extension("proto")) {
        for (number, line) in read(&path).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    none("finish these", found);
}

#[test]
fn every_proto_exists_once() {
    let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in with_extension("proto") {
        places.entry(path.file_name().unwrap().to_string_lossy().into_owned()).or_default().push(path);
    }
    assert!(!places.is_empty(), "the protocol is gone");
    for (name, paths) in places {
        assert!(paths.len() == 1 && paths[0].starts_with("proto"), "{name} must exist once, below proto: {paths:?}");
    }
}

struct Package {
    dir: PathBuf,
    manifest: toml::Table,
}

impl Package {
    fn name(&self) -> &str {
        self.manifest["package"]["name"].as_str().unwrap()
    }

    /// What it is built from and with, tests apart.
    fn dependencies(&self) -> BTreeSet<String> {
        let tables =
            ["dependencies", "build-dependencies"].iter().filter_map(|key| self.manifest.get(*key)?.as_table());
        tables.flat_map(|table| table.keys().cloned()).collect()
    }
}

fn packages() -> Vec<Package> {
    let workspace: toml::Table = read(Path::new("Cargo.toml")).parse().expect("TOML");
    let members = workspace["workspace"]["members"].as_array().expect("members");
    let package = |member: &toml::Value| {
        let dir = PathBuf::from(member.as_str().unwrap());
        let manifest = read(&dir.join("Cargo.toml")).parse().expect("TOML");
        Package { dir, manifest }
    };
    members.iter().map(package).collect()
}

/// What each package of the lock file needs; several versions of one name count as one.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock: toml::Table = read(Path::new("Cargo.lock")).parse().expect("TOML");
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("packages") {
        let needs = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        let needs = needs.map(|need| need.as_str().unwrap().split(' ').next().unwrap().to_owned());
        out.entry(package["name"].as_str().unwrap().to_owned()).or_default().extend(needs);
    }
    // The lock file does not tell which dependencies of our own packages are for tests alone; their manifests do.
    for package in packages() {
        out.insert(package.name().to_owned(), package.dependencies());
    }
    out
}

#[test]
fn layers_do_not_reach_upwards() {
    let locked = locked();
    for (package, banned) in BANS {
        let mut reached: BTreeMap<String, String> = BTreeMap::new();
        let mut open = vec![(*package).to_owned()];
        while let Some(name) = open.pop() {
            for need in locked.get(&name).unwrap_or_else(|| panic!("{name} is not in Cargo.lock")) {
                if !reached.contains_key(need) {
                    reached.insert(need.clone(), name.clone());
                    open.push(need.clone());
                }
            }
        }
        let found = banned.iter().filter_map(|ban| Some(format!("{ban}, through {}", reached.get(*ban)?)));
        none(&format!("{package} must not depend on"), found.collect());
    }
}

/// The pure packages keep their ban on clocks, and the lint that enforces it is not switched off.
#[test]
fn clocks_are_banned_where_decisions_are_made() {
    for package in ["proto/model", "proto/config", "shipper/core", "control/core"] {
        let bans = read(&Path::new(package).join(".clippy.toml"));
        for method in ["Instant::now", "SystemTime::now", "thread::sleep"] {
            assert!(bans.contains(method), "{package}/.clippy.toml does not ban {method}");
        }
        for path in with_extension("rs").into_iter().filter(|path| path.starts_with(package)) {
            assert!(!read(&path).contains("disallowed_methods"), "{} switches the ban off", path.display());
        }
    }
    let workspace = read(Path::new("Cargo.toml"));
    assert!(workspace.contains("disallowed_methods = \"deny\""), "the lint is not denied");
}

/// Files where the compiler starts.
fn targets(package: &Package) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for file in ["src/lib.rs", "src/main.rs", "build.rs"] {
        out.push(package.dir.join(file));
    }
    for kind in ["bin", "test", "bench", "example"] {
        let listed = package.manifest.get(kind).and_then(toml::Value::as_array).into_iter().flatten();
        out.extend(listed.filter_map(|target| Some(normal(&package.dir.join(target.get("path")?.as_str()?)))));
    }
    for folder in ["src/bin", "tests", "benches", "examples"] {
        let listed = fs::read_dir(root().join(&package.dir).join(folder)).into_iter().flatten();
        for entry in listed {
            let path = package.dir.join(folder).join(entry.unwrap().file_name());
            out.extend([path.join("main.rs"), path]);
        }
    }
    out.retain(|path| path.extension().is_some_and(|e| e == "rs") && root().join(path).exists());
    out
}

/// The same path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(out.pop(), "{} leaves the repository", path.display()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// The files that one source file names: its modules, and what it includes.
fn named_by(path: &Path, is_root: bool) -> Vec<PathBuf> {
    let here = path.parent().unwrap();
    let stem = path.file_stem().unwrap();
    let below = if is_root || stem == "mod" { here.to_owned() } else { here.join(stem) };
    let mut out = Vec::new();
    let mut explicit: Option<String> = None;
    for line in read(path).lines().map(str::trim) {
        let quoted = || line.split('"').nth(1).map(str::to_owned);
        if line.starts_with("#[path = ") {
            explicit = quoted();
        } else if line.contains("include!(\"") || line.contains("include_str!(\"") {
            out.extend(quoted().map(|file| normal(&here.join(file))));
        } else if let Some(name) = declared_module(line) {
            match explicit.take() {
                Some(file) => out.push(normal(&here.join(file))),
                None => out.extend([below.join(format!("{name}.rs")), below.join(name).join("mod.rs")]),
            }
        }
    }
    out
}

fn declared_module(line: &str) -> Option<&str> {
    let rest = line.strip_suffix(';')?;
    let rest = match rest.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => rest,
    };
    rest.strip_prefix("mod ").filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[test]
fn every_source_file_is_compiled() {
    let mut open: Vec<(PathBuf, bool)> = Vec::new();
    for package in packages() {
        open.extend(targets(&package).into_iter().map(|path| (path, true)));
    }
    let mut reached = BTreeSet::new();
    while let Some((path, is_root)) = open.pop() {
        if root().join(&path).exists() && reached.insert(path.clone()) && path.extension().is_some_and(|e| e == "rs") {
            open.extend(named_by(&path, is_root).into_iter().map(|path| (path, false)));
        }
    }
    let dead = with_extension("rs").into_iter().filter(|path| !reached.contains(path));
    none("nothing refers to", dead.map(|path| path.display().to_string()).collect());
}

/// Targets of `[text](target)` in a page, code apart.
fn links(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let ends = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            out.extend(ends.map(|(target, _)| target.to_owned()));
        }
    }
    out
}

/// The name by which a heading is linked.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for path in with_extension("md") {
        for link in links(&read(&path)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { normal(&path.parent().unwrap().join(file)) };
            let exists = root().join(&target).exists();
            let has_heading = || {
                let text = read(&target);
                text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading)
            };
            if !exists || (!heading.is_empty() && !has_heading()) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none("links that lead nowhere", broken);
}

#[test]
fn the_checks_themselves_find_something() {
    assert_eq!(declared_module("pub(crate) mod x;"), Some("x"));
    assert_eq!(declared_module("mod x {"), None);
    assert_eq!(links("see [a](b.md#c) and [d](e)"), ["b.md#c", "e"]);
    assert_eq!(anchor(" What `x` is"), "what-x-is");
    assert_eq!(product_lines("a\n#[cfg(test)]\nmod tests {\nb\n"), 1);
    assert_eq!(normal(Path::new("cli/../tests/x.rs")), Path::new("tests/x.rs"));
}
