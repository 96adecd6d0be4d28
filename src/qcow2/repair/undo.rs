//! Taking a repair back: the sectors that it changed get their old bytes, if nobody has written
//! there since.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::apply::Place;
use super::draft::Change;
use super::plan::{RepairPlan, Source};
use crate::error::{Error, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::task::Task;

pub(super) const SECTOR: usize = 1 << SECTOR_BITS;
const SECTOR_BITS: u32 = 9;
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
    /// What was copied: it must not have changed since. Both owners would see what one has written
    /// to it, or it is something else by now.
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
                Place::New => {
                    let (old, new) = (change.old.clone(), change.new.clone());
                    record.changed.push(Replaced::behind_use(change.offset, old, new));
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
            record.changed.push(Replaced::behind_use(offset, old, new));
        }
        record.added.sort_by_key(|added| added.offset);
        record.changed.sort_by_key(|changed| changed.offset);
        record.require_sense()?;
        Ok(record)
    }

    /// What is copied from, but for the sectors that the repair changes.
    fn copied(&self, storage: &dyn Storage) -> Result<Vec<Hashed>> {
        let sector = 1u64 << SECTOR_BITS;
        let sectors = |from: u64, to: u64| from >> SECTOR_BITS..to.div_ceil(sector);
        let changed = self.changes.iter().flat_map(|change| sectors(change.offset, change.end()));
        let changed: BTreeSet<u64> = changed.collect();
        let mut copied = Vec::new();
        for (offset, len) in self.sources() {
            let end = offset.saturating_add(len).min(self.new_len);
            let kept = sectors(offset, end).filter(|at| !changed.contains(at));
            for at in kept.map(|at| at.saturating_mul(sector)) {
                let end = at.saturating_add(sector).min(self.new_len);
                let mut bytes =
                    vec![0; usize::try_from(end.saturating_sub(at)).unwrap_or_default()];
                read_padded_at(storage, at, &mut bytes)?;
                copied.push(Hashed::of(at, &bytes));
            }
        }
        Ok(copied)
    }

    /// What is copied, or not referred to any more: where, and how many bytes.
    fn sources(&self) -> Vec<(u64, u64)> {
        let cluster = self.old_header.geometry.cluster_size();
        let transfers = self.transfers.iter().map(|transfer| match transfer.from {
            Source::Cluster(offset) => (offset.get(), cluster),
            Source::Compressed { offset, len } => (offset.get(), len),
        });
        let tables = self.copied_tables.iter().map(|table| (table.get(), cluster));
        let table = self.old_header.refcount_table;
        let len = u64::from(table.count).saturating_mul(cluster);
        let table = self.moves_refcount_table().then_some((table.offset.get(), len));
        transfers.chain(tables).chain(table).collect()
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

impl Replaced {
    /// What lies behind everything in use: it gets its old bytes back with the counts, when nothing
    /// refers to it any more.
    fn behind_use(offset: u64, old: Vec<u8>, new: Vec<u8>) -> Replaced {
        Replaced { offset, old, between: vec![new.clone()], new }
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
    /// Takes the repair back: what it changed in the image in `storage`, which must be locked, is
    /// byte for byte what it was. Guest data that was written in place since stays. Safe to repeat
    /// after an interruption. Returns whether anything was left to be done.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) before any change where somebody has written since to
    /// what the repair changed, added or copied; [`BadRequest`](crate::ErrorKind::BadRequest) for a
    /// record that no repair makes; [`Cancelled`](crate::ErrorKind::Cancelled) before any change.
    pub fn undo(&self, storage: &dyn Storage, task: Task<'_>) -> Result<bool> {
        if self.is_taken_back(storage, task)? {
            return Ok(false);
        }
        self.put_back(storage).map_err(Error::after_changes)?;
        Ok(true)
    }

    /// In the order of the repair: counts go up before anything refers to it, and down after
    /// nothing does any more. The header comes last: an image that can be marked is marked until
    /// then.
    fn put_back(&self, storage: &dyn Storage) -> Result<()> {
        let on_the_way = self.changed.iter().filter_map(|c| Some((c.offset, c.between.last()?)));
        for (offset, between) in on_the_way {
            storage.write_at(offset, between)?;
        }
        storage.sync()?;
        let tables = |change: &&Replaced| change.offset > 0 && change.between.is_empty();
        for table in self.changed.iter().filter(tables) {
            storage.write_at(table.offset, &table.old)?;
        }
        storage.sync()?;
        for change in self.changed.iter().filter(|change| !tables(change)) {
            storage.write_at(change.offset, &change.old)?;
        }
        storage.sync()?;
        if storage.len()? != self.old_len {
            storage.set_len(self.old_len)?;
            storage.sync()?;
        }
        Ok(())
    }
}
