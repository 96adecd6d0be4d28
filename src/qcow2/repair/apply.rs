//! Doing a repair: what is new first, counts up before anything refers to it, counts down after
//! nothing refers to it any more.

use super::draft::Change;
use super::plan::{RepairPlan, Source, Transfer};
use crate::error::{Error, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::compress::Codec;
use crate::qcow2::error::FormatError;
use crate::qcow2::feature::Incompatible;
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::header::{Header, Version};
use crate::qcow2::refblock::raise;
use crate::task::Task;

/// What of a change is written when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind everything in use: nothing refers to it yet.
    New,
    /// Counts.
    Block,
    /// The header's first sector.
    Header,
    /// Tables: what refers to clusters.
    Table,
}

impl RepairPlan {
    /// Repairs the image in `storage`, which must be as it was when the plan was made, and locked.
    /// Until the last step the image is marked corrupt, so that an interrupted repair is not
    /// written on; mending it again finishes the work.
    ///
    /// # Errors
    /// What the storage says, after changes; [`Cancelled`](crate::ErrorKind::Cancelled) before any.
    pub fn apply(&self, storage: &dyn Storage, task: Task<'_>) -> Result<()> {
        task.check()?;
        if self.is_empty() {
            return Ok(());
        }
        self.write_in_order(storage).map_err(Error::after_changes)
    }

    fn write_in_order(&self, storage: &dyn Storage) -> Result<()> {
        let (sectors, copies) = (self.changes.len(), self.transfers.len());
        log::info!("plan: {sectors} sectors of metadata change, and {copies} clusters are copied");
        if let Some(marked) = self.marked() {
            // It is on the medium with the next sync: before anything refers to what is new.
            Self::write_header(storage, &marked)?;
        }
        if self.new_len > self.old_len {
            storage.set_len(self.new_len)?;
        }
        self.transfers.iter().try_for_each(|transfer| self.transfer(storage, *transfer))?;
        self.write(storage, Place::New)?;
        self.raise_counts(storage)?;
        match self.counting() {
            Some(counting) => switch_header(storage, &counting)?,
            None => storage.sync()?,
        }
        self.write(storage, Place::Table)?;
        storage.sync()?;
        self.write_last_header(storage)?;
        self.write(storage, Place::Block)?;
        storage.sync()
    }

    fn write_header(storage: &dyn Storage, header: &Header) -> Result<()> {
        let (offset, bytes) = header.encode_switch();
        storage.write_at(offset, &bytes)
    }

    /// The header's first sector as it is to be, with one write: more of it may change than fields.
    fn write_last_header(&self, storage: &dyn Storage) -> Result<()> {
        let changes = self.changes.iter().any(|change| self.place_of(change) == Place::Header);
        match (changes, self.marked()) {
            (true, _) => self.write(storage, Place::Header),
            (false, Some(_)) => Self::write_header(storage, &self.new_header),
            (false, None) => Ok(()),
        }
    }

    fn write(&self, storage: &dyn Storage, place: Place) -> Result<()> {
        let changes = self.changes.iter().filter(|change| self.place_of(change) == place);
        changes.into_iter().try_for_each(|change| storage.write_at(change.offset, &change.new))
    }

    /// Writes the higher one of each old and new count.
    fn raise_counts(&self, storage: &dyn Storage) -> Result<()> {
        for change in self.changes.iter().filter(|change| self.place_of(change) == Place::Block) {
            let counts = self.raised(change);
            if counts != change.old {
                storage.write_at(change.offset, &counts)?;
            }
        }
        Ok(())
    }

    fn raised(&self, change: &Change) -> Vec<u8> {
        let mut counts = change.new.clone();
        raise(&mut counts, &change.old, self.old_header.geometry.refcount_order().bits());
        counts
    }

    /// Whether nothing but counts changes, so that at each point nothing is wrong but those.
    pub(in crate::qcow2) fn changes_only_counts(&self) -> bool {
        self.changes.iter().all(|change| self.place_of(change) == Place::Block)
    }

    /// The header while the work is under way: nobody may write by it.
    fn marked(&self) -> Option<Header> {
        let only_counts = self.changes_only_counts();
        let can_say_so = self.old_header.version == Version::V3;
        let incompatible = self.old_header.incompatible.with_if(true, Incompatible::CORRUPT);
        (!only_counts && can_say_so).then(|| Header { incompatible, ..self.old_header.clone() })
    }

    /// The header once the new refcount table counts, before anything that it counts is referred
    /// to.
    fn counting(&self) -> Option<Header> {
        let refcount_table = self.new_header.refcount_table;
        let before = self.marked().unwrap_or_else(|| self.old_header.clone());
        self.moves_refcount_table().then_some(Header { refcount_table, ..before })
    }

    /// What is written in the place of a change before the last step, in turn, if it is something
    /// else than in the end.
    pub(super) fn between(&self, change: &Change, place: Place) -> Vec<Vec<u8>> {
        let sector = |header: Header| {
            let (offset, bytes) = header.encode_switch();
            let mut sector = change.old.clone();
            let start = usize::try_from(offset).ok()?;
            sector.get_mut(start..)?.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            Some(sector)
        };
        match place {
            Place::Block => vec![self.raised(change)],
            Place::Header => {
                let headers = [self.marked(), self.counting()].into_iter().flatten();
                headers.filter_map(sector).collect()
            }
            Place::New | Place::Table => Vec::new(),
        }
    }

    pub(super) fn place_of(&self, change: &Change) -> Place {
        let geometry = self.old_header.geometry;
        let cluster = geometry.host_cluster(HostOffset::new(change.offset));
        if cluster >= self.new_from {
            Place::New
        } else if change.offset == 0 {
            Place::Header
        } else if self.blocks.contains(&geometry.host_offset(cluster)) {
            Place::Block
        } else {
            Place::Table
        }
    }

    fn transfer(&self, storage: &dyn Storage, transfer: Transfer) -> Result<()> {
        let cluster = self.transferred(storage, transfer)?;
        storage.write_at(transfer.to.get(), &cluster)
    }

    /// What a new cluster is to hold.
    pub(super) fn transferred(&self, storage: &dyn Storage, transfer: Transfer) -> Result<Vec<u8>> {
        let geometry = self.old_header.geometry;
        let mut cluster = vec![0; geometry.cluster_len()];
        match transfer.from {
            Source::Cluster(offset) => read_padded_at(storage, offset.get(), &mut cluster)?,
            Source::Compressed { offset, len } => {
                let codec = Codec::new(self.old_header.compression, geometry.cluster_len());
                let mut unpacker = codec.unpacker();
                unpacker.packed = vec![0; usize::try_from(len).unwrap_or_default()];
                read_padded_at(storage, offset.get(), &mut unpacker.packed)?;
                unpacker.unpack(&mut cluster).map_err(FormatError::into_error)?;
            }
        }
        Ok(cluster)
    }
}
