//! What a record tells.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::caps::MAX_TEXT_BYTES;

/// How grave it is. In every line, so that `grep -E "ERROR|CONFLICT"` finds what needs eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// For the record.
    Info,
    /// Worth a look.
    Warning,
    /// Something is broken, or was.
    Error,
    /// A write lost a merge.
    Conflict,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $word:literal;)*) => {
        /// What kind of event. Filters take these words in any case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word in the trail.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    /// A trail begins.
    Begins = "trail_begins";
    /// Records beyond the retention were removed.
    Prune = "prune";
    /// The trail itself is not as it was left: cut, damaged, or events could not be kept.
    Trail = "trail";
    /// A write neither won nor was covered by another.
    Conflict = "conflict";
    /// A later write, whose author had seen it, settled a conflict.
    Superseded = "superseded";
    /// Entries of an epoch whose successor had been opened without them.
    Late = "late";
    /// A lost value was written again.
    Restore = "restore";
    /// Repair of an inode's registers from another site.
    Resync = "resync";
    /// Repair of the structure, by an entry.
    Repair = "repair";
    /// Bytes on disk that are not what was written there.
    Corruption = "corruption";
    /// Another site holds another content of a stream.
    Diverged = "diverged";
    /// A site lacks what no journal keeps any more: it needs a snapshot.
    Behind = "behind";
    /// Appends are acknowledged with fewer copies than was asked for, or no longer.
    Durability = "durability";
    /// The site takes no writes for lack of space, or takes them again.
    Disk = "disk";
    /// A change of primary began.
    Begin = "begin";
    /// An epoch was opened.
    Open = "open";
    /// A change of primary did not come about.
    Abort = "abort";
    /// A group was founded by force, without a quorum.
    Force = "force";
    /// A group was founded.
    Found = "found";
    /// A site was taken in.
    Enroll = "enroll";
    /// A site was taken out.
    Remove = "remove";
    /// Settings changed.
    Config = "config";
    /// A site is kept apart, or no longer.
    Fenced = "fenced";
    /// Two groups act for one cluster.
    SplitBrain = "split_brain";
    /// A split was settled.
    Resolve = "resolve";
    /// Any other decision of the control plane; `decision` says which.
    Control = "control";
}

impl Kind {
    /// The kind that a word names, in any case, with the spellings that people use.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.trim().to_ascii_lowercase().replace('-', "_");
        match word.as_str() {
            "conflicts" | "lost" => Some(Self::Conflict),
            "enrol" => Some(Self::Enroll),
            "settings" => Some(Self::Config),
            "forced" => Some(Self::Force),
            _ => Self::ALL.iter().copied().find(|kind| kind.word() == word),
        }
    }
}

/// When and by whom an entry was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its epoch.
    pub epoch: u64,
    /// Its clock.
    pub clock: u64,
    /// Number of its site.
    pub site: u8,
    /// Incarnation of its stream.
    pub incarnation: u64,
    /// Its position in the stream.
    pub lsn: u64,
}

/// The value of a write that was lost. Bytes are in Base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LostValue {
    /// That the inode is removed.
    Removed,
    /// That the inode lives.
    Live {
        /// Number of its kind, as in `cfs.v1.InodeKind`.
        kind: u8,
        /// `st_rdev` of a device node, otherwise 0.
        device: u64,
        /// Where a symbolic link points.
        target_b64: String,
    },
    /// A mode, uid, gid or size.
    Number(u64),
    /// A time.
    Time {
        /// Since the Unix epoch.
        seconds: i64,
        /// Below 1e9.
        nanos: u32,
    },
    /// Extents, or the value of an extended attribute.
    BytesB64(String),
    /// That an entry points to this inode.
    Entry {
        /// The inode.
        inode: u64,
        /// Number of its kind.
        kind: u8,
    },
    /// That an entry or extended attribute is gone.
    Tombstone,
}

/// What is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What names it, the same on every site; empty: the trail names it `SITE-SEQ`.
    #[serde(default)]
    pub event: String,
    /// How grave it is.
    pub severity: Severity,
    /// What kind.
    pub kind: Kind,
    /// The site that it concerns, by name; empty: the one that records it.
    #[serde(default)]
    pub site: String,
    /// The inode that it concerns; of a directory entry, its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode_id: Option<u64>,
    /// The epoch that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The entry that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
    /// The value that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<LostValue>,
    /// For people.
    pub text: String,
    /// What else there is to say; keys must not be those above.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl Event {
    /// An event of this kind with nothing but a text, which is cut to [`MAX_TEXT_BYTES`].
    pub fn new(kind: Kind, severity: Severity, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.len() > MAX_TEXT_BYTES {
            let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        Self {
            event: String::new(),
            severity,
            kind,
            site: String::new(),
            inode_id: None,
            epoch: None,
            stamp: None,
            value: None,
            text,
            details: Map::new(),
        }
    }

    /// The same, about an inode.
    #[must_use]
    pub fn inode(mut self, inode: u64) -> Self {
        self.inode_id = Some(inode);
        self
    }

    /// The same, about another site than the one that records it.
    #[must_use]
    pub fn site(mut self, site: impl Into<String>) -> Self {
        self.site = site.into();
        self
    }

    /// The same with one more thing to say.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// About how much memory it takes.
    pub fn weight(&self) -> usize {
        let value = match &self.value {
            Some(LostValue::BytesB64(text) | LostValue::Live { target_b64: text, .. }) => text.len(),
            _ => 0,
        };
        let details: usize =
            self.details.iter().map(|(key, value)| key.len() + value.as_str().map_or(16, str::len)).sum();
        256 + self.event.len() + self.text.len() + value + details
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_in_any_case_and_spelling() {
        assert_eq!(Kind::from_word("CONFLICT"), Some(Kind::Conflict));
        assert_eq!(Kind::from_word("Split-Brain"), Some(Kind::SplitBrain));
        assert_eq!(Kind::from_word("enrol"), Some(Kind::Enroll));
        assert_eq!(Kind::from_word("conflic"), None);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(*kind));
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{}\"", kind.word()));
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let event = Event::new(Kind::Control, Severity::Info, "ä".repeat(MAX_TEXT_BYTES));
        assert_eq!(event.text.len(), MAX_TEXT_BYTES);
    }
}
