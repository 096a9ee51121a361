//! File, environment and command line, each turned into keys with texts.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Problem;
use crate::schema::{ENV_PREFIX, KEYS, Key, Kind, PEER_KEYS, is_section, suggestion};
use crate::setting::Origin;

/// Longest configuration file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most tables of `[[peers]]`: every other site that can exist.
const MAX_PEERS: usize = 254;

/// A value that somebody gave.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) place: String,
    pub(crate) origin: Origin,
}

/// What one source says.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) values: Vec<(&'static str, Given)>,
    pub(crate) peers: Vec<PeerTable>,
    pub(crate) problems: Vec<Problem>,
}

/// One table of `[[peers]]`.
#[derive(Debug)]
pub(crate) struct PeerTable {
    /// `peers[0]`, for messages.
    pub(crate) path: String,
    pub(crate) place: String,
    pub(crate) values: Vec<(&'static str, Given)>,
}

impl Source {
    fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into() });
    }

    fn unknown(&mut self, place: impl Into<String>, name: &str) {
        let names = KEYS.iter().map(|key| key.name).chain(["peers"]);
        self.problem(place, format!("{name} is unknown{}", suggestion(name, names)));
    }
}

/// Reads a file. Blocks.
pub(crate) fn file(path: &Path) -> Source {
    let mut source = Source::default();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE_BYTES => {
            source.problem(path.display().to_string(), format!("it is larger than {MAX_FILE_BYTES} bytes"));
        }
        Ok(_) => FileReader { path: path.display().to_string(), text: &text, source: &mut source }.read(),
        Err(error) => source.problem(
            path.display().to_string(),
            format!("cannot read it: {error}; name another file with --config or {ENV_PREFIX}CONFIG"),
        ),
    }
    source
}

struct FileReader<'a> {
    path: String,
    text: &'a str,
    source: &'a mut Source,
}

impl FileReader<'_> {
    fn read(&mut self) {
        let text = self.text;
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.source.problem(self.place(at), error.message().to_owned());
        }
        // Whatever could be read is checked too: all problems at once.
        for (name, value) in in_order(root.get_ref()) {
            match (&**name.get_ref(), value.get_ref()) {
                ("peers", DeValue::Array(tables)) => self.peers(tables.iter()),
                ("peers", _) => self.wrong(name, "peers", "tables: write [[peers]] above each"),
                (section, DeValue::Table(table)) if is_section(section) => self.section(section, table),
                (section, _) if is_section(section) => self.wrong(name, section, "a table: write [SECTION]"),
                (other, _) => {
                    let place = self.place(name.span().start);
                    let sections = KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.0)).chain(["peers"]);
                    self.source.problem(place, format!("{other} is unknown{}", suggestion(other, sections)));
                }
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in in_order(table) {
            let path = format!("{section}.{}", name.get_ref());
            let place = self.place(name.span().start);
            match KEYS.iter().find(|key| key.name == path) {
                Some(key) => {
                    if let Some(text) = self.text_of(key, &path, value) {
                        self.source.values.push((key.name, Given { text, place, origin: Origin::File }));
                    }
                }
                None => self.source.unknown(place, &path),
            }
        }
    }

    fn peers<'t>(&mut self, tables: impl ExactSizeIterator<Item = &'t Spanned<DeValue<'t>>>) {
        if tables.len() > MAX_PEERS {
            self.source.problem(self.path.clone(), format!("there are more than {MAX_PEERS} peers"));
            return;
        }
        for (index, table) in tables.enumerate() {
            let path = format!("peers[{index}]");
            let place = self.place(table.span().start);
            let Some(content) = table.get_ref().as_table() else {
                self.source.problem(place, format!("{path} must be a table: write [[peers]] above it"));
                continue;
            };
            let mut values = Vec::new();
            for (name, value) in in_order(content) {
                let full = format!("{path}.{}", name.get_ref());
                let place = self.place(name.span().start);
                let Some(key) = PEER_KEYS.iter().find(|key| key.name == name.get_ref()) else {
                    let hint = suggestion(name.get_ref(), PEER_KEYS.iter().map(|key| key.name));
                    self.source.problem(place, format!("{full} is unknown{hint}"));
                    continue;
                };
                if let Some(text) = self.text_of(key, &full, value) {
                    values.push((key.name, Given { text, place, origin: Origin::File }));
                }
            }
            self.source.peers.push(PeerTable { path, place, values });
        }
    }

    /// The text of a value whose TOML type suits the key.
    fn text_of(&mut self, key: &Key, path: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let wanted = match (key.kind, value.get_ref()) {
            (Kind::Number(..) | Kind::Size(..), DeValue::Integer(number)) => {
                // Underscores and other bases are TOML's business: what is kept is the plain number.
                let digits = number.as_str().replace('_', "");
                return match i128::from_str_radix(&digits, number.radix()) {
                    Ok(number) => Some(number.to_string()),
                    Err(_) => Some(digits),
                };
            }
            (Kind::Number(..), _) => "a whole number",
            (_, DeValue::String(text)) => return Some(text.to_string()),
            (Kind::Size(..), _) => "a size in quotes, as in \"64MiB\"",
            _ => "text in quotes",
        };
        let place = self.place(value.span().start);
        let found = value.get_ref().type_str();
        self.source.problem(place, format!("{path} must be {wanted}, and is a TOML {found}"));
        None
    }

    fn wrong<T>(&mut self, at: &Spanned<T>, name: &str, wanted: &str) {
        self.source.problem(self.place(at.span().start), format!("{name} must be {wanted}"));
    }

    /// `FILE:LINE` of an offset.
    fn place(&self, at: usize) -> String {
        let before = self.text.as_bytes().iter().take(at);
        format!("{}:{}", self.path, 1 + before.filter(|byte| **byte == b'\n').count())
    }
}

/// A table's entries as they stand in the file; the parser orders them by name.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// Reads variables of the form `CFS_SECTION__KEY`.
pub(crate) fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Source {
    let mut source = Source::default();
    let mut found: Vec<_> = variables.into_iter().collect();
    found.sort();
    for (name, value) in found {
        let Some(name) = name.to_str() else { continue };
        let Some((section, _)) = name.strip_prefix(ENV_PREFIX).and_then(|rest| rest.split_once("__")) else { continue };
        let place = "environment";
        if section == "PEERS" {
            source.problem(place, format!("{name}: peers cannot be set here, write them into the file"));
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.env() == name) else {
            let known: Vec<String> = KEYS.iter().map(Key::env).collect();
            source.problem(place, format!("{name} is unknown{}", suggestion(name, known.iter().map(String::as_str))));
            continue;
        };
        match value.into_string() {
            Ok(text) => {
                let origin = Origin::Env(name.to_owned());
                source.values.push((key.name, Given { text, place: format!("{place} ({name})"), origin }));
            }
            Err(_) => source.problem(place, format!("{name} is not UTF-8")),
        }
    }
    source
}

/// Takes `(key, value)` pairs of the command line.
pub(crate) fn flags(overrides: &[(&str, &str)]) -> Source {
    let mut source = Source::default();
    let place = "command line";
    for (name, value) in overrides {
        match KEYS.iter().find(|key| key.name == *name) {
            Some(key) => {
                let given = Given { text: (*value).to_owned(), place: place.to_owned(), origin: Origin::Flag };
                source.values.push((key.name, given));
            }
            None => source.unknown(place, name),
        }
    }
    source
}
