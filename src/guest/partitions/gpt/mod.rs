//! GUID partition tables (UEFI 2.10, 5.3): two copies, of which the first counts as long as it is
//! sound, and the second is wherever the first says. That is the end of the disk, or where that
//! was before the disk grew.

mod copy;
mod grow;

use copy::{Copy, Fault, PRIMARY_LBA, SIGNATURE};

use super::mbr::Mbr;
use super::{Form, Note, Partition, Reading, Refusal, SECTOR_BYTES, Table};
use crate::block::BlockDevice;
use crate::error::Result;

/// A table of which at least one copy is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gpt {
    mbr: Mbr,
    /// The copy that counts.
    table: Copy,
    primary: Result<(), Fault>,
    backup: Backup,
    /// Where the entries of the primary are, or are to be.
    primary_entries_lba: u64,
    /// Behind this sector and all above there is nothing that the table speaks of.
    reach_lba: u64,
}

/// What became of the second copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Backup {
    /// It says the same as the first.
    Same(Box<Copy>),
    /// It is sound, and says something else.
    Differs,
    Damaged,
}

impl Gpt {
    pub(super) fn note(&self) -> Option<Note> {
        match (self.primary, &self.backup) {
            (Err(_), _) => Some(Note::PrimaryDamaged),
            (Ok(()), Backup::Damaged) => Some(Note::BackupDamaged),
            (Ok(()), Backup::Differs) => Some(Note::BackupDiffers),
            (Ok(()), Backup::Same(_)) => None,
        }
    }
}

/// Whether the mark of a GPT is where one begins, in sectors of 512 or 4096 bytes, or where its
/// backup ends.
pub(super) fn has_mark(device: &dyn BlockDevice) -> Result<bool> {
    let sectors = device.size().checked_div(SECTOR_BYTES).unwrap_or(0);
    let last = sectors.saturating_sub(1).saturating_mul(SECTOR_BYTES);
    for offset in [SECTOR_BYTES, LARGE_SECTOR_BYTES, last] {
        if has_mark_at(device, offset)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The other size that sectors have anywhere.
const LARGE_SECTOR_BYTES: u64 = 4096;

fn has_mark_at(device: &dyn BlockDevice, offset: u64) -> Result<bool> {
    let room = device.size().saturating_sub(offset);
    let mut mark = [0; SIGNATURE.len()];
    let fits = usize::try_from(room).is_ok_and(|room| room >= mark.len());
    if fits {
        device.read_at(offset, &mut mark)?;
    }
    Ok(mark == *SIGNATURE)
}

/// Reads the GPT that the MBR stands for.
pub(super) fn read(device: &dyn BlockDevice, mbr: Mbr) -> Result<Reading> {
    let found = match Copy::read(device, PRIMARY_LBA)? {
        Ok(primary) => Ok(by_primary(device, mbr, primary)?),
        Err(fault) => by_backup(device, mbr, fault)?,
    };
    let gpt = match found {
        Ok(gpt) => gpt,
        Err(fault) => return unreadable(device, fault).map(Reading::Refused),
    };
    let Some(partitions) = gpt.table.partitions() else {
        return Ok(Reading::Refused(Refusal::Damaged("a partition ends before it begins")));
    };
    let refusal = gpt.refusal(&partitions, device.size());
    let table = Table::new(Form::Gpt(Box::new(gpt)), partitions, device.size(), refusal);
    Ok(Reading::Table(Box::new(table)))
}

fn by_primary(device: &dyn BlockDevice, mbr: Mbr, primary: Copy) -> Result<Gpt> {
    let place = primary.header.place();
    let backup = match Copy::read(device, place.alternate_lba)? {
        Ok(backup) if backup.agrees_with(&primary) => Backup::Same(Box::new(backup)),
        Ok(_) => Backup::Differs,
        Err(_) => Backup::Damaged,
    };
    Ok(Gpt {
        mbr,
        primary: Ok(()),
        backup,
        primary_entries_lba: place.entries_lba,
        reach_lba: place.alternate_lba,
        table: primary,
    })
}

/// Goes by the backup at the end of the disk; or where the end was before the disk grew, as the MBR
/// or what is left of the primary has it. Whether there is one is seen by its checksums.
fn by_backup(device: &dyn BlockDevice, mbr: Mbr, fault: Fault) -> Result<Result<Gpt, Fault>> {
    let disk_sectors = device.size().checked_div(SECTOR_BYTES).unwrap_or(0);
    let hint = super::read_sectors(device, PRIMARY_LBA, 1)?.and_then(|sector| {
        // UEFI 2.10, table 5-5: AlternateLBA.
        sector.get(32..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    });
    let candidates = [disk_sectors.checked_sub(1), mbr.protected_last_lba(), hint];
    for lba in candidates.into_iter().flatten().filter(|lba| *lba > PRIMARY_LBA) {
        let Ok(backup) = Copy::read(device, lba)? else { continue };
        return Ok(Ok(Gpt {
            mbr,
            primary: Err(fault),
            // Where no primary has been moved to, its entries follow on the header.
            primary_entries_lba: PRIMARY_LBA.saturating_add(1),
            reach_lba: lba,
            table: backup.clone(),
            backup: Backup::Same(Box::new(backup)),
        }));
    }
    Ok(Err(fault))
}

/// What to say of a disk without a sound copy, which has a protective MBR.
fn unreadable(device: &dyn BlockDevice, fault: Fault) -> Result<Refusal> {
    Ok(match fault {
        Fault::Damaged(text) => Refusal::Damaged(text),
        Fault::Absent if has_mark_at(device, LARGE_SECTOR_BYTES)? => {
            Refusal::SectorSize { bytes: u32::try_from(LARGE_SECTOR_BYTES).unwrap_or(u32::MAX) }
        }
        Fault::Absent => Refusal::ProtectiveWithoutGpt,
    })
}

impl Gpt {
    /// Why the table may not be changed, as far as that is peculiar to a GPT.
    fn refusal(&self, partitions: &[Partition], disk_bytes: u64) -> Option<Refusal> {
        let header = &self.table.header;
        let usable_end = header.last_usable_lba().saturating_add(1).saturating_mul(SECTOR_BYTES);
        let usable_start = header.first_usable_lba().saturating_mul(SECTOR_BYTES);
        let outside = |partition: &Partition| {
            partition.start_bytes < usable_start || partition.end_bytes() > usable_end
        };
        self.mbr.protective_refusal().or_else(|| {
            if partitions.iter().any(outside) {
                Some(Refusal::Damaged("a partition lies outside of the room for partitions"))
            } else if usable_end > disk_bytes && super::beyond(partitions, disk_bytes).is_none() {
                // A kernel does not believe in such a table.
                Some(Refusal::DiskCut { table_bytes: usable_end, disk_bytes })
            } else {
                None
            }
        })
    }
}
