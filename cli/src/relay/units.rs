//! What systemd says of units.

use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

/// While something is awaited, systemd is asked so often.
pub(crate) const POLL: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(5);
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Result,ReloadResult,Job";

/// One unit at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    id: String,
    load: String,
    active: String,
    sub: String,
    result: String,
    reload_result: String,
    /// What is under way with it; 0: nothing.
    pub(crate) job: u32,
}

/// Where a unit is on its way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It runs and is ready.
    Ready,
    /// It has no place on this machine, like the shipper of a witness.
    Absent,
    /// It will be one or the other.
    Working,
    /// It failed, or nobody started it.
    Down,
}

impl Unit {
    pub(crate) fn name(&self) -> &str {
        self.id.strip_suffix(".service").unwrap_or(&self.id)
    }

    pub(crate) fn standing(&self) -> Standing {
        match (self.active.as_str(), self.sub.as_str()) {
            _ if matches!(self.load.as_str(), "masked" | "not-found") => Standing::Absent,
            ("active" | "reloading", _) if self.job == 0 => Standing::Ready,
            ("activating", "auto-restart") => Standing::Down,
            ("active" | "reloading" | "activating" | "deactivating", _) => Standing::Working,
            _ if self.job != 0 => Standing::Working,
            // Its ExecCondition said so.
            ("inactive", _) if self.result == "exec-condition" => Standing::Absent,
            _ => Standing::Down,
        }
    }

    /// Why it does not run, if it does not and will not soon.
    pub(crate) fn why_down(&self) -> Option<String> {
        let (name, state, result) = (self.name(), self.state(), &self.result);
        (self.standing() == Standing::Down)
            .then(|| format!("{name} does not run: {state}, {result}; see journalctl -u {name}"))
    }

    /// Whether nothing stops it any more, because it has stopped or because nobody asked it to.
    pub(crate) fn is_through_stopping(&self) -> bool {
        self.job == 0 || matches!(self.active.as_str(), "inactive" | "failed" | "activating")
    }

    pub(crate) fn reload_failed(&self) -> bool {
        self.standing() == Standing::Ready && !matches!(self.reload_result.as_str(), "" | "success")
    }

    fn state(&self) -> String {
        format!("{} ({})", self.active, self.sub)
    }
}

/// All of them in a line for people.
pub(crate) fn shown(units: &[Unit]) -> String {
    let one = |unit: &Unit| match unit.standing() {
        Standing::Absent => format!("{}: not on this site", unit.name()),
        _ => format!("{}: {}", unit.name(), unit.state()),
    };
    units.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Asks systemd.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn ask(names: &[String]) -> anyhow::Result<Vec<Unit>> {
    let mut command = Command::new("systemctl");
    command.args(["show", PROPERTIES, "--"]).args(names).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.context("systemctl does not answer")?;
    let output = output.context("systemctl cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "systemctl show: {}; is dbus installed and running?", said.trim());
    let units = parse(&String::from_utf8_lossy(&output.stdout));
    anyhow::ensure!(units.len() == names.len(), "systemctl told of {} units instead of {}", units.len(), names.len());
    Ok(units)
}

fn parse(text: &str) -> Vec<Unit> {
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    blocks.map(|block| block.lines().filter_map(|line| line.split_once('=')).fold(Unit::default(), with)).collect()
}

fn with(mut unit: Unit, (key, value): (&str, &str)) -> Unit {
    let value = value.to_owned();
    match key {
        "Id" => unit.id = value,
        "LoadState" => unit.load = value,
        "ActiveState" => unit.active = value,
        "SubState" => unit.sub = value,
        "Result" => unit.result = value,
        "ReloadResult" => unit.reload_result = value,
        "Job" => unit.job = value.parse().unwrap_or_default(),
        _ => {}
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(load: &str, active: &str, sub: &str, result: &str, job: u32) -> Unit {
        let [id, load, active, sub, result] =
            ["claudefs-shipper.service", load, active, sub, result].map(str::to_owned);
        Unit { id, load, active, sub, result, reload_result: "success".into(), job }
    }

    #[test]
    fn blocks_are_units() {
        let text = "Id=claudefs-control.service\nLoadState=loaded\nActiveState=active\nSubState=running\nResult=success\n\
                    ReloadResult=success\nJob=\n\nId=claudefs-shipper.service\nLoadState=loaded\nActiveState=activating\n\
                    SubState=start\nResult=success\nReloadResult=success\nJob=42\n";
        let units = parse(text);
        assert_eq!(units.len(), 2);
        assert_eq!((units[0].name(), units[0].standing()), ("claudefs-control", Standing::Ready));
        assert_eq!((units[1].job, units[1].standing()), (42, Standing::Working));
        assert_eq!(shown(&units), "claudefs-control: active (running), claudefs-shipper: activating (start)");
    }

    #[test]
    fn a_start_is_over_when_each_unit_is_ready_or_has_no_place_here() {
        let standing = |load, active, sub, result, job| unit(load, active, sub, result, job).standing();
        assert_eq!(standing("loaded", "active", "running", "success", 0), Standing::Ready);
        assert_eq!(standing("loaded", "active", "running", "success", 7), Standing::Working, "a restart begins");
        assert_eq!(standing("loaded", "inactive", "dead", "success", 7), Standing::Working, "its turn comes");
        assert_eq!(standing("loaded", "inactive", "dead", "exec-condition", 0), Standing::Absent, "a witness");
        assert_eq!(standing("masked", "inactive", "dead", "success", 0), Standing::Absent);
        assert_eq!(standing("loaded", "activating", "auto-restart", "exit-code", 0), Standing::Down);
        assert_eq!(standing("loaded", "failed", "failed", "exit-code", 0), Standing::Down);
        let why = unit("loaded", "failed", "failed", "exit-code", 0).why_down();
        assert!(why.is_some_and(|why| why.contains("journalctl -u claudefs-shipper")));
    }

    #[test]
    fn a_stop_waits_for_what_stops_and_for_nothing_else() {
        let through = |active, job| unit("loaded", active, "", "success", job).is_through_stopping();
        assert!(!through("active", 7) && !through("deactivating", 7));
        assert!(through("inactive", 0) && through("failed", 0) && through("inactive", 8));
        assert!(through("activating", 7), "a restart that has stopped it");
        assert!(through("active", 0), "nobody stops it");
    }
}
