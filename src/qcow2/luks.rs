//! What the header of an image that is encrypted with LUKS says: how, and with how many keys. The
//! keys themselves are not touched.
//!
//! Layout: LUKS On-Disk Format Specification 1.2, figures 1 and 2.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::extension::Extension;
use super::header::Header;
use super::lengths::len_of;
use crate::error::Result;
use crate::host::storage::{Storage, read_exact_at};

const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// The only version that QEMU has.
const VERSION: u16 = 1;
/// What a slot says that has a key.
const ENABLED: u32 = 0x00AC_71F3;
/// Offsets are told in sectors of so many bytes.
const SECTOR: u64 = 512;

/// The header as stored.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    magic: [u8; 6],
    version: U16,
    cipher_name: [u8; 32],
    cipher_mode: [u8; 32],
    hash_spec: [u8; 32],
    payload_offset: U32,
    key_bytes: U32,
    master_key_digest: [u8; 20],
    master_key_salt: [u8; 32],
    master_key_iterations: U32,
    uuid: [u8; 40],
    slots: [StoredSlot; 8],
}

/// A place for a key, as stored.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StoredSlot {
    active: U32,
    iterations: U32,
    salt: [u8; 32],
    key_material_offset: U32,
    stripes: U32,
}

const _: () = assert!(size_of::<Stored>() == 592);

/// How the guest's data is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// The cipher, such as `aes`.
    pub cipher: String,
    /// How it is used: its mode, and where the initial vectors are from, such as `xts-plain64`.
    pub cipher_mode: String,
    /// The hash of key derivation, such as `sha256`.
    pub hash: String,
    /// The length of the master key, in bytes.
    pub key_bytes: u32,
    /// Where the guest's data would begin behind this header, in bytes.
    pub payload_offset: u64,
    /// How often the master key's digest was hashed.
    pub master_key_iterations: u32,
    /// The UUID, as text.
    pub uuid: String,
    /// The places for keys, in order.
    pub slots: Vec<LuksSlot>,
}

/// A place for a key that opens the master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuksSlot {
    /// How its key was derived; none where there is no key.
    pub key: Option<LuksKey>,
    /// Where the key material is in the encryption header, in bytes.
    pub offset: u64,
}

/// How a key was derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuksKey {
    /// How often the passphrase was hashed.
    pub iterations: u32,
    /// Into how many stripes the key is split.
    pub stripes: u32,
}

/// Reads the encryption header of an image; `None` where there is none that can be understood.
///
/// # Errors
/// What reading the file says.
pub fn read_luks(storage: &dyn Storage, header: &Header) -> Result<Option<Luks>> {
    let place = header.extensions.iter().find_map(|extension| match extension {
        Extension::Encryption { offset, len } => Some((*offset, *len)),
        _ => None,
    });
    let mut bytes = [0; size_of::<Stored>()];
    let file_len = storage.len()?;
    let wanted = len_of(&bytes);
    match place {
        Some((at, len)) if len >= wanted && at.saturating_add(wanted) <= file_len => {
            read_exact_at(storage, at, &mut bytes)?;
        }
        _ => return Ok(None),
    }
    let stored = Stored::read_from_bytes(&bytes).ok();
    let known = |stored: &Stored| stored.magic == MAGIC && stored.version.get() == VERSION;
    Ok(stored.filter(known).map(|stored| stored.told()))
}

impl Stored {
    fn told(&self) -> Luks {
        Luks {
            cipher: text(&self.cipher_name),
            cipher_mode: text(&self.cipher_mode),
            hash: text(&self.hash_spec),
            key_bytes: self.key_bytes.get(),
            payload_offset: u64::from(self.payload_offset.get()).saturating_mul(SECTOR),
            master_key_iterations: self.master_key_iterations.get(),
            uuid: text(&self.uuid),
            slots: self.slots.iter().map(StoredSlot::told).collect(),
        }
    }
}

impl StoredSlot {
    fn told(&self) -> LuksSlot {
        let key = LuksKey { iterations: self.iterations.get(), stripes: self.stripes.get() };
        LuksSlot {
            key: (self.active.get() == ENABLED).then_some(key),
            offset: u64::from(self.key_material_offset.get()).saturating_mul(SECTOR),
        }
    }
}

/// Text that ends with a zero, or where its place does.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
