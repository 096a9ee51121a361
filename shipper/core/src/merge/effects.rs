//! An operation as writes of registers.

use cfs_model::Version;
use cfs_model::op::{Attributes, InodeKind, Op, StreamPosition, Time, op::Kind};

use super::field::{Field, Life, Value};
use super::inode::Inode;
use super::register::Register;
use super::validate::{Invalid, validate};

/// Inode, name, and the value, or `None` for no value any more.
pub type XattrWrite<'a> = (u64, &'a [u8], Option<&'a [u8]>);

/// The registers that one operation writes, each at most once, all with the version of its entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effects<'a> {
    /// The entry `(parent, name)` that goes.
    pub cleared: Option<(u64, &'a [u8])>,
    /// The entry `(parent, name)` that points to an inode of a kind from now on.
    pub named: Option<(u64, &'a [u8], (u64, u8))>,
    /// The fields of an inode that are written.
    pub inode: Option<(u64, Inode<'a>)>,
    /// The extended attribute that is written.
    pub xattr: Option<XattrWrite<'a>>,
    /// How far tombstones may be forgotten.
    pub forget: Option<&'a [StreamPosition]>,
}

impl Effects<'_> {
    /// The registers that are written.
    pub fn registers(&self) -> impl Iterator<Item = Register> + '_ {
        let entry = |(parent, name): (u64, &[u8])| Register::Dentry(parent, name.to_vec());
        let named = self.named.map(|(parent, name, _)| (parent, name));
        let fields =
            self.inode.iter().flat_map(|(number, fields)| fields.iter().map(|(f, _)| Register::Field(*number, f)));
        let xattr = self.xattr.map(|(inode, name, _)| Register::Xattr(inode, name.to_vec()));
        self.cleared.into_iter().chain(named).map(entry).chain(fields).chain(xattr)
    }
}

/// What `op`, in an entry of this version, writes. An operation that is not valid writes nothing; that an entry holds
/// one is a mistake of its origin, and harmless because every site ignores it alike.
pub fn effects(op: &Op, version: Version) -> Result<Effects<'_>, Invalid> {
    validate(op)?;
    let mut out = Effects::default();
    match op.kind.as_ref() {
        Some(Kind::Create(o)) => {
            let kind = kind_number(o.kind);
            out.named = Some((o.parent, &o.name, (o.inode, kind)));
            out.inode = Some((o.inode, born(version, kind, o.device, &[], o.attributes.as_ref())));
        }
        Some(Kind::Mkdir(o)) => {
            let kind = InodeKind::Directory as u8;
            out.named = Some((o.parent, &o.name, (o.inode, kind)));
            out.inode = Some((o.inode, born(version, kind, 0, &[], o.attributes.as_ref())));
        }
        Some(Kind::Symlink(o)) => {
            let kind = InodeKind::Symlink as u8;
            out.named = Some((o.parent, &o.name, (o.inode, kind)));
            out.inode = Some((o.inode, born(version, kind, 0, &o.target, o.attributes.as_ref())));
        }
        Some(Kind::Link(o)) => out.named = Some((o.parent, &o.name, (o.inode, kind_number(o.kind)))),
        Some(Kind::Unlink(o)) => {
            out.cleared = Some((o.parent, &o.name));
            out.inode = o.last.then(|| (o.inode, dead(version)));
        }
        Some(Kind::Rmdir(o)) => {
            out.cleared = Some((o.parent, &o.name));
            out.inode = Some((o.inode, dead(version)));
        }
        Some(Kind::Rename(o)) => {
            let same = o.from_parent == o.to_parent && o.from_name == o.to_name;
            out.cleared = (!same).then_some((o.from_parent, &o.from_name[..]));
            out.named = Some((o.to_parent, &o.to_name, (o.inode, kind_number(o.kind))));
            out.inode = (o.replaced != 0).then(|| (o.replaced, dead(version)));
        }
        Some(Kind::Write(o)) => {
            let mut fields = sized(version, o.size, o.mtime.as_ref());
            fields.set(Field::Extents, version, Value::Bytes(&o.extents));
            out.inode = Some((o.inode, fields));
        }
        Some(Kind::Truncate(o)) => out.inode = Some((o.inode, sized(version, o.size, o.mtime.as_ref()))),
        Some(Kind::SetAttr(o)) => {
            let mut fields = Inode::default();
            set_attributes(&mut fields, version, o.attributes.as_ref());
            out.inode = Some((o.inode, fields));
        }
        Some(Kind::SetXattr(o)) => out.xattr = Some((o.inode, &o.name, Some(&o.value))),
        Some(Kind::RemoveXattr(o)) => out.xattr = Some((o.inode, &o.name, None)),
        Some(Kind::Forget(o)) => out.forget = Some(&o.positions),
        None => {}
    }
    Ok(out)
}

/// Kinds are valid by the time that this is called, and so below 256.
const fn kind_number(kind: i32) -> u8 {
    kind as u8
}

fn dead(version: Version) -> Inode<'static> {
    let mut out = Inode::default();
    out.set(Field::Life, version, Value::Life(Life::Removed));
    out
}

fn born<'a>(
    version: Version,
    kind: u8,
    device: u64,
    target: &'a [u8],
    attributes: Option<&'a Attributes>,
) -> Inode<'a> {
    let mut out = Inode::default();
    out.set(Field::Life, version, Value::Life(Life::Live { kind, device, target }));
    set_attributes(&mut out, version, attributes);
    out
}

fn sized<'a>(version: Version, size: u64, mtime: Option<&Time>) -> Inode<'a> {
    let mut out = Inode::default();
    out.set(Field::Size, version, Value::Number(size));
    if let Some(time) = mtime {
        out.set(Field::Mtime, version, time_value(time));
    }
    out
}

const fn time_value(time: &Time) -> Value<'static> {
    Value::Time { seconds: time.seconds, nanos: time.nanos }
}

fn set_attributes<'a>(out: &mut Inode<'a>, version: Version, attributes: Option<&'a Attributes>) {
    let Some(a) = attributes else { return };
    let numbers = [
        (Field::Mode, a.mode.map(u64::from)),
        (Field::Uid, a.uid.map(u64::from)),
        (Field::Gid, a.gid.map(u64::from)),
        (Field::Size, a.size),
    ];
    for (field, number) in numbers {
        if let Some(number) = number {
            out.set(field, version, Value::Number(number));
        }
    }
    for (field, time) in [(Field::Mtime, &a.mtime), (Field::Ctime, &a.ctime)] {
        if let Some(time) = time {
            out.set(field, version, time_value(time));
        }
    }
    if let Some(extents) = &a.extents {
        out.set(Field::Extents, version, Value::Bytes(extents));
    }
}
