//! What becomes of a configuration file that was changed while a process runs.

use std::collections::BTreeMap;

use crate::cluster::{Home, SETTINGS};
use crate::config::Config;

/// A key whose value is another now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `SECTION.NAME`, or `peers[0].NAME`.
    pub key: String,
    /// The value before; empty: none.
    pub before: String,
    /// The value now; empty: none.
    pub after: String,
}

impl Difference {
    /// For people: it is in force.
    pub fn taken(&self) -> String {
        format!("{} = {:?} is in force; it was {:?}", self.key, self.after, self.before)
    }

    /// For people: it waits for the next start of `unit`.
    pub fn waits_for(&self, unit: &str) -> String {
        format!("{} = {:?} takes effect after a restart of {unit}; in force is {:?}", self.key, self.after, self.before)
    }

    /// For people: the cluster holds another value, and keeps it.
    pub fn held(&self) -> String {
        let Self { key, after, .. } = self;
        format!("{key} = {after:?} has no effect: the cluster holds it; change it with `cfs admin replication config`")
    }
}

/// What a process does with a file that it reads again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reread {
    /// In force from now on.
    pub taken: Vec<Difference>,
    /// In force after the next start of the process.
    pub restart: Vec<Difference>,
    /// Never: the cluster took the value over when it was founded, and changes it by command only.
    pub cluster: Vec<Difference>,
}

impl Reread {
    /// Compares the file as it is `now` with what the process `started` with and what it read `last`. `live` are the keys that
    /// it takes over while it runs.
    pub fn of(started: &Config, last: &Config, now: &Config, live: &[&str]) -> Self {
        let held = |key: &str| SETTINGS.iter().any(|known| known.key == key && known.home == Home::Cluster);
        let taken = differences(last, now).into_iter().filter(|found| live.contains(&found.key.as_str())).collect();
        let rest = differences(started, now).into_iter().filter(|found| !live.contains(&found.key.as_str()));
        let (cluster, restart) = rest.partition(|found| held(&found.key));
        Self { taken, restart, cluster }
    }

    /// Whether the file says what is in force.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn differences(before: &Config, after: &Config) -> Vec<Difference> {
    let of = |config: &Config| -> BTreeMap<String, String> {
        config.settings().iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect()
    };
    let (before, after) = (of(before), of(after));
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let value = |values: &BTreeMap<String, String>, key: &str| values.get(key).cloned().unwrap_or_default();
    let all = keys.into_iter().map(|key| Difference {
        key: key.clone(),
        before: value(&before, key),
        after: value(&after, key),
    });
    all.filter(|found| found.before != found.after).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn with(overrides: &[(&str, &str)]) -> Config {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/repl.example.toml");
        Config::load_with(Some(&path), overrides, []).expect("the example")
    }

    #[test]
    fn each_change_is_taken_or_waits_and_goes_on_waiting() {
        let live = ["replication.batch_size"];
        let started = with(&[]);
        let changed = with(&[("replication.batch_size", "7"), ("store.map", "1GiB"), ("control.lease_ms", "2000")]);
        let difference = |key: &str, before: &str, after: &str| {
            vec![Difference { key: key.into(), before: before.into(), after: after.into() }]
        };
        let first = Reread::of(&started, &started, &changed, &live);
        assert_eq!(first.taken, difference("replication.batch_size", "500", "7"));
        assert_eq!(first.restart, difference("store.map", "1TiB", "1GiB"));
        assert_eq!(first.cluster, difference("control.lease_ms", "1000", "2000"));
        let second = Reread::of(&started, &changed, &changed, &live);
        assert_eq!((second.taken, second.restart), (Vec::new(), first.restart));
        assert!(Reread::of(&started, &changed, &started, &live).restart.is_empty());
        assert!(Reread::of(&started, &started, &started, &live).is_empty());
    }
}
