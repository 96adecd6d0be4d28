//! An open image: its storage, its header, its L1 table, and what lies below it.

use std::sync::Mutex;

use super::entry::L1Entry;
use super::geometry::{ENTRY_SIZE, HostOffset};
use super::header::{Encryption, Header};
use super::table::{L2Table, read_l1};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};

/// What lies below an image: unallocated clusters show it.
pub type Backing = Box<dyn BlockDevice + Send + Sync>;

/// A qcow2 image whose guest data can be read.
pub struct Qcow2 {
    pub(super) storage: Box<dyn Storage>,
    pub(super) header: Header,
    pub(super) backing: Option<Backing>,
    /// The L2 table used last, by its host offset.
    pub(super) recent_table: Mutex<Option<(HostOffset, L2Table)>>,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Opens the image in `storage`, whose header was read before, above `backing`. Memory:
    /// one L2 table, once something is read.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for encrypted images and external
    /// data files.
    pub fn open(
        storage: Box<dyn Storage>,
        header: Header,
        backing: Option<Backing>,
    ) -> Result<Qcow2> {
        refuse_unreadable(&header)?;
        Ok(Qcow2 { storage, header, backing, recent_table: Mutex::new(None) })
    }

    /// The active L1 table, whole.
    pub(super) fn l1(&self) -> Result<Vec<L1Entry>> {
        read_l1(&*self.storage, &self.header)
    }

    /// One entry of the active L1 table, empty beyond it: a chain of images need not keep their
    /// tables in memory.
    pub(super) fn l1_entry(&self, index: u64) -> Result<L1Entry> {
        if index >= u64::from(self.header.l1.count) {
            return Ok(L1Entry::EMPTY);
        }
        let mut word = [0; 8];
        let offset = self.header.l1.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE));
        read_padded_at(&*self.storage, offset.get(), &mut word)?;
        Ok(L1Entry::from_word(u64::from_be_bytes(word)))
    }

    /// The header as it was when the image was opened.
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// What this version cannot read at all.
fn refuse_unreadable(header: &Header) -> Result<()> {
    let unsupported = |what: &str| Err(Error::new(ErrorKind::UnsupportedFeature, what));
    match header.encryption {
        Encryption::None => {}
        Encryption::Aes => return unsupported("the image is encrypted (AES)"),
        Encryption::Luks => return unsupported("the image is encrypted (LUKS)"),
    }
    if header.has_external_data() {
        return unsupported("the image keeps its data in an external data file");
    }
    Ok(())
}
