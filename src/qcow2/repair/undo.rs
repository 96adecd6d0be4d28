//! Taking a repair back: the sectors that it changed get their old bytes, if nobody has written
//! there since.

use sha2::{Digest, Sha256};

use super::apply::Place;
use super::draft::Change;
use super::plan::RepairPlan;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};

const SECTOR: usize = 512;

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
    /// What was written behind the old end.
    pub added: Vec<Added>,
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

/// Bytes that a repair wrote behind the old end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
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
        };
        if self.changes.first().is_some_and(|change| change.offset > 0) {
            record.changed.extend(self.marked_header(storage)?);
        }
        for change in &self.changes {
            match self.place_of(change) {
                Place::New if change.offset >= self.old_len => {
                    record.added.push(Added::of(change.offset, &change.new))
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
                record.added.push(Added::of(offset, &new));
                continue;
            }
            // A block device, which cannot be cut to take it back.
            let mut old = vec![0; new.len()];
            read_padded_at(storage, offset, &mut old)?;
            record.changed.push(Replaced { offset, old, between: Vec::new(), new });
        }
        Ok(record)
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

impl Added {
    fn of(offset: u64, bytes: &[u8]) -> Added {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Added { offset, len, hash: Sha256::digest(bytes).into() }
    }
}

impl UndoRecord {
    /// Takes the repair back: the image in `storage`, which must be locked, is afterwards byte for
    /// byte what it was. Safe to repeat after an interruption. Returns whether anything was left
    /// to be done.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) before any change where the file differs from what the
    /// repair left: somebody has written to it since.
    pub fn undo(&self, storage: &dyn Storage) -> Result<bool> {
        self.require_sense()?;
        let len = storage.len()?;
        let (mut begun, mut undone) = (false, len == self.old_len);
        for change in &self.changed {
            let mut now = vec![0; change.new.len()];
            read_padded_at(storage, change.offset, &mut now)?;
            change.require_own(&now)?;
            begun |= change.has_begun(&now);
            undone &= now == change.old_padded();
        }
        if undone {
            return Ok(false);
        }
        // What is new was on the medium before anything referred to it. A file that is longer has
        // grown since, whatever its counts say.
        if len > self.new_len || begun && len < self.new_len {
            return Err(changed_since(self.new_len));
        }
        if begun {
            self.added.iter().try_for_each(|added| added.require_own(storage))?;
        }
        self.put_back(storage).map_err(Error::after_changes)?;
        Ok(true)
    }

    /// What a repair leaves makes sense; what somebody else has written need not.
    fn require_sense(&self) -> Result<()> {
        let inside = |offset: u64, len: u64, end: u64| {
            offset.checked_add(len).is_some_and(|behind| behind <= end)
        };
        let len = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let sense = self.old_len <= self.new_len
            && self.changed.iter().all(|change| {
                change.old.len() <= change.new.len()
                    && inside(change.offset, len(&change.old), self.old_len)
                    && inside(change.offset, len(&change.new), self.new_len)
            })
            && self.added.iter().all(|added| inside(added.offset, added.len, self.new_len));
        let message = "the record of the repair contradicts itself";
        if sense { Ok(()) } else { Err(Error::new(ErrorKind::BadRequest, message)) }
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

impl Replaced {
    fn old_padded(&self) -> Vec<u8> {
        let mut old = self.old.clone();
        old.resize(self.new.len(), 0);
        old
    }

    /// Whether a sector is as it is in the end alone.
    fn has_begun(&self, now: &[u8]) -> bool {
        let old = self.old_padded();
        (0usize..).zip(now.chunks(SECTOR)).any(|(index, sector)| {
            let is = |state: &Vec<u8>| state.chunks(SECTOR).nth(index) == Some(sector);
            is(&self.new) && !is(&old) && !self.between.iter().any(is)
        })
    }

    /// Every sector must be as it was at some point of the repair.
    fn require_own(&self, now: &[u8]) -> Result<()> {
        let old = self.old_padded();
        let states = || [&old, &self.new].into_iter().chain(&self.between);
        for (index, sector) in (0usize..).zip(now.chunks(SECTOR)) {
            let known = states().any(|state| state.chunks(SECTOR).nth(index) == Some(sector));
            if !known {
                let within = u64::try_from(index.saturating_mul(SECTOR)).unwrap_or(u64::MAX);
                return Err(changed_since(self.offset.saturating_add(within)));
            }
        }
        Ok(())
    }
}

impl Added {
    fn require_own(&self, storage: &dyn Storage) -> Result<()> {
        let mut now = vec![0; usize::try_from(self.len).unwrap_or_default()];
        read_padded_at(storage, self.offset, &mut now)?;
        let hash: Hash = Sha256::digest(&now).into();
        if hash == self.hash { Ok(()) } else { Err(changed_since(self.offset)) }
    }
}

fn changed_since(offset: u64) -> Error {
    let message = "the image was written to since the repair, which cannot be taken back any more";
    Error::new(ErrorKind::Corrupt, message).at_offset(offset)
}
