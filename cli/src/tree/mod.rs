//! Walks, compares and follows a real directory tree.
//!
//! A tree is read directory by directory ([`disk`]) and compared with what the local site's store holds ([`held`]). The
//! comparison ([`compare`]) is pure: it yields operations, and names that are gone. Names that are gone are dealt with
//! after the walk ([`removal`]), when it is known what else still exists. [`walk`] drives one pass over the whole tree,
//! [`follow`] keeps up with changes.

pub mod compare;
pub mod count;
pub mod disk;
pub mod emit;
pub mod follow;
pub mod held;
pub mod marked;
pub mod progress;
pub mod removal;
pub mod report;
pub mod walk;
pub mod watch;
mod xattrs;

/// The name of the root directory in directory 0.
pub const ROOT_NAME: bytes::Bytes = bytes::Bytes::from_static(b"/");
