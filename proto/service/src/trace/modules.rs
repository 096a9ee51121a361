//! Which events are wanted.

use std::str::FromStr;

use tracing::Level;

/// What begins the names of this product's modules.
pub const OWN: &str = "cfs";
/// The one library whose events may be asked for too. Those of the libraries that carry a trace to its reader may not: each line
/// would cause more lines.
const RAFT_LIBRARY: &str = "openraft";
/// Most modules in one request.
const MAX_MODULES: usize = 32;

/// Names for people, and the modules that each stands for.
pub const FRIENDLY: &[(&str, &[&str])] = &[
    ("raft", &["cfs_control::raft", RAFT_LIBRARY]),
    ("lease", &["cfs_control::lead", "cfs_control::reporter", "cfs_control::attend", "cfs_shipper::governor"]),
    (
        "failover",
        &[
            "cfs_control::admin",
            "cfs_control::hears",
            "cfs_control::hooks",
            "cfs_control::lead",
            "cfs_control::orders",
            "cfs_control::stop",
            "cfs_shipper::governor",
            "cfs_shipper::path::open",
        ],
    ),
    ("append", &["cfs_shipper::path::append", "cfs_shipper::path::commit"]),
    ("commit", &["cfs_shipper::path::commit", "cfs_shipper::path::replicate"]),
    (
        "ship",
        &[
            "cfs_shipper::dial",
            "cfs_shipper::path::follow",
            "cfs_shipper::path::receive",
            "cfs_shipper::path::replicate",
            "cfs_shipper::path::service",
            "cfs_shipper::path::ship",
        ],
    ),
    ("apply", &["cfs_shipper::path::apply", "cfs_shipper::forget"]),
    ("store", &["cfs_shipper::path::apply", "cfs_shipper::bootstrap", "cfs_shipper::resync", "cfs_shipper::forget"]),
    (
        "journal",
        &[
            "cfs_shipper::behind",
            "cfs_shipper::path::commit",
            "cfs_shipper::path::replicate",
            "cfs_shipper::retention",
            "cfs_shipper::space",
        ],
    ),
    ("enroll", &["cfs_control::join", "cfs_shipper::bootstrap"]),
    ("audit", &["cfs_control::decisions", "cfs_shipper::audit"]),
    ("config", &["cfs_service", "cfs_shipper::settings"]),
    ("tls", &["cfs_rpc", "cfs_control::admin::renewal", "cfs_control::join"]),
];

/// A level, and the modules whose events of that level or a weightier one are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    level: Level,
    modules: Vec<String>,
}

impl Wanted {
    /// Reads what somebody asks for: names of [`FRIENDLY`], or Rust modules, which stand for all that is below them too; no name at
    /// all is every module of this product. The level is `error`, `warn`, `info`, `debug` or `trace`.
    ///
    /// # Errors
    /// Says what may be asked for.
    pub fn parse(names: &[String], level: &str) -> Result<Self, String> {
        let level = Level::from_str(level)
            .map_err(|_| format!("{level:?} is no level: use error, warn, info, debug or trace"))?;
        if names.len() > MAX_MODULES {
            return Err(format!("{} modules are too many: {MAX_MODULES} are allowed", names.len()));
        }
        let mut modules = Vec::new();
        for name in names {
            match FRIENDLY.iter().find(|(friendly, _)| friendly == name) {
                Some((_, stands_for)) => modules.extend(stands_for.iter().map(|&module| module.to_owned())),
                None if is_module(name) => modules.push(name.clone()),
                None => {
                    let known: Vec<&str> = FRIENDLY.iter().map(|(name, _)| *name).collect();
                    return Err(format!(
                        "{name:?} is no module: use {}, or a module of the code as in cfs_shipper::path",
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(Self { level, modules })
    }

    /// The level.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Whether events of this module and level are wanted.
    pub fn covers(&self, target: &str, level: Level) -> bool {
        let below = |module: &String| {
            target.strip_prefix(module.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        level <= self.level
            && if self.modules.is_empty() { target.starts_with(OWN) } else { self.modules.iter().any(below) }
    }
}

fn is_module(name: &str) -> bool {
    let first = name.split("::").next().unwrap_or_default();
    let words = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    words
        && (first == RAFT_LIBRARY || first == OWN || first.strip_prefix(OWN).is_some_and(|rest| rest.starts_with('_')))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn wanted(names: &[&str], level: &str) -> Result<Wanted, String> {
        Wanted::parse(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), level)
    }

    #[test]
    fn a_module_stands_for_all_below_it_and_for_nothing_beside() {
        let path = wanted(&["cfs_shipper::path"], "debug").expect("it reads");
        assert!(path.covers("cfs_shipper::path", Level::DEBUG) && path.covers("cfs_shipper::path::ship", Level::ERROR));
        assert!(!path.covers("cfs_shipper::path_text", Level::INFO) && !path.covers("cfs_shipper", Level::INFO));
        assert!(!path.covers("cfs_shipper::path", Level::TRACE));
        let raft = wanted(&["raft", "apply"], "info").expect("it reads");
        assert!(raft.covers("openraft::core", Level::INFO) && raft.covers("cfs_shipper::path::apply", Level::WARN));
        assert!(!raft.covers("cfs_control::lead", Level::INFO));
        let all = wanted(&[], "trace").expect("it reads");
        assert!(all.covers("cfs_rpc::tls", Level::TRACE) && !all.covers("openraft", Level::ERROR));
    }

    #[test]
    fn what_cannot_be_traced_is_refused_with_what_can() {
        for name in ["h2", "tonic::transport", "", "cfsx", "cfs shipper", "leases"] {
            let why = wanted(&[name], "debug").expect_err(name);
            assert!(why.contains("raft, lease") && why.contains("cfs_shipper::path"), "{why}");
        }
        assert!(wanted(&[], "loud").is_err_and(|why| why.contains("debug")));
        assert!(wanted(&["raft"; MAX_MODULES + 1], "debug").is_err());
    }

    /// A module that was renamed, or that tells nothing, would make its friendly name silent.
    #[test]
    fn every_friendly_name_names_modules_that_tell_something() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let crates = [
            ("cfs_control", "control/server/src"),
            ("cfs_shipper", "shipper/daemon/src"),
            ("cfs_rpc", "proto/rpc/src"),
            ("cfs_service", "proto/service/src"),
        ];
        for module in FRIENDLY.iter().flat_map(|(_, modules)| *modules).filter(|module| **module != RAFT_LIBRARY) {
            let (first, rest) = module.split_once("::").unwrap_or((module, ""));
            let (_, dir) = crates.iter().find(|(name, _)| *name == first).unwrap_or_else(|| panic!("{module}"));
            let path = root.join(dir).join(rest.replace("::", "/"));
            assert!(tells(&path) || tells(&path.with_extension("rs")), "{module} is not there, or tells nothing");
        }
    }

    fn tells(path: &Path) -> bool {
        match std::fs::read_dir(path) {
            Ok(inside) => inside.flatten().any(|entry| tells(&entry.path())),
            Err(_) => std::fs::read_to_string(path).is_ok_and(|text| text.contains("tracing::")),
        }
    }
}
