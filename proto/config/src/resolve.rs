//! From texts with a place to checked values: flag > environment > file > default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use crate::cluster::canonical;
use crate::error::Problem;
use crate::period::Period;
use crate::schema::{Key, Kind, Preset};
use crate::setting::{Origin, Setting};
use crate::size::ByteSize;
use crate::sources::Given;

/// Longest text of a value.
const MAX_VALUE_BYTES: usize = 4096;

/// Looks values up and remembers what is wrong with them and where they came from.
pub(crate) struct Resolver<'a> {
    keys: &'static [Key],
    /// Before each key's name in messages: empty, or `peers[0].`.
    prefix: String,
    /// Where a missing value is to be added.
    place: String,
    given: BTreeMap<&'static str, Given>,
    pub(crate) settings: Vec<Setting>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Resolver<'a> {
    /// Later values of the same key win.
    pub(crate) fn new(
        keys: &'static [Key],
        prefix: String,
        place: String,
        values: Vec<(&'static str, Given)>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self { keys, prefix, place, given: values.into_iter().collect(), settings: Vec::new(), problems }
    }

    /// A value that is always there; `None` only after a problem was noted.
    pub(crate) fn value<T: FromStr<Err: std::fmt::Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        text.parse().map_err(|error| self.wrong(name, &format!("{error}"))).ok()
    }

    /// A path that is always there.
    pub(crate) fn path(&mut self, name: &'static str, derived: Option<PathBuf>) -> Option<PathBuf> {
        if let (Some(path), false) = (derived, self.given.contains_key(name)) {
            self.settings.push(Setting {
                key: format!("{}{name}", self.prefix),
                value: path.display().to_string(),
                origin: Origin::Default,
            });
            return Some(path);
        }
        self.text(name).map(PathBuf::from)
    }

    /// A number of bytes.
    pub(crate) fn bytes(&mut self, name: &'static str) -> Option<u64> {
        self.value::<ByteSize>(name).map(ByteSize::bytes)
    }

    /// A text that may be empty; `Some(None)` when it is: off, or none.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Option<String>> {
        self.text(name).map(|text| Some(text).filter(|text| !text.is_empty()))
    }

    /// The text in force, checked against the key's kind.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        let key = *self.keys.iter().find(|key| key.name == name)?;
        let (text, origin) = match (self.given.get(name), key.default) {
            (Some(given), _) => (given.text.clone(), given.origin.clone()),
            (None, Preset::Value(text)) => (text.to_owned(), Origin::Default),
            (None, Preset::Derived) => (String::new(), Origin::Default),
            (None, Preset::Required) => {
                self.wrong(name, "it is missing, and has no default");
                return None;
            }
        };
        if origin != Origin::Default
            && let Err(reason) = check(key.kind, &text)
        {
            self.wrong(name, &reason);
            return None;
        }
        let value = canonical(key.kind, &text);
        self.settings.push(Setting { key: format!("{}{name}", self.prefix), value, origin });
        Some(text)
    }

    /// Notes a problem with a key where it was given.
    pub(crate) fn wrong(&mut self, name: &str, reason: &str) {
        let place = self.given.get(name).map_or(&self.place, |given| &given.place).clone();
        self.problems.push(Problem { place, message: format!("{}{name}: {reason}", self.prefix) });
    }
}

pub(crate) fn check(kind: Kind, text: &str) -> Result<(), String> {
    if text.len() > MAX_VALUE_BYTES {
        return Err(format!("it is longer than {MAX_VALUE_BYTES} bytes"));
    }
    match kind {
        Kind::SiteName => parse::<cfs_model::SiteName>(text),
        Kind::ClusterId => parse::<cfs_model::ClusterId>(text),
        Kind::Codec => parse::<cfs_shipper_core::codec::Codec>(text),
        Kind::Durability => parse::<crate::durability::Durability>(text),
        Kind::Text if text.trim().is_empty() => Err("it is empty".to_owned()),
        Kind::Text => Ok(()),
        Kind::PathOrNone if text.is_empty() => Ok(()),
        Kind::Path | Kind::PathOrNone if text.starts_with('/') => Ok(()),
        Kind::Path | Kind::PathOrNone => Err(format!("{text:?} is no absolute path: start it with /")),
        Kind::AddressOrOff if text.is_empty() => Ok(()),
        Kind::AddressOrOff | Kind::Address => address(text)
            .map(|_| ())
            .ok_or_else(|| format!("{text:?} is no address: write HOST:PORT, as in site-b:9500 or [::]:9500")),
        Kind::Number(least, most) => match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(()),
            _ => Err(format!("{text} is out of range: use a whole number from {least} to {most}")),
        },
        Kind::Size(least, most) => match text.parse::<ByteSize>() {
            Ok(size) if (least..=most).contains(&size) => Ok(()),
            Ok(size) => Err(format!("{size} is out of range: use {least} to {most}")),
            Err(error) => Err(error.to_string()),
        },
        Kind::Period(least, most) => match text.parse::<Period>() {
            Ok(period) if (least..=most).contains(&period) => Ok(()),
            Ok(period) => Err(format!("{period} is out of range: use {least} to {most}")),
            Err(error) => Err(error.to_string()),
        },
        Kind::Choice(words) if words.contains(&text) => Ok(()),
        Kind::Choice(words) => Err(format!("{text:?} is unknown: use {}", words.join(" or "))),
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(|_| ()).map_err(|error| error.to_string())
}

/// Host and port of an address; an IPv6 address stands in brackets.
pub(crate) fn address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => host,
    };
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named = host.starts_with('[') || (!host.is_empty() && host.len() <= 253 && host.chars().all(usable));
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (named && digits).then_some(())?;
    Some((bare, port.parse().ok()?))
}
