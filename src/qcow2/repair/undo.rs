//! Taking a repair back: the sectors that it changed get their old bytes, if nobody has written
//! there since.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::apply::Place;
use super::draft::Change;
use super::plan::{RepairPlan, Source};
use crate::error::{Error, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::geometry::HostOffset;
use crate::task::Task;

pub(super) const SECTOR: usize = 512;
/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// What is needed to take a repair back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoRecord {
    /// The length of the file before the repair, in bytes.
    pub old_len: u64,
    /// The length of the file afterwards, in bytes.
    pub new_len: u64,
    /// What was changed in place, ascending.
    pub changed: Vec<Replaced>,
    /// The sectors that were written behind the old end, ascending; what lies between is zeros.
    pub added: Vec<Hashed>,
    /// What had two owners and was copied: it must not have changed since, for both would see it.
    pub copied: Vec<Hashed>,
}

/// Bytes that a repair replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Where, in bytes from the beginning of the file.
    pub offset: u64,
    /// What was there.
    pub old: Vec<u8>,
    /// What the repair wrote there on its way, in turn, where that was something else than in the
    /// end.
    pub between: Vec<Vec<u8>>,
    /// What the repair wrote there.
    pub new: Vec<u8>,
}

/// Bytes of the file that are known by their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// Where, in bytes from the beginning of the file.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// Their hash.
    pub hash: Hash,
}

impl RepairPlan {
    /// What will be needed to take this repair of the image in `storage` back. To be on the medium
    /// before [`apply`](Self::apply) writes.
    ///
    /// # Errors
    /// What the storage says.
    pub fn undo_record(&self, storage: &dyn Storage) -> Result<UndoRecord> {
        let mut record = UndoRecord {
            old_len: self.old_len,
            new_len: self.new_len,
            changed: Vec::new(),
            added: Vec::new(),
            copied: self.copied(storage)?,
        };
        if self.changes.first().is_some_and(|change| change.offset > 0) {
            record.changed.extend(self.marked_header(storage)?);
        }
        for change in &self.changes {
            match self.place_of(change) {
                Place::New if change.offset >= self.old_len => {
                    record.added.extend(sectors(change.offset, &change.new));
                }
                place => record.changed.push(Replaced {
                    offset: change.offset,
                    old: change.old.clone(),
                    between: self.between(change, place),
                    new: change.new.clone(),
                }),
            }
        }
        for transfer in &self.transfers {
            let (offset, new) = (transfer.to.get(), self.transferred(storage, *transfer)?);
            if offset >= self.old_len {
                record.added.extend(sectors(offset, &new));
                continue;
            }
            // A block device, which cannot be cut to take it back.
            let mut old = vec![0; new.len()];
            read_padded_at(storage, offset, &mut old)?;
            record.changed.push(Replaced { offset, old, between: Vec::new(), new });
        }
        record.added.sort_by_key(|added| added.offset);
        Ok(record)
    }

    /// What clusters are copied from, but for those that the repair changes.
    fn copied(&self, storage: &dyn Storage) -> Result<Vec<Hashed>> {
        let geometry = self.old_header.geometry;
        let cluster = |offset| geometry.host_cluster(HostOffset::new(offset));
        let changed: BTreeSet<_> = self.changes.iter().map(|c| cluster(c.offset)).collect();
        let mut copied = Vec::new();
        for transfer in &self.transfers {
            let (offset, len) = match transfer.from {
                Source::Cluster(offset) => (offset.get(), geometry.cluster_size()),
                Source::Compressed { offset, len } => (offset.get(), len),
            };
            let last = cluster(offset.saturating_add(len).saturating_sub(1));
            if changed.range(cluster(offset)..=last).next().is_none() {
                let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
                read_padded_at(storage, offset, &mut bytes)?;
                copied.push(Hashed::of(offset, &bytes));
            }
        }
        Ok(copied)
    }

    /// The header's first sector, where the repair changes it on its way alone.
    fn marked_header(&self, storage: &dyn Storage) -> Result<Option<Replaced>> {
        let mut sector = vec![0; SECTOR];
        read_padded_at(storage, 0, &mut sector)?;
        let change = Change { offset: 0, old: sector.clone(), new: sector };
        let between = self.between(&change, Place::Header);
        let Change { offset, old, new } = change;
        Ok((!between.is_empty()).then_some(Replaced { offset, old, between, new }))
    }
}

impl Hashed {
    fn of(offset: u64, bytes: &[u8]) -> Hashed {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Hashed { offset, len, hash: Sha256::digest(bytes).into() }
    }
}

/// Every sector by its hash.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = Hashed> {
    let at = (offset..).step_by(SECTOR);
    at.zip(bytes.chunks(SECTOR)).map(|(at, sector)| Hashed::of(at, sector))
}

impl UndoRecord {
    /// Takes the repair back: the image in `storage`, which must be locked, is afterwards byte for
    /// byte what it was. Safe to repeat after an interruption. Returns whether anything was left
    /// to be done.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) before any change where the file differs from what the
    /// repair left: somebody has written to it since; [`BadRequest`](crate::ErrorKind::BadRequest) for a
    /// record that no repair makes; [`Cancelled`](crate::ErrorKind::Cancelled) before any change.
    pub fn undo(&self, storage: &dyn Storage, task: Task<'_>) -> Result<bool> {
        if self.is_taken_back(storage, task)? {
            return Ok(false);
        }
        self.put_back(storage).map_err(Error::after_changes)?;
        Ok(true)
    }

    fn put_back(&self, storage: &dyn Storage) -> Result<()> {
        // The header comes last: until then the image is marked, so that nobody writes to it.
        let (header, others) = match self.changed.split_first() {
            Some((first, others)) if first.offset == 0 => (Some(first), others),
            _ => (None, &*self.changed),
        };
        if let Some(marked) = header.and_then(|header| header.between.last()) {
            storage.write_at(0, marked)?;
            storage.sync()?;
        }
        for change in others {
            storage.write_at(change.offset, &change.old)?;
        }
        storage.sync()?;
        if let Some(header) = header {
            storage.write_at(0, &header.old)?;
            storage.sync()?;
        }
        if storage.len()? != self.old_len {
            storage.set_len(self.old_len)?;
            storage.sync()?;
        }
        Ok(())
    }
}
