//! A GPT for a disk that ends later, with its last partition made to reach there.

use super::copy::{Header, PRIMARY_LBA, Place};
use super::{Backup, Gpt};
use crate::guest::edit::Stage;
use crate::guest::partitions::growth::{Draft, Growth, GrowthRequest, aligned_end};
use crate::guest::partitions::mbr::Mbr;
use crate::guest::partitions::{Partition, Refusal, SECTOR_BYTES};

impl Gpt {
    /// The partition `last` made to reach to the end of the disk.
    pub(in crate::guest::partitions) fn grow(
        &self,
        last: &Partition,
        request: &GrowthRequest,
    ) -> Result<Growth, Refusal> {
        if let (Err(fault), false) = (self.primary, request.restore) {
            return Err(Refusal::PrimaryDamaged(fault.text()));
        }
        let (primary_place, backup_place) = self.places(request.disk_bytes)?;
        let last_usable_lba = backup_place.entries_lba.saturating_sub(1);
        let end = aligned_end(last, backup_place.entries_lba);
        let grown = self.table.grown(last.number, end.saturating_sub(1), last_usable_lba);
        let [primary, backup] = [primary_place, backup_place].map(|place| grown.header_at(place));

        let mut draft = Draft::of(last);
        draft.end_at(end);
        draft.note(self.note());
        self.write_backup(&mut draft, &backup, &grown.entries);
        let mbr = self.mbr.protecting(backup_place.my_lba);
        self.write_primary(&mut draft, &primary, &grown.entries, &mbr);
        Ok(draft.done())
    }

    /// Where the two copies are going to be: the backup's header in the last sector, its entries
    /// before it, and all before these for partitions (UEFI 2.10, 5.3.1).
    fn places(&self, disk_bytes: u64) -> Result<(Place, Place), Refusal> {
        let header = &self.table.header;
        let sectors = header.entry_sectors();
        let last_lba = disk_bytes.checked_div(SECTOR_BYTES).and_then(|count| count.checked_sub(1));
        let entries_lba = last_lba.and_then(|last| last.checked_sub(sectors));
        let (Some(last_lba), Some(entries_lba)) = (last_lba, entries_lba) else {
            return Err(Refusal::Damaged("there is no room for its backup"));
        };
        if entries_lba <= header.last_usable_lba() {
            return Err(Refusal::Damaged("there is room for partitions where its backup belongs"));
        }
        if self.primary_entries_lba.saturating_add(sectors) > header.first_usable_lba() {
            return Err(Refusal::Damaged("there is no room for its entries before the partitions"));
        }
        let primary = Place {
            my_lba: PRIMARY_LBA,
            alternate_lba: last_lba,
            entries_lba: self.primary_entries_lba,
        };
        Ok((primary, Place { my_lba: last_lba, alternate_lba: PRIMARY_LBA, entries_lba }))
    }

    /// Entries, then the header. What is there already is not written again.
    fn write_backup(&self, draft: &mut Draft, header: &Header, entries: &[u8]) {
        let place = header.place();
        let there = match &self.backup {
            Backup::Same(backup) if backup.header.place() == place => Some(backup),
            _ => None,
        };
        // Nothing that the old table speaks of is so far behind. Else it is the old backup that
        // changes, and the primary is good until it is done.
        let stage = |lba: u64| match lba > self.reach_lba {
            true => Stage::Beyond,
            false => Stage::BackupTable,
        };
        let old_entries = there.map(|backup| backup.entries.as_slice());
        draft.replace(stage(place.entries_lba), place.entries_lba, old_entries, entries);
        let old_header = there.map(|backup| backup.header.bytes());
        draft.replace(stage(place.my_lba), place.my_lba, old_header.as_deref(), &header.bytes());
    }

    /// Protective MBR, header and entries, in one write where they follow one another, as they do
    /// everywhere: Linux does not look at the backup unless it is told to (`gpt` on its command
    /// line), so a guest that starts between two writes would find no partitions.
    fn write_primary(&self, draft: &mut Draft, header: &Header, entries: &[u8], mbr: &Mbr) {
        let there = self.primary.is_ok().then_some(&self.table);
        let old_header = there.map(|primary| primary.header.bytes());
        let old_entries = there.map(|primary| primary.entries.as_slice());
        if header.place().entries_lba != PRIMARY_LBA.saturating_add(1) {
            draft.replace_table(header.place().entries_lba, old_entries, entries);
            draft.replace_table(PRIMARY_LBA, old_header.as_deref(), &header.bytes());
            draft.replace_table(0, Some(self.mbr.bytes()), mbr.bytes());
            return;
        }
        let whole =
            |header: &[u8], entries: &[u8], mbr: &Mbr| [mbr.bytes(), header, entries].concat();
        let old = old_header.zip(old_entries);
        let old = old.map(|(header, entries)| whole(&header, entries, &self.mbr));
        draft.replace_table(0, old.as_deref(), &whole(&header.bytes(), entries, mbr));
    }
}
