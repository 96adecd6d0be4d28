//! The last partition made to reach to the end of the disk, as bytes to be written.

use super::{Form, Known, Note, Partition, Refusal, SECTOR_BYTES, SECTOR_LEN, Table};
use crate::guest::edit::{Content, Edits, Stage};

/// Partitions end at a multiple of so many sectors, 1 MiB, as `fdisk` and `sgdisk` have it since
/// 2021. So the length is one of 4 KiB too, and asking for the same size again changes nothing.
const ALIGNMENT_SECTORS: u64 = 2048;

/// What is to grow, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrowthRequest {
    /// The number of the partition: it must be the last on the disk.
    pub partition: u32,
    /// The size that the disk is going to have, or has already, in bytes.
    pub disk_bytes: u64,
    /// Whether a damaged GPT at the start of the disk may be made anew from its backup.
    pub restore: bool,
}

/// How the table changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The number of the partition that grows.
    pub partition: u32,
    /// Where it begins, in bytes from the beginning of the disk.
    pub start_bytes: u64,
    /// The length that it has.
    pub old_len_bytes: u64,
    /// The length that it is going to have. It may be the same: there may be less than 1 MiB to gain.
    pub new_len_bytes: u64,
    /// What is mended on the way.
    pub note: Option<Note>,
    /// What is to be written: nothing, where the table is as it should be already.
    pub edits: Edits,
}

impl Table {
    /// Plans to make a partition reach to the end of a disk of a new size. Of a GPT, the backup
    /// moves to the new end; the old one stays where it is, now inside of the partition, where
    /// nothing looks for it.
    ///
    /// # Errors
    /// Why that may not be done.
    pub fn growth(&self, request: &GrowthRequest) -> Result<Growth, Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        if request.disk_bytes < self.disk_bytes {
            let (disk_bytes, wanted_bytes) = (self.disk_bytes, request.disk_bytes);
            return Err(Refusal::SmallerDisk { disk_bytes, wanted_bytes });
        }
        let last = self.growing(request.partition)?;
        match &self.form {
            Form::Mbr(mbr) => mbr.grow(last, request),
            Form::Gpt(gpt) => gpt.grow(last, request),
        }
    }

    /// The partition of this number, if it is one that can grow.
    fn growing(&self, number: u32) -> Result<&Partition, Refusal> {
        let last = self.last().ok_or(Refusal::NoPartition)?;
        let wanted = self.partition(number).ok_or(Refusal::NoSuchPartition { number })?;
        if wanted.number != last.number {
            return Err(Refusal::NotLast { number, last: last.number });
        }
        match wanted.kind.known() {
            Some(Known::LinuxLvm) => Err(Refusal::Lvm { number }),
            Some(Known::LinuxLuks) => Err(Refusal::Luks { number }),
            Some(Known::LinuxRaid) => Err(Refusal::Raid { number }),
            _ => Ok(wanted),
        }
    }
}

/// The sector behind the last one of a partition that grows into room that ends at `limit`.
pub(super) fn aligned_end(partition: &Partition, limit: u64) -> u64 {
    let end = partition.end_bytes().checked_div(SECTOR_BYTES).unwrap_or(0);
    let over = limit.checked_rem(ALIGNMENT_SECTORS).unwrap_or(0);
    end.max(limit.saturating_sub(over))
}

/// A growth in the making.
pub(super) struct Draft(Growth);

impl Draft {
    pub(super) fn of(partition: &Partition) -> Draft {
        Draft(Growth {
            partition: partition.number,
            start_bytes: partition.start_bytes,
            old_len_bytes: partition.len_bytes,
            new_len_bytes: partition.len_bytes,
            note: None,
            edits: Edits::new(),
        })
    }

    /// The partition is going to end before this sector.
    pub(super) fn end_at(&mut self, end_lba: u64) {
        let end = end_lba.saturating_mul(SECTOR_BYTES);
        self.0.new_len_bytes = end.saturating_sub(self.0.start_bytes);
    }

    pub(super) fn note(&mut self, note: Option<Note>) {
        self.0.note = note;
    }

    /// What of the table is to be `new` from this sector on, where it is known to be `old`: the
    /// sectors from the first that changes to the last.
    pub(super) fn replace_table(&mut self, lba: u64, old: Option<&[u8]>, new: &[u8]) {
        self.replace(Stage::Partitions, lba, old, new);
    }

    /// The same, in another stage.
    pub(super) fn replace(&mut self, stage: Stage, lba: u64, old: Option<&[u8]>, new: &[u8]) {
        let sectors = new.chunks(SECTOR_LEN);
        let mut before = old.unwrap_or_default().chunks(SECTOR_LEN);
        let changed: Vec<bool> = sectors.map(|sector| before.next() != Some(sector)).collect();
        let same = changed.iter().take_while(|changed| !**changed).count();
        let kept = changed.iter().rev().take_while(|changed| !**changed).count();
        let range = same..changed.len().saturating_sub(kept);
        let bytes =
            new.chunks(SECTOR_LEN).skip(range.start).take(range.len()).flatten().copied().collect();
        let skipped = u64::try_from(same).unwrap_or(u64::MAX);
        let offset = lba.saturating_add(skipped).saturating_mul(SECTOR_BYTES);
        self.0.edits.push(stage, offset, Content::Bytes(bytes));
    }

    pub(super) fn done(self) -> Growth {
        self.0
    }
}
