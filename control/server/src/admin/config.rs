//! Settings of the cluster: what is in force here, and changes, which the leader commits.

use std::collections::BTreeMap;
use std::sync::Arc;

use cfs_config::cluster::{self, ClusterSetting, Effect, Home, SETTINGS};
use cfs_config::{Durability, Origin};
use cfs_control_core::{Kind, State};
use cfs_model::Level;
use cfs_rpc::v1;
use cfs_rpc::v1::admin_reply::Kind as Reply;

use super::{Leaders, Out, failure, mode};
use crate::control::Control;

const WHAT: &str = "change the cluster's settings";
const LIVE: &str = "live, no restart needed";
const AT_START: &str = "needs a restart on each data site: systemctl restart claudefs-shipper";

/// Whether a request changes nothing.
pub(super) fn looks(request: &v1::ConfigRequest) -> bool {
    request.set.is_empty() && request.reset.is_empty()
}

/// `cfs admin replication config`, on any site.
pub(super) async fn run(control: &Arc<Control>, request: &v1::AdminRequest, config: &v1::ConfigRequest, out: &Out) {
    if looks(config) {
        out.send(Reply::Config(answer(control))).await;
        return out.done(v1::Done::default()).await;
    }
    let mut leaders = Leaders::of(request);
    while leaders.next(control, request, WHAT, out).await.is_some() {
        let Err(moved) = change(control, request, config, out).await else { return };
        leaders.moved(moved);
    }
}

/// What is in force at this site.
pub(super) fn answer(control: &Control) -> v1::ConfigAnswer {
    let age_ms = control.node().map_or(u64::MAX, |node| node.led_age_ms());
    let state = control.state();
    v1::ConfigAnswer { settings: in_force(control, &state), version: state.settings_version, age_ms }
}

/// Changes and answers; `Err` if another site leads meanwhile, which is to be asked then.
async fn change(
    control: &Arc<Control>,
    request: &v1::AdminRequest,
    config: &v1::ConfigRequest,
    out: &Out,
) -> Result<(), String> {
    let _one_at_a_time = control.configuring.lock().await;
    let Some(lead) = control.lead() else { return Err("the leadership moves".into()) };
    let refused = |code: &str, why: String| {
        let next = "cfs admin replication config, or cfs admin replication config --help";
        v1::Failed { usage: true, ..failure(code, WHAT, why, next) }
    };
    let before = control.state();
    let values = match wanted(config) {
        Ok(values) => values,
        Err(why) => {
            out.failed(refused("SETTING", why)).await;
            return Ok(());
        }
    };
    let mut problems = before.check_settings(Level::THIS, &values).err().unwrap_or_default();
    match mode::wanted(&before, config) {
        Ok(Some(shared)) if problems.is_empty() => {
            return mode::switch(control, &lead, &request.operator, shared, out).await;
        }
        Ok(_) => {}
        Err(why) => problems.push(why),
    }
    if !problems.is_empty() {
        out.failed(refused("SETTING", problems.join("; "))).await;
        return Ok(());
    }
    let was = in_force(control, &before);
    let kind = Kind::Configure { level: Level::THIS, values: values.clone() };
    if !values.is_empty()
        && let Err(undone) = lead.commit(&request.operator, kind).await
    {
        if undone.moved {
            return Err(undone.why);
        }
        out.failed(failure("REFUSED", WHAT, undone.why, "cfs admin replication config")).await;
        return Ok(());
    }
    let state = control.state();
    let done = told(control, &before, &state, &was, values.keys());
    let now_ms = control.boot_ms();
    let silent = state.sites.keys().filter(|id| **id != control.id());
    let silent = silent.filter(|id| !lead.coordinator().is_fresh(&state, **id, now_ms)).map(|id| state.name_of(*id));
    out.send_with(Reply::Done(done), silent.collect()).await;
    Ok(())
}

/// New values by name; what says nothing new is left out.
fn wanted(config: &v1::ConfigRequest) -> Result<BTreeMap<String, Option<String>>, String> {
    let set = config.set.iter().map(|(name, value)| (name.clone(), Some(value.trim().to_owned())));
    let mut values: BTreeMap<String, Option<String>> = set.collect();
    for name in config.reset.iter().filter(|name| *name != mode::NAME) {
        if values.insert(name.clone(), None).is_some_and(|set| set.is_some()) {
            return Err(format!("{name} is both set and reset"));
        }
    }
    values.remove(mode::NAME);
    Ok(values)
}

/// What was changed, for whoever asked.
fn told<'a>(
    control: &Control,
    before: &State,
    after: &State,
    was: &[v1::SettingStatus],
    names: impl Iterator<Item = &'a String>,
) -> v1::Done {
    let now = in_force(control, after);
    let value = |all: &[v1::SettingStatus], name: &str| {
        all.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone()).unwrap_or_default()
    };
    let changed = names.filter(|name| before.settings.get(*name) != after.settings.get(*name));
    let changed = changed.filter_map(|name| {
        let setting = cluster::find(name)?;
        Some(v1::SettingChange {
            name: name.clone(),
            before: value(was, name),
            after: value(&now, name),
            live: setting.effect == Effect::Live,
            note: note_of_change(setting, before, after),
        })
    });
    let settings: Vec<v1::SettingChange> = changed.collect();
    let lines = settings.iter().map(|setting| {
        let v1::SettingChange { name, before, after, note, .. } = setting;
        format!("{name} = {after} (was {before}): {note}")
    });
    let text = match settings.len() {
        0 => "nothing was changed: it was so already".to_owned(),
        _ => lines.collect::<Vec<_>>().join("\n"),
    };
    v1::Done { text, nothing_to_do: settings.is_empty(), epoch: after.epoch.0, settings, ..v1::Done::default() }
}

fn note_of_change(setting: &ClusterSetting, before: &State, after: &State) -> String {
    let mut note = if setting.effect == Effect::Live { LIVE } else { AT_START }.to_owned();
    if setting.name == "lease_ms" && after.lease_ms < before.lease_ms {
        note.push_str("; waits grow shorter once leases of the old length have run out");
    }
    if setting.name == "durability" && after.copies > before.copies {
        note.push_str("; status shows it, and both rules hold until everything acknowledged meets the new one");
    }
    if !after.settings.contains_key(setting.name) {
        note.push_str("; each site's own value holds again");
    }
    note
}

/// Every setting as it is in force at this site.
fn in_force(control: &Control, state: &State) -> Vec<v1::SettingStatus> {
    let report = control.shipper.borrow().live().map(|report| report.settings_waiting.clone()).unwrap_or_default();
    let mut all: Vec<v1::SettingStatus> = SETTINGS
        .iter()
        .map(|setting| {
            let (value, origin, mut note) = value_of(control, state, setting);
            let waiting = report.iter().any(|name| name == setting.name);
            if waiting {
                note = "waits for a restart here: systemctl restart claudefs-shipper".into();
            } else if note.is_empty() {
                note = if setting.effect == Effect::Live { LIVE } else { AT_START }.into();
            }
            let live = setting.effect == Effect::Live;
            let (name, key) = (setting.name.to_owned(), setting.key.to_owned());
            v1::SettingStatus { name, value, origin, live, note, range: setting.range(), key, waiting }
        })
        .collect();
    for (name, value) in state.settings.iter().filter(|(name, _)| cluster::find(name).is_none()) {
        let note = "set by a newer version, which this one does not know".to_owned();
        let (name, value) = (name.clone(), value.clone());
        all.push(v1::SettingStatus { name, value, origin: "cluster".into(), note, ..v1::SettingStatus::default() });
    }
    let shared = state.is_shared();
    all.push(v1::SettingStatus {
        name: mode::NAME.into(),
        value: mode::word(shared).into(),
        origin: if shared { "cluster" } else { "default" }.into(),
        live: true,
        note: LIVE.into(),
        range: mode::RANGE.into(),
        ..v1::SettingStatus::default()
    });
    all
}

/// A setting's value here, its origin, and what is to be said of it.
fn value_of(control: &Control, state: &State, setting: &ClusterSetting) -> (String, String, String) {
    let own = control.own();
    let file = own.settings().iter().find(|known| known.key == setting.key);
    let file = file.map(|known| (known.value.clone(), known.origin.clone()));
    let (own_value, own_origin) = file.unwrap_or((setting.default_value().to_owned(), Origin::Default));
    let explicit = state.settings.contains_key(setting.name);
    let held = if state.group == 0 { None } else { state.setting(setting) };
    match held {
        // A site's file may ask for more until the cluster says something.
        Some(_) if setting.name == "durability" && !explicit && copies(&own_value) > usize::from(state.copies) => {
            (own_value, own_origin.to_string(), format!("asked for by the file of this site; {LIVE}"))
        }
        Some(value) if explicit && setting.check(&value).is_err() => {
            let note = format!("set by a newer version; this one goes by {own_value}");
            (value, "cluster".into(), note)
        }
        Some(value) => {
            let untouched = !explicit && setting.home == Home::Cluster && value == setting.default_value();
            (value, if untouched { "default" } else { "cluster" }.to_owned(), String::new())
        }
        None => (own_value, own_origin.to_string(), String::new()),
    }
}

/// What an append here is promised at least: what the cluster asks for, or more if this site's file does.
pub(crate) fn durability(control: &Control, state: &State) -> String {
    cluster::find("durability").map(|setting| value_of(control, state, setting).0).unwrap_or_default()
}

fn copies(durability: &str) -> usize {
    durability.parse().map_or(0, Durability::copies)
}
