//! Reading a snapshot in parts.

use super::Engine;
use super::head::{END_KEY, Phase, encode_vector};
use super::verify::{REGISTERS, register_part};
use crate::backend::{Backend, Read, Scan};
use crate::lost;
use crate::pace;
use crate::row::{InodeRow, NamedRow, split_key};
use crate::snapshot::{
    Chunk, Error, MAX_CHUNK_BYTES, Resume, Snapshot, Stage, TAG_END, TAG_HEAD, TAG_NEXT, TAG_READ_AT, Writer,
};
use crate::table::{self, Table};
use cfs_shipper_core::merge::{Field, Register};

impl<B: Backend> Engine<B> {
    pub(super) fn begin_snapshot(&self) -> Result<Snapshot, Error> {
        let live = self.live();
        let head = &live.head;
        if !head.is_comparable() {
            return Err(Error::Incomplete);
        }
        Ok(Snapshot {
            applied: head.applied.clone(),
            chains: head.chains.clone(),
            clock: head.clock,
            forgotten: head.forgotten.clone(),
        })
    }

    pub(super) fn read_chunk(&self, snapshot: &Snapshot, from: &Resume, max_bytes: usize) -> Result<Chunk, Error> {
        let reader = self.backend.read()?;
        // The same transaction answers whether the rows still fit the snapshot.
        let head = super::head::load(&reader)?;
        if head.forgotten != snapshot.forgotten || head.phase != Phase::Ready {
            return Err(Error::Stale);
        }
        // A site may go on with what another began, as long as it tells nothing older.
        if !head.applied.covers(&snapshot.applied) {
            return Err(Error::Behind);
        }
        let max_bytes = max_bytes.min(MAX_CHUNK_BYTES / 2);
        let mut out = Writer::new();
        let mut at = Some(from.clone());
        while let Some(resume) = at.take() {
            if out.len() >= max_bytes {
                at = Some(resume);
                break;
            }
            let rest = match resume.stage {
                Stage::Head => {
                    out.push(TAG_HEAD, &[], &snapshot.encode());
                    None
                }
                Stage::Rows(table) => copy_rows(&reader, table, &resume.key, max_bytes, &mut out)?,
                Stage::End => {
                    out.push(TAG_END, END_KEY, &encode_vector(&head.applied));
                    None
                }
            };
            at = match rest {
                Some(key) => Some(Resume { stage: resume.stage, key }),
                None => resume.stage.next().map(|stage| Resume { stage, key: Vec::new() }),
            };
        }
        out.push(TAG_READ_AT, END_KEY, &encode_vector(&head.applied));
        if let Some(next) = &at {
            out.push(TAG_NEXT, &[], &next.encode());
        }
        Ok(Chunk { bytes: out.finish(), next: at })
    }
}

/// Copies rows until the part is full; returns the key to go on from.
fn copy_rows(
    tables: &impl Read,
    table: Table,
    from: &[u8],
    max_bytes: usize,
    out: &mut Writer,
) -> Result<Option<Vec<u8>>, table::Error> {
    let mut next = None;
    tables.scan(table, from, &mut |key, row| {
        if out.len() >= max_bytes {
            next = Some(key.to_vec());
            return Ok(Scan::Stop);
        }
        copy_row(tables, table, key, row, out)?;
        pace::breathe();
        Ok(Scan::More)
    })?;
    Ok(next)
}

fn copy_row(tables: &impl Read, table: Table, key: &[u8], row: &[u8], out: &mut Writer) -> Result<(), table::Error> {
    if REGISTERS.contains(&table) {
        let register = register_part(table, key, row)?;
        if !register.is_empty() {
            out.push(table as u8, key, register);
        }
        return copy_waiting(tables, table, key, row, out);
    }
    // Lost writes that wait travel with their registers; a replay would find those that came since.
    if table != Table::Lost || lost::is_superseded(row) {
        out.push(table as u8, key, row);
    }
    Ok(())
}

/// Copies the lost writes of a row that nothing has superseded, in the transaction that read the row.
fn copy_waiting(
    tables: &impl Read,
    table: Table,
    key: &[u8],
    row: &[u8],
    out: &mut Writer,
) -> Result<(), table::Error> {
    let (inode, name) = split_key(table, key)?;
    let registers: Vec<Register> = if table == Table::Inodes {
        let lost = InodeRow::decode(key, row)?.lost;
        Field::ALL.into_iter().filter(|f| lost & f.bit() != 0).map(|f| Register::Field(inode, f)).collect()
    } else if !NamedRow::decode(table, key, row)?.has_lost {
        Vec::new()
    } else if table == Table::Dentries {
        vec![Register::Dentry(inode, name.to_vec())]
    } else {
        vec![Register::Xattr(inode, name.to_vec())]
    };
    for register in registers {
        let mut prefix = Vec::new();
        register.encode(&mut prefix);
        tables.scan_prefix(Table::Lost, &prefix, &mut |key, row| {
            if !lost::is_superseded(row) {
                out.push(Table::Lost as u8, key, row);
            }
            Ok(Scan::More)
        })?;
    }
    Ok(())
}
