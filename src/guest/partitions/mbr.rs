//! The table in the first sector (UEFI 2.10, 5.2): four partitions, in 32-bit counts of sectors.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::growth::{Draft, Growth, GrowthRequest, aligned_end};
use super::{Form, Kind, Partition, Reading, Refusal, SECTOR_BYTES, SECTOR_LEN, Table};

/// A partition for a whole GPT (UEFI 2.10, 5.2.3).
const PROTECTIVE: u8 = 0xEE;

/// What stands for an end that cylinders, heads and sectors cannot express, as `fdisk` writes it:
/// head 254, sector 63, cylinder 1023.
const CHS_BEYOND: [u8; 3] = [0xFE, 0xFF, 0xFF];

/// The geometry that is assumed wherever there is none, which is everywhere: heads, and sectors a
/// track.
const HEADS: u64 = 255;
const TRACK_SECTORS: u64 = 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    /// 80 where the BIOS boots from it, else 00.
    status: u8,
    first_chs: [u8; 3],
    kind: u8,
    last_chs: [u8; 3],
    first_lba: U32,
    sectors: U32,
}

impl Entry {
    /// Whether it is a partition: of a type, and of at least one sector that is not the table's.
    fn is_used(&self) -> bool {
        self.kind != 0 && self.first_lba.get() != 0 && self.sectors.get() != 0
    }

    fn partition(&self, number: u32) -> Partition {
        Partition {
            number,
            start_bytes: u64::from(self.first_lba.get()).saturating_mul(SECTOR_BYTES),
            len_bytes: u64::from(self.sectors.get()).saturating_mul(SECTOR_BYTES),
            kind: Kind::Mbr(self.kind),
            name: None,
            guid: None,
            attributes: 0,
        }
    }
}

/// The first sector of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Mbr {
    /// Code, or whatever was there before the table.
    code: [u8; 440],
    disk_id: [u8; 4],
    unknown: [u8; 2],
    entries: [Entry; 4],
    signature: [u8; 2],
}

impl Mbr {
    /// Takes a sector apart, whatever it is.
    pub(super) fn parse(sector: &[u8]) -> Option<Mbr> {
        Mbr::read_from_bytes(sector).ok()
    }

    fn has_signature(&self) -> bool {
        self.signature == [0x55, 0xAA]
    }

    fn used(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used())
    }

    /// Whether it stands for a GPT: a kernel looks for one then, whatever else is there.
    pub(super) fn is_protective(&self) -> bool {
        self.has_signature() && self.used().any(|(_, entry)| entry.kind == PROTECTIVE)
    }

    /// What is wrong with it as one that stands for a GPT.
    pub(super) fn protective_refusal(&self) -> Option<Refusal> {
        match (self.used().count(), self.protective()) {
            (_, None) => Some(Refusal::ProtectiveWithoutGpt),
            (1, Some(entry)) if entry.first_lba.get() == 1 => None,
            (1, Some(_)) => {
                Some(Refusal::Damaged("the protective MBR does not begin at its second sector"))
            }
            (_, Some(_)) => Some(Refusal::HybridMbr),
        }
    }

    fn protective(&self) -> Option<&Entry> {
        self.used().map(|(_, entry)| entry).find(|entry| entry.kind == PROTECTIVE)
    }

    /// The last sector of the disk, as a protective MBR has it, where 32 bits could hold it.
    pub(super) fn protected_last_lba(&self) -> Option<u64> {
        let sectors = self.protective()?.sectors.get();
        (sectors != u32::MAX).then_some(u64::from(sectors))
    }

    /// The same for a disk that ends with this sector. All sectors but the first are protected, or
    /// as many as 32 bits count (UEFI 2.10, table 5-4); that number stays where it is there.
    pub(super) fn protecting(&self, last_lba: u64) -> Mbr {
        let mut mbr = *self;
        let entry = mbr.entries.iter_mut().find(|entry| entry.kind == PROTECTIVE);
        if let Some(entry) = entry.filter(|entry| entry.sectors.get() != u32::MAX) {
            entry.sectors = U32::new(u32::try_from(last_lba).unwrap_or(u32::MAX));
        }
        mbr
    }

    /// Whether it is a table and not the boot sector of a file system, which ends with the same
    /// signature and has code where the table would be: as [`identify`](fn@crate::guest::identify)
    /// has it.
    fn is_table(&self) -> bool {
        self.has_signature()
            && self.entries.iter().all(|entry| entry.status == 0 || entry.status == 0x80)
            && self.used().next().is_some()
    }

    /// What of it cannot be meant. The kernel goes by the sectors alone, `fdisk` by the type.
    fn refusal(&self) -> Option<Refusal> {
        let is_half = |entry: &&Entry| entry.sectors.get() != 0 && !entry.is_used();
        if self.entries.iter().find(is_half).is_some() {
            return Some(Refusal::Damaged("a partition of type 0, or one that begins at sector 0"));
        }
        let extended = self.used().find(|(_, entry)| matches!(entry.kind, 0x05 | 0x0F | 0x85));
        extended.map(|(number, _)| Refusal::Extended { number })
    }

    /// The partition `last` made to reach to the end of the disk.
    pub(super) fn grow(
        &self,
        last: &Partition,
        request: &GrowthRequest,
    ) -> Result<Growth, Refusal> {
        let disk_bytes = request.disk_bytes;
        let disk_sectors = disk_bytes.checked_div(SECTOR_BYTES).unwrap_or(0);
        // The last sector has a number of 32 bits.
        if disk_sectors > u64::from(u32::MAX).saturating_add(1) {
            return Err(Refusal::MbrLimit { disk_bytes });
        }
        let mut draft = Draft::of(last);
        let end = aligned_end(last, disk_sectors);
        draft.end_at(end);
        let mut mbr = *self;
        let entry = mbr.entries.iter_mut().zip(1..).find(|(_, number)| *number == last.number);
        if let Some((entry, _)) = entry {
            let sectors = end.saturating_sub(u64::from(entry.first_lba.get()));
            let sectors = u32::try_from(sectors).map_err(|_| Refusal::MbrLimit { disk_bytes })?;
            if sectors != entry.sectors.get() {
                entry.sectors = U32::new(sectors);
                entry.last_chs = last_chs(entry.last_chs, end.saturating_sub(1));
            }
        }
        draft.replace_table(0, Some(self.as_bytes()), mbr.as_bytes());
        Ok(draft.done())
    }

    /// The bytes of the sector.
    pub(super) fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The sector in the old way of counting: as it was where that says nothing, else as `fdisk` has it.
fn last_chs(old: [u8; 3], lba: u64) -> [u8; 3] {
    if matches!(old, [0, 0, 0] | [0xFF, 0xFF, 0xFF] | CHS_BEYOND) {
        return old;
    }
    chs(lba).unwrap_or(CHS_BEYOND)
}

/// Head; sector from 1, below the upper two bits of the cylinder; the rest of the cylinder.
fn chs(lba: u64) -> Option<[u8; 3]> {
    let track = lba.checked_div(TRACK_SECTORS)?;
    let sector = lba.checked_rem(TRACK_SECTORS)?.checked_add(1)?;
    let (cylinder, head) = (track.checked_div(HEADS)?, track.checked_rem(HEADS)?);
    let upper = cylinder.checked_div(256).filter(|upper| *upper < 4)?;
    let middle = upper.checked_mul(64)? | sector;
    let byte = |number: u64| u8::try_from(number).ok();
    Some([byte(head)?, byte(middle)?, byte(cylinder & 0xFF)?])
}

/// The table of an MBR that stands for itself.
pub(super) fn read(mbr: Mbr, disk_bytes: u64) -> Reading {
    if !mbr.is_table() {
        return Reading::Nothing;
    }
    let partitions = mbr.used().map(|(number, entry)| entry.partition(number)).collect();
    let refusal = mbr.refusal();
    let table = Table::new(Form::Mbr(Box::new(mbr)), partitions, disk_bytes, refusal);
    Reading::Table(Box::new(table))
}

const _: () = assert!(size_of::<Mbr>() == SECTOR_LEN);
