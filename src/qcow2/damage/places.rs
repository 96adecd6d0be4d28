//! Where an image can be hurt: its tables, their entries, its counts.

use super::Wound;
use super::dice::Dice;
use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::entry::{L1Entry, L2Entry};
use crate::qcow2::geometry::{ENTRY_SIZE, Geometry, HostCluster, HostOffset};
use crate::qcow2::header::Header;
use crate::qcow2::refblock::RefcountBlock;
use crate::qcow2::table::{L2Table, read_l1, read_refcount_table};

/// So many tries to find a count that can be changed.
const TRIES: usize = 1000;

/// The tables of an image, as far as they lie in the file.
pub(super) struct Places<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    /// The length of the file, in bytes.
    pub(super) file_len: u64,
    /// Where each entry of the L1 table is, and what it says, unless it is empty.
    pub(super) l1: Vec<(HostOffset, L1Entry)>,
    /// Where the L2 tables are.
    pub(super) tables: Vec<HostOffset>,
    /// Where each entry of the refcount table is, and the block that it leads to.
    pub(super) blocks: Vec<(HostOffset, HostOffset)>,
}

impl<'a> Places<'a> {
    pub(super) fn new(storage: &'a dyn Storage, header: &'a Header) -> Result<Self> {
        let (geometry, file_len) = (header.geometry, storage.len()?);
        let inside = |at: &HostOffset| {
            geometry.is_aligned(*at) && at.plus_bytes(geometry.cluster_size()).get() <= file_len
        };
        let at = |table: HostOffset, index: u64| table.plus_bytes(index.saturating_mul(ENTRY_SIZE));
        let l1 = (0u64..).zip(read_l1(storage, header)?);
        let l1 = l1.filter(|(_, entry)| *entry != L1Entry::EMPTY);
        let l1 = l1.map(|(index, entry)| (at(header.l1.offset, index), entry));
        // What lies behind the end cannot be hurt.
        let l1: Vec<_> = l1.filter(|(at, _)| at.plus_bytes(ENTRY_SIZE).get() <= file_len).collect();
        let tables = l1.iter().map(|(_, entry)| entry.offset_bits()).filter(inside).collect();
        let blocks = (0u64..).zip(read_refcount_table(storage, header)?);
        let blocks = blocks.filter_map(|(index, entry)| {
            let block = entry.decode(geometry).ok().flatten().filter(inside)?;
            Some((at(header.refcount_table.offset, index), block))
        });
        Ok(Places { storage, header, file_len, tables, blocks: blocks.collect(), l1 })
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// An entry of an L2 table that `is` as it should be, and where it is.
    pub(super) fn entry(
        &self,
        dice: &mut Dice,
        is: impl Fn(L2Entry) -> bool,
    ) -> Result<Option<(HostOffset, L2Entry)>> {
        let size = self.geometry().l2_entry_size();
        let (before, from) = self.tables.split_at(dice.index(self.tables.len()));
        for &table in from.iter().chain(before) {
            let found = L2Table::read(self.storage, table, self.geometry())?;
            let found = (0u64..).zip(found.entries()).filter(|(_, entry)| is(*entry));
            let found = found
                .map(|(index, entry)| (table.plus_bytes(index.saturating_mul(size)), entry))
                .collect::<Vec<_>>();
            if let Some(found) = dice.pick(&found) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Some metadata behind the header.
    pub(super) fn metadata(&self, dice: &mut Dice) -> Option<HostOffset> {
        let blocks = self.blocks.iter().map(|(_, block)| *block);
        let fixed = [self.header.l1.offset, self.header.refcount_table.offset];
        let all: Vec<_> = fixed.into_iter().chain(blocks).chain(self.tables.clone()).collect();
        dice.pick(&all)
    }

    /// One count becomes another.
    pub(super) fn recount(
        &self,
        dice: &mut Dice,
        change: impl Fn(u64) -> Option<u64>,
    ) -> Result<Vec<Wound>> {
        let geometry = self.geometry();
        let clusters = geometry.host_cluster_after(self.file_len).get();
        for _ in 0..TRIES {
            let cluster = HostCluster::new(dice.below(clusters));
            let index = geometry.refblock_index(cluster);
            let at = self.header.refcount_table.offset;
            let at = at.plus_bytes(index.saturating_mul(ENTRY_SIZE));
            let Some(&(_, block)) = self.blocks.iter().find(|(entry, _)| *entry == at) else {
                continue;
            };
            let mut counts = vec![0; geometry.cluster_len()];
            read_padded_at(self.storage, block.get(), &mut counts)?;
            let mut counts = RefcountBlock::from_bytes(counts, geometry);
            let place = (cluster - geometry.first_cluster_of_refblock(index)).get();
            let max = geometry.refcount_order().max_count();
            if let Some(count) = change(counts.get(place)).filter(|count| *count <= max) {
                counts.set(place, count);
                let wound = Wound::bytes(self.storage, block.get(), counts.bytes().to_vec())?;
                return Ok(vec![wound]);
            }
        }
        Ok(Vec::new())
    }

    /// Every count becomes zero.
    pub(super) fn without_counts(&self) -> Result<Vec<Wound>> {
        let zeros = || vec![0; self.geometry().cluster_len()];
        let blocks = self.blocks.iter();
        blocks.map(|(_, block)| Wound::bytes(self.storage, block.get(), zeros())).collect()
    }

    /// A block is forgotten.
    pub(super) fn without_block(&self, dice: &mut Dice) -> Result<Vec<Wound>> {
        let entry = dice.pick(&self.blocks).into_iter();
        entry.map(|(at, _)| Wound::word(self.storage, at.get(), 0)).collect()
    }

    /// The file loses its end: anything from a few bytes to nearly all.
    pub(super) fn cut(&self, dice: &mut Dice) -> Result<Vec<Wound>> {
        let (old_len, cluster) = (self.file_len, self.geometry().cluster_size());
        let lost = match dice.below(3) {
            0 => dice.below(cluster),
            1 => dice.below(old_len / 2),
            _ => dice.below(old_len),
        };
        let new_len = old_len.saturating_sub(lost.saturating_add(1));
        Ok(vec![Wound::Cut { old_len, new_len }])
    }

    /// Up to eight bits of the tables are flipped.
    pub(super) fn flip_bits(&self, dice: &mut Dice) -> Result<Vec<Wound>> {
        let mut wounds = Vec::new();
        for _ in 0..=dice.below(8) {
            let Some(at) = self.place(dice) else { break };
            wounds.extend(flip_bit(self.storage, at.get(), dice)?);
        }
        Ok(wounds)
    }

    /// A word becomes another, or any.
    pub(super) fn change_word(&self, dice: &mut Dice) -> Result<Vec<Wound>> {
        let (Some(at), Some(from)) = (self.place(dice), self.place(dice)) else {
            return Ok(Vec::new());
        };
        let [at, from] = [at, from].map(|place| place.get() & !(ENTRY_SIZE.wrapping_sub(1)));
        if at.max(from).saturating_add(ENTRY_SIZE) > self.file_len {
            return Ok(Vec::new());
        }
        let mut word = [0; 8];
        read_padded_at(self.storage, from, &mut word)?;
        let any = dice.next().checked_shr(dice.shift()).unwrap_or_default();
        let new = if dice.below(2) == 0 { any } else { u64::from_be_bytes(word) };
        Ok(vec![Wound::word(self.storage, at, new)?])
    }

    /// Some byte of the tables; they begin with what is in use.
    fn place(&self, dice: &mut Dice) -> Option<HostOffset> {
        let reach = if dice.below(2) == 0 { 64 } else { self.geometry().cluster_size() };
        Some(self.metadata(dice)?.plus_bytes(dice.below(reach)))
    }
}

/// One bit of the byte at `offset` is flipped, if the file has it.
pub(super) fn flip_bit(
    storage: &dyn Storage,
    offset: u64,
    dice: &mut Dice,
) -> Result<Option<Wound>> {
    if offset >= storage.len()? {
        return Ok(None);
    }
    let mut byte = [0];
    read_padded_at(storage, offset, &mut byte)?;
    let flipped = byte.map(|byte| byte ^ dice.bit());
    Wound::bytes(storage, offset, flipped.to_vec()).map(Some)
}
