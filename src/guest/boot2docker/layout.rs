//! The archive itself, in four layouts of falling compatibility and rising capacity.

use std::{fmt, io};

use tar::{Builder, EntryType, Header};

/// What the disk begins with, and the name of the archive's first entry.
pub const MAGIC: &[u8] = MAGIC_NAME.as_bytes();

const MAGIC_NAME: &str = "boot2docker, please format-me";
const FOLDER: &str = ".ssh";
/// sshd reads the first, RancherOS stops without the second: both are always there.
const KEYS: &str = ".ssh/authorized_keys";
const KEYS_AGAIN: &str = ".ssh/authorized_keys2";

/// The unit of a tar archive, in bytes (POSIX ustar).
pub(super) const BLOCK: u64 = 512;
/// The two zero blocks that end an archive, in bytes. GNU tar and busybox read on without them, so
/// they need not fit in what the guest keeps.
pub(super) const END: u64 = 1024;

/// How the archive holds its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// What docker-machine writes: the magic as name and as data, two full copies of the keys.
    Classic,
    /// `authorized_keys2` is a hard link to `authorized_keys`.
    HardLink,
    /// The entry named with the magic has no data; two full copies of the keys.
    EmptyMagic,
    /// Both savings.
    EmptyMagicHardLink,
}

impl Layout {
    /// Every layout, in the order of preference.
    pub const ALL: &'static [Layout] =
        &[Layout::Classic, Layout::HardLink, Layout::EmptyMagic, Layout::EmptyMagicHardLink];

    /// The name that programs see (`snake_case`, stable).
    pub const fn name(self) -> &'static str {
        match self {
            Layout::Classic => "classic",
            Layout::HardLink => "hard_link",
            Layout::EmptyMagic => "empty_magic",
            Layout::EmptyMagicHardLink => "empty_magic_hard_link",
        }
    }

    const fn magic_is_empty(self) -> bool {
        matches!(self, Layout::EmptyMagic | Layout::EmptyMagicHardLink)
    }

    const fn links(self) -> bool {
        matches!(self, Layout::HardLink | Layout::EmptyMagicHardLink)
    }

    /// What everything but the keys takes, in bytes: four headers, and a block for the magic.
    const fn overhead_bytes(self) -> u64 {
        if self.magic_is_empty() { 4 * BLOCK } else { 5 * BLOCK }
    }

    /// The size of an archive with `key_bytes` bytes of keys, in bytes, without its end.
    pub(super) const fn need_bytes(self, key_bytes: u64) -> u64 {
        let one = key_bytes.div_ceil(BLOCK).saturating_mul(BLOCK);
        let copies = if self.links() { one } else { one.saturating_mul(2) };
        copies.saturating_add(self.overhead_bytes())
    }

    /// The largest number of bytes of keys whose archive fits in `budget_bytes`.
    pub(super) const fn key_limit_bytes(self, budget_bytes: u64) -> u64 {
        let room = budget_bytes.saturating_sub(self.overhead_bytes());
        let one = if self.links() { room } else { room / 2 };
        (one / BLOCK).saturating_mul(BLOCK)
    }

    /// The archive, with the two zero blocks that end it.
    pub(super) fn archive(self, keys: &str) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        let magic = if self.magic_is_empty() { &[] } else { MAGIC };
        append(&mut tar, entry(EntryType::Regular, MAGIC_NAME, 0)?, magic)?;
        append(&mut tar, entry(EntryType::Directory, FOLDER, 0o700)?, &[])?;
        append(&mut tar, entry(EntryType::Regular, KEYS, 0o644)?, keys.as_bytes())?;
        if self.links() {
            let mut link = entry(EntryType::Link, KEYS_AGAIN, 0o644)?;
            link.set_link_name(KEYS)?;
            append(&mut tar, link, &[])?;
        } else {
            append(&mut tar, entry(EntryType::Regular, KEYS_AGAIN, 0o644)?, keys.as_bytes())?;
        }
        tar.into_inner()
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A header as docker-machine's tar writer leaves it: no owner, no time, every number spelt out.
fn entry(kind: EntryType, name: &str, mode: u32) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(name)?;
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    Ok(header)
}

fn append(tar: &mut Builder<Vec<u8>>, mut header: Header, data: &[u8]) -> io::Result<()> {
    header.set_size(u64::try_from(data.len()).map_err(io::Error::other)?);
    header.set_cksum();
    // The sum is stored as seven digits and a NUL. The traditional form is six digits, NUL, space;
    // the first of the seven is always 0, because 512 bytes sum up to less than 8^6.
    let checksum = &mut header.as_old_mut().cksum;
    checksum.rotate_left(1);
    let [.., last] = checksum;
    *last = b' ';
    tar.append(&header, data)
}

/// Lossless: no target has a `usize` of more than 64 bits.
pub(super) fn u64_from(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
