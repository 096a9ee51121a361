//! Removes names that are gone, and the inodes that have none left.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cfs_model::op::op::Kind;
use cfs_model::op::{InodeKind, Op, Rename, Rmdir, StreamPosition, Unlink};

use super::compare::Gone;
use super::emit::Emitter;
use super::held::Store;

/// Names whose inodes are looked up together.
const CHUNK: usize = 256;

/// Removes names, and counts the names that inodes have left.
pub struct Removal<'a> {
    store: &'a Store,
    /// Whether the inode exists on disk under another name. For other inodes than directories it may say no when it
    /// does not know: what the store counts decides then.
    alive: &'a (dyn Fn(&Gone) -> bool + Sync),
    /// Names that inodes with several have left in the store.
    left: HashMap<u64, u64>,
    /// Names of those that were counted off. A directory that is read twice can report a name twice.
    counted: HashSet<(u64, Bytes)>,
}

enum Step {
    Enter(Gone),
    Leave(Gone),
}

impl<'a> Removal<'a> {
    /// Reads from `store` what is below removed directories.
    pub fn new(store: &'a Store, alive: &'a (dyn Fn(&Gone) -> bool + Sync)) -> Self {
        Self { store, alive, left: HashMap::new(), counted: HashSet::new() }
    }

    /// Removes `gone`, contents before directories. All that was journalled before must be applied: `applied` is the
    /// last of it.
    ///
    /// # Errors
    /// When the store cannot be read or the journal not be appended to.
    pub async fn run(
        &mut self,
        gone: Vec<Gone>,
        applied: Option<StreamPosition>,
        emitter: &mut Emitter,
    ) -> anyhow::Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        self.store.names(0, vec![super::ROOT_NAME], applied).await?;
        let mut gone = gone.into_iter().peekable();
        while gone.peek().is_some() {
            let chunk: Vec<Gone> = gone.by_ref().take(CHUNK).collect();
            let nodes = self.store.nodes(chunk.iter().map(|gone| gone.inode).collect()).await?;
            for gone in chunk {
                let names = nodes.get(&gone.inode).map_or(0, |node| node.nlink);
                self.count(&gone, names);
                self.remove(gone, emitter).await?;
            }
        }
        Ok(())
    }

    /// Inodes that have names left.
    pub fn survivors(&self) -> Vec<u64> {
        self.left.iter().filter(|(_, names)| **names > 0).map(|(inode, _)| *inode).collect()
    }

    fn count(&mut self, gone: &Gone, names: u64) {
        // With an occupant, the name does not lead to this inode any more and is not counted by the store.
        let several = names + u64::from(gone.occupant.is_some()) > 1;
        if gone.kind != InodeKind::Directory && several {
            self.left.entry(gone.inode).or_insert(names);
        }
    }

    async fn remove(&mut self, gone: Gone, emitter: &mut Emitter) -> anyhow::Result<()> {
        let mut steps = vec![Step::Enter(gone)];
        let mut ops = Vec::new();
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(gone) if gone.kind == InodeKind::Directory && !(self.alive)(&gone) => {
                    let parent = gone.inode;
                    let names = self.store.names(parent, Vec::new(), None).await?;
                    steps.push(Step::Leave(gone));
                    for (name, held) in names {
                        let child = Gone { parent, name, inode: held.inode, kind: held.kind(), occupant: None };
                        self.count(&child, held.node.as_ref().map_or(0, |node| node.nlink));
                        steps.push(Step::Enter(child));
                    }
                }
                Step::Enter(gone) | Step::Leave(gone) => {
                    ops.extend(self.decide(&gone));
                    if ops.len() >= CHUNK {
                        emitter.summary.removed += ops.len() as u64;
                        emitter.emit(&ops).await?;
                        ops.clear();
                    }
                }
            }
        }
        emitter.summary.removed += ops.len() as u64;
        emitter.emit(&ops).await
    }

    /// What is to be journalled for a name, when nothing is left below it.
    fn decide(&mut self, gone: &Gone) -> Option<Op> {
        let last = !(self.alive)(gone) && self.is_last(gone);
        let (parent, name, inode) = (gone.parent, gone.name.clone(), gone.inode);
        let kind = match gone.occupant {
            None if last && gone.kind == InodeKind::Directory => Kind::Rmdir(Rmdir { parent, name, inode }),
            None => Kind::Unlink(Unlink { parent, name, inode, last }),
            // The name stays where it leads: what it led to goes, as when a rename replaces it.
            Some((occupant, kind)) if last => Kind::Rename(Rename {
                from_parent: parent,
                from_name: name.clone(),
                to_parent: parent,
                to_name: name,
                inode: occupant,
                kind: kind as i32,
                replaced: inode,
            }),
            Some(_) => return None,
        };
        Some(Op { kind: Some(kind) })
    }

    fn is_last(&mut self, gone: &Gone) -> bool {
        match gone.kind {
            InodeKind::Directory => true,
            InodeKind::Unspecified => false,
            _ => {
                let Some(left) = self.left.get_mut(&gone.inode) else { return true };
                if !self.counted.insert((gone.parent, gone.name.clone())) {
                    return false;
                }
                *left = left.saturating_sub(u64::from(gone.occupant.is_none()));
                *left == 0
            }
        }
    }
}

#[cfg(test)]
#[path = "removal_tests.rs"]
mod tests;
