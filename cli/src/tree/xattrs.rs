//! Reads the extended attributes of one inode; a symbolic link's are its own.

use bytes::Bytes;
use cfs_shipper_core::caps::{MAX_NAME_BYTES, MAX_XATTR_BYTES};
use rustix::io::Errno;

/// Bytes of the list of one inode's extended attributes, as the kernel bounds it.
const MAX_XATTR_LIST_BYTES: usize = 64 * 1024;

/// The extended attributes that this process may read, sorted by name; those over a limit are told to `trouble`.
pub(super) fn read_xattrs(path: &[u8], trouble: &mut dyn FnMut(String)) -> Result<Vec<(Bytes, Bytes)>, Errno> {
    let mut list = vec![0; 1024];
    let length = loop {
        match rustix::fs::llistxattr(path, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => break 0,
            Err(Errno::RANGE) if list.len() < MAX_XATTR_LIST_BYTES => list.resize(MAX_XATTR_LIST_BYTES, 0),
            Err(error) => return Err(error),
        }
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let shown = String::from_utf8_lossy(name);
        if name.len() > MAX_NAME_BYTES {
            trouble(format!(
                "extended attribute {shown}: its name has {} bytes, the limit is {MAX_NAME_BYTES}",
                name.len()
            ));
            continue;
        }
        match read_xattr(path, name) {
            Ok(Some(value)) => found.push((Bytes::copy_from_slice(name), value)),
            Ok(None) => {}
            Err(Errno::TOOBIG | Errno::RANGE) => {
                trouble(format!("extended attribute {shown}: its value is over the limit of {MAX_XATTR_BYTES} bytes"));
            }
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

/// `None`: it is gone, or not for this process to read.
fn read_xattr(path: &[u8], name: &[u8]) -> Result<Option<Bytes>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value.into()));
            }
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if value.len() <= MAX_XATTR_BYTES => value.resize(MAX_XATTR_BYTES + 1, 0),
            Err(error) => return Err(error),
        }
    }
}
