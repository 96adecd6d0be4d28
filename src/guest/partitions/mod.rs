//! Partition tables: what they say, and the bytes that make the last partition reach to the end of
//! a disk that grew.
//!
//! Nothing is written here, and nothing is planned from a table that contradicts itself. Numbers,
//! names, GUIDs and everything else that a guest may know a partition by stay as they are, which
//! is why only the last partition can grow: none ever moves. The last is the one that ends last on
//! the disk, whatever its number: boot2docker makes its data partition 1 behind the swap
//! partition 2.
//!
//! Left out on purpose: making tables, logical partitions, and sectors of another size than 512
//! bytes, which no disk of a local machine has.

#[cfg(any(test, fuzzing))]
pub(in crate::guest) mod fuzz_tests;
mod gpt;
mod growth;
mod kind;
mod mbr;
mod refusal;
#[cfg(test)]
mod tests;

pub use growth::{Growth, GrowthRequest};
pub use kind::{Guid, Kind, Known};
pub use refusal::{Note, Refusal};

use super::PartitionTableKind;
use crate::block::BlockDevice;
use crate::error::Result;

/// The size of a sector, in bytes.
const SECTOR_BYTES: u64 = 512;

/// The same, for buffers.
const SECTOR_LEN: usize = 512;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1: the place of its entry in the table, which is not its place on the disk.
    pub number: u32,
    /// Where it begins, in bytes from the beginning of the disk.
    pub start_bytes: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// What it is said to be for.
    pub kind: Kind,
    /// Its name, of a GPT where it has one.
    pub name: Option<String>,
    /// What it is told from all others by, of a GPT.
    pub guid: Option<Guid>,
    /// The flags of a GPT (UEFI 2.10, table 5-8), 0 of an MBR.
    pub attributes: u64,
}

impl Partition {
    /// The byte behind its last one.
    pub fn end_bytes(&self) -> u64 {
        self.start_bytes.saturating_add(self.len_bytes)
    }
}

/// What a disk has in the way of a partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// None.
    Nothing,
    /// One that can be read. It may still be one that must not be changed: see [`Table::refusal`].
    Table(Box<Table>),
    /// One that cannot be believed.
    Refused(Refusal),
}

/// A partition table that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// In the order of their numbers.
    partitions: Vec<Partition>,
    disk_bytes: u64,
    refusal: Option<Refusal>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Mbr(Box<mbr::Mbr>),
    Gpt(Box<gpt::Gpt>),
}

impl Table {
    /// Reads the partition table of a disk: nothing beyond its end, and at most two GPTs of 4 MiB.
    ///
    /// # Errors
    /// Whatever reading the device says. What is wrong with the table is no error.
    pub fn read(device: &dyn BlockDevice) -> Result<Reading> {
        let Some(sector) = read_sectors(device, 0, 1)? else { return Ok(Reading::Nothing) };
        let Some(mbr) = mbr::Mbr::parse(&sector) else { return Ok(Reading::Nothing) };
        if mbr.is_protective() {
            gpt::read(device, mbr)
        } else if gpt::has_mark(device)? {
            // What the guest makes of that depends on the guest.
            Ok(Reading::Refused(Refusal::UnannouncedGpt))
        } else {
            Ok(mbr::read(mbr, device.size()))
        }
    }

    /// What is read from `form`, and why it may not be changed: for `refusal`, or for what is found
    /// out here.
    fn new(
        form: Form,
        partitions: Vec<Partition>,
        disk_bytes: u64,
        refusal: Option<Refusal>,
    ) -> Table {
        let refusal =
            refusal.or_else(|| beyond(&partitions, disk_bytes)).or_else(|| overlap(&partitions));
        Table { partitions, disk_bytes, refusal, form }
    }

    /// What kind of table it is.
    pub fn kind(&self) -> PartitionTableKind {
        match self.form {
            Form::Mbr(_) => PartitionTableKind::Mbr,
            Form::Gpt(_) => PartitionTableKind::Gpt,
        }
    }

    /// The size of a sector, in bytes.
    pub const fn sector_bytes(&self) -> u64 {
        SECTOR_BYTES
    }

    /// Its partitions, in the order of their numbers.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition of this number.
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// The partition that ends last on the disk: the one that can grow.
    pub fn last(&self) -> Option<&Partition> {
        self.partitions.iter().max_by_key(|partition| partition.end_bytes())
    }

    /// Why the table may not be changed, whatever the change.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// What is unusual about it.
    pub fn note(&self) -> Option<Note> {
        match &self.form {
            Form::Mbr(_) => None,
            Form::Gpt(gpt) => gpt.note(),
        }
    }
}

/// A partition that ends behind the disk.
fn beyond(partitions: &[Partition], disk_bytes: u64) -> Option<Refusal> {
    let beyond = partitions.iter().find(|partition| partition.end_bytes() > disk_bytes)?;
    let (number, end_bytes) = (beyond.number, beyond.end_bytes());
    Some(Refusal::BeyondDisk { number, end_bytes, disk_bytes })
}

/// Two partitions that share sectors.
fn overlap(partitions: &[Partition]) -> Option<Refusal> {
    let mut sorted: Vec<_> = partitions.iter().collect();
    sorted.sort_by_key(|partition| (partition.start_bytes, partition.number));
    let pairs = sorted.iter().zip(sorted.iter().skip(1));
    let mut pairs = pairs.filter(|(first, second)| first.end_bytes() > second.start_bytes);
    let (first, second) = pairs.next()?;
    Some(Refusal::Overlap { first: first.number, second: second.number })
}

/// So many sectors from this one, if the disk has them.
fn read_sectors(device: &dyn BlockDevice, first: u64, count: u64) -> Result<Option<Vec<u8>>> {
    let end = first.checked_add(count).and_then(|end| end.checked_mul(SECTOR_BYTES));
    let len = count.checked_mul(SECTOR_BYTES).and_then(|len| usize::try_from(len).ok());
    let (Some(end), Some(len)) = (end, len) else { return Ok(None) };
    if end > device.size() {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    device.read_at(first.saturating_mul(SECTOR_BYTES), &mut bytes)?;
    Ok(Some(bytes))
}
