//! Settings of the cluster.

use std::collections::BTreeMap;

use cfs_config::Durability;
use cfs_config::cluster::{self, ClusterSetting, Home, MAX_SETTINGS, MAX_TEXT_BYTES};
use cfs_model::{Level, SiteId};

use super::{Applied, Outcome};
use crate::caps;
use crate::command::Command;
use crate::state::{Settings, State};

impl State {
    pub(super) fn set(&mut self, command: &Command, settings: &Settings) -> Applied {
        self.set_lease_and_more(settings)?;
        self.note(command, "settings", SiteId(0), format!("{settings:?}"), "");
        Ok(Outcome::Done)
    }

    fn set_lease_and_more(&mut self, settings: &Settings) -> Result<(), String> {
        let before = self.lease_ms;
        self.configure(settings)?;
        if self.lease_ms < before {
            // The end of the wait for the first one must not be taken for the end of the second.
            if let Some(older) = self.lease_before_ms {
                return Err(format!(
                    "leases of {older} ms may still run since lease_ms was lowered last: try again in {} s",
                    older.div_ceil(1000) + 1
                ));
            }
            self.lease_before_ms = Some(before);
        }
        Ok(())
    }

    pub(super) fn configure(&mut self, settings: &Settings) -> Result<(), String> {
        if let Some(lease_ms) = settings.lease_ms {
            if !caps::LEASE_RANGE_MS.contains(&lease_ms) {
                let (least, most) = caps::LEASE_RANGE_MS.into_inner();
                return Err(format!("lease_ms = {lease_ms} is out of range: use {least} to {most}"));
            }
            self.lease_ms = lease_ms;
        }
        self.copies = settings.copies.unwrap_or(self.copies);
        self.auto_rejoin = settings.auto_rejoin.unwrap_or(self.auto_rejoin);
        self.auto_failover = settings.auto_failover.unwrap_or(self.auto_failover);
        self.goes_on_alone = settings.goes_on_alone.unwrap_or(self.goes_on_alone);
        Ok(())
    }

    pub(super) fn configure_cluster(
        &mut self,
        command: &Command,
        level: Level,
        values: &BTreeMap<String, Option<String>>,
    ) -> Applied {
        self.check_settings(level, values).map_err(|problems| problems.join("; "))?;
        let held = self.settings.clone();
        let before: Vec<String> = values.keys().map(|name| self.setting_in_words(name)).collect();
        let mut typed = Settings::default();
        for (name, value) in values {
            match value {
                Some(text) => {
                    let checked = cluster::find(name).and_then(|setting| setting.check(text).ok());
                    take_typed(&mut typed, name, text);
                    self.settings.insert(name.clone(), checked.unwrap_or_else(|| text.clone()));
                }
                None => {
                    self.settings.remove(name);
                }
            }
        }
        if self.settings.len() > MAX_SETTINGS {
            return Err(format!("there would be more than {MAX_SETTINGS} settings"));
        }
        self.set_lease_and_more(&typed)?;
        if self.settings == held {
            return Ok(Outcome::Done);
        }
        self.settings_version += 1;
        let changes = values.keys().zip(before).filter(|(name, _)| held.get(*name) != self.settings.get(*name));
        let changes: Vec<String> =
            changes.map(|(name, before)| format!("{name}: {before} -> {}", self.setting_in_words(name))).collect();
        self.note(command, "settings", SiteId(0), changes.join(", "), "");
        Ok(Outcome::Done)
    }

    /// Everything that is wrong with new values of settings, a text for each.
    ///
    /// # Errors
    /// At least one text. A command of a newer `level` is only looked at for its size.
    pub fn check_settings(&self, level: Level, values: &BTreeMap<String, Option<String>>) -> Result<(), Vec<String>> {
        let too_long = |(name, value): (&String, &Option<String>)| {
            name.len() > MAX_TEXT_BYTES || value.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES)
        };
        if values.len() > MAX_SETTINGS || values.iter().any(too_long) {
            return Err(vec![format!("settings are longer than {MAX_TEXT_BYTES} bytes, or more than {MAX_SETTINGS}")]);
        }
        if level > Level::THIS {
            return Ok(());
        }
        let problems: Vec<String> =
            values.iter().filter_map(|(name, value)| self.check_setting(name, value.as_deref()).err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn check_setting(&self, name: &str, value: Option<&str>) -> Result<(), String> {
        let setting = cluster::find(name).ok_or_else(|| cluster::unknown(name))?;
        if setting.since > self.level {
            return Err(format!(
                "{name} waits until every site knows level {}, and the cluster works at level {}: see \
                 `cfs admin replication status --detailed`",
                setting.since, self.level
            ));
        }
        let Some(text) = value else {
            return match setting.home {
                Home::File => Ok(()),
                Home::Cluster => Err(format!(
                    "{name} is one value for the whole cluster, and no site's file has it: set it to another"
                )),
            };
        };
        setting.check(text).map_err(|why| format!("{name} = {text}: {why}"))?;
        let copies = text.parse::<Durability>().map_or(0, Durability::copies);
        let others = self.data_sites().count().saturating_sub(1);
        if name == "durability" && copies > others {
            return Err(format!(
                "durability = {text}: it needs {copies} other sites that store data, and {others} are enrolled: use local{}",
                if others > 0 { format!(", or remote(1) to remote({others})") } else { String::new() }
            ));
        }
        Ok(())
    }

    /// A setting's value as the cluster has it; `None`: each site's own holds.
    pub fn setting(&self, setting: &ClusterSetting) -> Option<String> {
        let switch = |on: bool| Some(if on { "on" } else { "off" }.to_owned());
        match setting.name {
            "lease_ms" => Some(self.lease_ms.to_string()),
            "durability" if self.copies == 0 => Some("local".into()),
            "durability" => Some(Durability::Remote(self.copies).to_string()),
            "auto_rejoin" => switch(self.auto_rejoin),
            "auto_failover" => switch(self.auto_failover),
            "partition_policy" => Some(if self.goes_on_alone { "continue" } else { "fence" }.into()),
            name => self.settings.get(name).cloned(),
        }
    }

    /// How long a shipper that ended may take to be back, as the cluster has it.
    pub fn restart_grace_ms(&self) -> Option<u64> {
        self.settings.get("restart_grace_ms")?.parse().ok()
    }

    fn setting_in_words(&self, name: &str) -> String {
        let value = match cluster::find(name) {
            Some(setting) => self.setting(setting),
            None => self.settings.get(name).cloned(),
        };
        value.unwrap_or_else(|| "each site's own".into())
    }
}

fn take_typed(typed: &mut Settings, name: &str, text: &str) {
    match name {
        "lease_ms" => typed.lease_ms = text.parse().ok(),
        "durability" => {
            typed.copies =
                text.parse::<Durability>().ok().and_then(|durability| u8::try_from(durability.copies()).ok());
        }
        "auto_rejoin" => typed.auto_rejoin = Some(text == "on"),
        "auto_failover" => typed.auto_failover = Some(text == "on"),
        "partition_policy" => typed.goes_on_alone = Some(text == "continue"),
        _ => {}
    }
}
