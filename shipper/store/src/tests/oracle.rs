//! What a set of batches must add up to, computed from the definitions alone: no order, no increments.

use std::collections::{BTreeMap, BTreeSet};

use cfs_model::op::Op;
use cfs_model::{Lsn, StreamId, Vector, Version};
use cfs_shipper_core::merge::{Register, Value, effects};
use cfs_shipper_core::payload::Entries;

use crate::Store;
use crate::apply::Decoded;
use crate::view::State;

struct Write {
    version: Version,
    seen: Vector,
    /// Without version, as the register encodes it.
    value: Vec<u8>,
}

impl Write {
    fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.version.stamp.stream(), other.version.stamp.stream());
        if mine == theirs {
            self.version.lsn > other.version.lsn
        } else {
            self.seen.covers_entry(theirs, other.version.lsn)
        }
    }
}

/// Every write of every register.
#[derive(Default)]
pub(super) struct Oracle {
    registers: BTreeMap<Register, Vec<Write>>,
}

fn named(live: bool, payload: &[u8]) -> Vec<u8> {
    if live { [&[1], payload].concat() } else { vec![0] }
}

impl Oracle {
    /// Takes the journals of all streams, each in order, as far as `upto`.
    pub(super) fn of<'a>(journals: impl Iterator<Item = &'a Vec<Decoded>>, upto: &Vector) -> Self {
        let mut out = Self::default();
        for journal in journals {
            let mut seen = Vector::new();
            for batch in journal {
                seen = batch.header.vector.clone().unwrap_or(seen);
                if upto.covers_entry(batch.header.stream, batch.header.last_lsn()) {
                    out.take(batch, &seen);
                }
            }
        }
        out
    }

    fn take(&mut self, batch: &Decoded, seen: &Vector) {
        for entry in Entries::new(batch.payload.clone()) {
            let entry = entry.unwrap();
            let lsn = batch.header.first_lsn.plus(entry.index.into());
            let version = Version { stamp: batch.header.stamp(entry.index), lsn };
            let op: Op = entry.decode().unwrap();
            let Ok(effects) = effects(&op, version) else { continue };
            let mut put = |register: Register, value: Vec<u8>| {
                let write = Write { version, seen: seen.clone(), value };
                self.registers.entry(register).or_default().push(write);
            };
            if let Some((inode, fields)) = effects.inode {
                for (field, slot) in fields.iter() {
                    let mut value = Vec::new();
                    slot.value.encode(&mut value);
                    put(Register::Field(inode, field), value);
                }
            }
            if let Some((parent, name)) = effects.cleared {
                put(Register::Dentry(parent, name.to_vec()), named(false, &[]));
            }
            if let Some((parent, name, (inode, kind))) = effects.named {
                let target = [&inode.to_le_bytes()[..], &[kind]].concat();
                put(Register::Dentry(parent, name.to_vec()), named(true, &target));
            }
            if let Some((inode, name, value)) = effects.xattr {
                put(Register::Xattr(inode, name.to_vec()), named(value.is_some(), value.unwrap_or_default()));
            }
        }
    }

    fn winner(&self, register: &Register) -> Option<&Write> {
        self.registers.get(register)?.iter().max_by_key(|write| write.version)
    }

    /// The writes that neither win nor are covered by another write of their register.
    pub(super) fn lost(&self) -> BTreeSet<(Register, StreamId, Lsn)> {
        let mut out = BTreeSet::new();
        for (register, writes) in &self.registers {
            let winner = self.winner(register).unwrap().version;
            for write in writes {
                let covered = writes.iter().any(|other| other.covers(write));
                if write.version != winner && !covered {
                    out.insert((register.clone(), write.version.stamp.stream(), write.version.lsn));
                }
            }
        }
        out
    }

    /// Compares everything that shows.
    pub(super) fn check(&self, store: &dyn Store) {
        let inodes: BTreeSet<u64> = self.registers.keys().map(inode_of).collect();
        for inode in &inodes {
            self.check_inode(store, *inode);
            self.check_directory(store, *inode);
        }
    }

    fn check_inode(&self, store: &dyn Store, inode: u64) {
        use cfs_shipper_core::merge::Field;
        let view = store.inode(inode).unwrap();
        let life = self.winner(&Register::Field(inode, Field::Life));
        let live = life.filter(|write| write.value[0] == 1);
        let state = view.as_ref().map_or(State::Absent, |v| v.state.clone());
        assert_eq!(matches!(state, State::Live { .. }), live.is_some(), "inode {inode} is {state:?}");
        let shown = |register: &Register| {
            let write = self.winner(register)?;
            (write.version.stamp >= live?.version.stamp).then_some(write)
        };
        let number = |field| {
            shown(&Register::Field(inode, field)).map(|write| match Value::decode(field, &mut &write.value[..]) {
                Ok(Value::Number(n)) => n,
                other => panic!("{other:?}"),
            })
        };
        let extents = shown(&Register::Field(inode, Field::Extents)).map(|write| {
            match Value::decode(Field::Extents, &mut &write.value[..]) {
                Ok(Value::Bytes(bytes)) => bytes.to_vec(),
                other => panic!("{other:?}"),
            }
        });
        let held = view.as_ref();
        assert_eq!(held.and_then(|v| v.mode), number(Field::Mode).map(|n| n as u32), "mode of inode {inode}");
        assert_eq!(held.and_then(|v| v.size), number(Field::Size), "size of inode {inode}");
        assert_eq!(held.and_then(|v| v.extents.clone()), extents, "extents of inode {inode}");
        let of_inode = self.registers.keys().filter(|r| matches!(r, Register::Xattr(of, _) if *of == inode));
        let xattrs: Vec<(Vec<u8>, Vec<u8>, Version)> = of_inode
            .filter_map(|register| {
                let write = shown(register).filter(|write| write.value[0] == 1)?;
                let Register::Xattr(_, name) = register else { return None };
                Some((name.clone(), write.value[1..].to_vec(), write.version))
            })
            .collect();
        let held: Vec<_> =
            held.iter().flat_map(|v| &v.xattrs).map(|x| (x.name.clone(), x.value.clone(), x.version)).collect();
        assert_eq!(held, xattrs, "attributes of inode {inode}");
        self.check_links(store, inode);
    }

    fn live_entries(&self) -> impl Iterator<Item = (u64, &Vec<u8>, u64, u8, Version)> {
        self.registers.keys().filter_map(|register| {
            let Register::Dentry(parent, name) = register else { return None };
            let write = self.winner(register).filter(|write| write.value[0] == 1)?;
            let inode = u64::from_le_bytes(write.value[1..9].try_into().unwrap());
            Some((*parent, name, inode, write.value[9], write.version))
        })
    }

    fn check_directory(&self, store: &dyn Store, parent: u64) {
        let expected: Vec<_> = self
            .live_entries()
            .filter(|entry| entry.0 == parent)
            .map(|(_, name, inode, kind, version)| (name.clone(), inode, kind, version))
            .collect();
        let mut held = Vec::new();
        loop {
            let after = held.last().map(|(name, ..): &(Vec<u8>, _, _, _)| name.clone());
            let page = store.read_dir(parent, after.as_deref(), 2).unwrap();
            if page.is_empty() {
                break;
            }
            held.extend(page.into_iter().map(|d| (d.name, d.inode, d.kind, d.version)));
        }
        assert_eq!(held, expected, "entries of directory {parent}");
    }

    /// Names are derived: they are those of the entries.
    fn check_links(&self, store: &dyn Store, inode: u64) {
        let view = store.inode(inode).unwrap();
        let names = self.live_entries().filter(|entry| entry.2 == inode).count() as u64;
        let is_directory = matches!(view.as_ref().map(|v| &v.state), Some(State::Live { kind, .. }) if *kind == 4);
        if is_directory {
            let below = self.live_entries().filter(|entry| entry.0 == inode && entry.3 == 4).count() as u64;
            assert_eq!(view.unwrap().nlink, 2 + below, "links of directory {inode}");
        } else {
            assert_eq!(view.map_or(0, |v| v.nlink), names, "links of inode {inode}");
        }
        let paths: BTreeSet<Vec<u8>> = store.paths(inode, 1000).unwrap().into_iter().collect();
        assert_eq!(paths, self.paths(inode, &[]), "paths of inode {inode}");
    }

    /// All paths that pass no directory twice.
    fn paths(&self, inode: u64, below: &[u64]) -> BTreeSet<Vec<u8>> {
        let mut out = BTreeSet::new();
        let passed = [below, &[inode]].concat();
        for (parent, name, ..) in self.live_entries().filter(|entry| entry.2 == inode) {
            if parent == 0 {
                out.insert(b"/".to_vec());
            } else if !passed.contains(&parent) {
                for above in self.paths(parent, &passed) {
                    let above = if above == b"/" { Vec::new() } else { above };
                    out.insert([&above[..], b"/", name].concat());
                }
            }
        }
        out
    }
}

fn inode_of(register: &Register) -> u64 {
    match register {
        Register::Field(inode, _) | Register::Dentry(inode, _) | Register::Xattr(inode, _) => *inode,
    }
}
