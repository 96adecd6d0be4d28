//! The resize inode (number 7): the owner of the blocks that are reserved for more descriptors.
//!
//! Its double-indirect block has an entry for every reserved block behind the primary descriptors
//! (at the place that is its number among the blocks of descriptors); each of these lists its
//! counterparts behind the copies (e2fsprogs `lib/ext2fs/res_gdt.c`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Refusal;
use super::checksum::{Checksums, halves, low};
use super::descriptor::Descriptors;
use super::geometry::Geometry;
use super::metadata::Metadata;
use super::refusal::Stop;
use crate::block::{BlockDevice, is_zero};
use crate::error::Error;

/// `EXT2_RESIZE_INO`.
const NUMBER: u32 = 7;

/// `EXT2_DIND_BLOCK`: which of the pointers leads to the double-indirect block.
const DOUBLE_INDIRECT: usize = 13;

/// `EXT4_EXTENTS_FL`: the pointers are something else.
const EXTENTS: u32 = 0x8_0000;

/// The unit of `i_blocks`, in bytes.
const SECTOR_BYTES: u64 = 512;

/// `struct ext2_inode_large`, as far as it is used here.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawInode {
    mode: U16,
    uid_to_gid: [u8; 24],
    links_count: U16,
    blocks: U32,
    flags: U32,
    osd1: U32,
    block: [U32; 15],
    generation: U32,
    file_acl_to_gid_high: [u8; 20],
    checksum_lo: U16,
    reserved: U16,
}

const _: () = assert!(size_of::<RawInode>() == 128);
const _: () = assert!(std::mem::offset_of!(RawInode, block) == 0x28);
const _: () = assert!(std::mem::offset_of!(RawInode, checksum_lo) == 0x7C);

/// What follows on it in a larger inode.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawExtra {
    extra_isize: U16,
    checksum_hi: U16,
}

/// The inode, and all blocks that it leads to.
#[derive(Debug)]
pub(super) struct ResizeInode {
    /// Where the inode is, in bytes.
    offset: u64,
    inode: Vec<u8>,
    /// Where the double-indirect block is, in bytes.
    indirect_offset: u64,
    indirect: Vec<u8>,
    /// The reserved blocks behind the primary descriptors, one behind the other.
    reserved: Vec<u8>,
}

/// Bytes that are to be somewhere.
pub(super) type Piece = (u64, Vec<u8>);

impl ResizeInode {
    /// Reads the inode, its double-indirect block and up to 4 MiB of reserved blocks, and holds
    /// every number in them against what it must be.
    pub(super) fn read(
        device: &dyn BlockDevice,
        geometry: &Geometry,
        checksums: Checksums,
        descriptors: &Descriptors,
        metadata: &Metadata,
    ) -> Result<ResizeInode, Stop> {
        let damaged = |what| Err(Refusal::ResizeInode(what).into());
        let index = u64::from(NUMBER).saturating_sub(1);
        let table = geometry.offset(descriptors.get(0).inode_table());
        let offset = table.saturating_add(index.saturating_mul(geometry.inode_bytes));
        let inode = read(device, offset, geometry.inode_bytes)?;
        let Some((raw, _)) = split(&inode) else { return damaged("its inode") };
        if checksum(&inode, checksums).is_some_and(|sum| !has_checksum(&inode, sum)) {
            return damaged("the checksum of its inode");
        }
        let mut pointers = raw.block;
        let block = u64::from(std::mem::take(&mut pointers[DOUBLE_INDIRECT]).get());
        let regular = raw.mode.get() & 0xF000 == 0x8000 && raw.links_count.get() > 0;
        if !regular || raw.flags.get() & EXTENTS != 0 || pointers != [U32::ZERO; 15] {
            return damaged("its inode");
        }
        if !geometry.has_blocks(block, 1) || metadata.has(block) {
            return damaged("the place of its double-indirect block");
        }
        if u64::from(raw.blocks.get()) != sectors(geometry) {
            return damaged("the number of its blocks");
        }
        let indirect_offset = geometry.offset(block);
        let indirect = read(device, indirect_offset, geometry.block_bytes)?;
        let first = geometry.offset(geometry.gdt_start().saturating_add(geometry.gdt_blocks));
        let reserved = read(device, first, geometry.offset(geometry.reserved_blocks))?;
        let found = ResizeInode { offset, inode, indirect_offset, indirect, reserved };
        Ok(found.checked(geometry)?)
    }

    fn checked(self, geometry: &Geometry) -> Result<ResizeInode, Refusal> {
        if self.indirect != indirect(geometry) {
            return Err(Refusal::ResizeInode("its double-indirect block"));
        }
        let groups: Vec<u32> = geometry.backups().collect();
        for (block, bytes) in reserved(geometry).zip(self.reserved.chunks(block_len(geometry))) {
            let (entries, rest) = entries(geometry, &groups, block, bytes);
            if !entries || !is_zero(rest) {
                return Err(Refusal::ResizeInode("a block that lists reserved blocks"));
            }
        }
        Ok(self)
    }

    /// What has to be written where before any of its blocks becomes one of descriptors: it leads to
    /// these no more.
    pub(super) fn released(&self, old: &Geometry, new: &Geometry) -> Option<Piece> {
        let grows = new.gdt_blocks != old.gdt_blocks;
        grows.then(|| (self.indirect_offset, indirect(new)))
    }

    /// What else has to be written where, once the filesystem has its new size.
    pub(super) fn grown(
        mut self,
        old: &Geometry,
        new: &Geometry,
        checksums: Checksums,
    ) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let count = sectors(new);
        if count != sectors(old) {
            set_sectors(&mut self.inode, u32::try_from(count).unwrap_or(u32::MAX), checksums);
            pieces.push((self.offset, self.inode));
        }
        let groups: Vec<u32> = new.backups().collect();
        if groups.len() > old.backups().count() {
            // Those that become descriptors come first.
            let taken = old.reserved_blocks.saturating_sub(new.reserved_blocks);
            let taken = usize::try_from(old.offset(taken)).unwrap_or(usize::MAX);
            let mut lists = self.reserved;
            lists.drain(..taken.min(lists.len()));
            for (block, bytes) in reserved(new).zip(lists.chunks_mut(block_len(new))) {
                list(new, &groups, block, bytes);
            }
            let first = new.gdt_start().saturating_add(new.gdt_blocks);
            pieces.push((new.offset(first), lists));
        }
        pieces
    }
}

fn read(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    device.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn block_len(geometry: &Geometry) -> usize {
    usize::try_from(geometry.block_bytes).unwrap_or(4096).max(1)
}

/// The numbers of the reserved blocks behind the primary descriptors.
fn reserved(geometry: &Geometry) -> std::ops::Range<u64> {
    let first = geometry.gdt_start().saturating_add(geometry.gdt_blocks);
    first..first.saturating_add(geometry.reserved_blocks)
}

/// The whole double-indirect block.
fn indirect(geometry: &Geometry) -> Vec<u8> {
    let mut words = vec![U32::ZERO; block_len(geometry) / 4];
    for block in reserved(geometry) {
        let index = block.saturating_sub(geometry.gdt_start());
        let index = index.checked_rem(geometry.block_bytes / 4).unwrap_or(0);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(word) = words.get_mut(index) {
            *word = U32::new(u32::try_from(block).unwrap_or(0));
        }
    }
    words.as_bytes().to_vec()
}

/// The counterparts of a reserved block behind the copies in these groups.
fn counterparts(geometry: &Geometry, groups: &[u32], block: u64) -> impl Iterator<Item = [u8; 4]> {
    let per_group = geometry.group_blocks;
    groups.iter().map(move |group| {
        let there = block.saturating_add(u64::from(*group).saturating_mul(per_group));
        u32::try_from(there).unwrap_or(u32::MAX).to_le_bytes()
    })
}

/// Whether a reserved block begins with the list that it must have; and what follows on that.
fn entries<'a>(
    geometry: &Geometry,
    groups: &[u32],
    block: u64,
    bytes: &'a [u8],
) -> (bool, &'a [u8]) {
    let (words, _) = bytes.as_chunks::<4>();
    let same = words.len() >= groups.len()
        && counterparts(geometry, groups, block).zip(words).all(|(one, other)| one == *other);
    (same, bytes.get(groups.len().saturating_mul(4)..).unwrap_or_default())
}

/// Writes the list into a reserved block.
fn list(geometry: &Geometry, groups: &[u32], block: u64, bytes: &mut [u8]) {
    let (words, _) = bytes.as_chunks_mut::<4>();
    for (word, counterpart) in words.iter_mut().zip(counterparts(geometry, groups, block)) {
        *word = counterpart;
    }
}

/// What `i_blocks` must be: the double-indirect block, and every reserved block everywhere.
fn sectors(geometry: &Geometry) -> u64 {
    let copies = u64::try_from(geometry.backups().count()).unwrap_or(u64::MAX).saturating_add(1);
    let blocks = geometry.reserved_blocks.saturating_mul(copies).saturating_add(1);
    geometry.offset(blocks) / SECTOR_BYTES
}

/// The parts of an inode that mean something here.
fn split(inode: &[u8]) -> Option<(RawInode, Option<RawExtra>)> {
    let (raw, rest) = RawInode::read_from_prefix(inode).ok()?;
    let extra = RawExtra::read_from_prefix(rest).ok().map(|(extra, _)| extra);
    // The field for the upper half of the checksum is there if `i_extra_isize` covers it.
    Some((raw, extra.filter(|extra| extra.extra_isize.get() >= 4)))
}

/// The checksum that an inode must have.
fn checksum(inode: &[u8], checksums: Checksums) -> Option<u32> {
    let mut blank = inode.to_vec();
    let (raw, _) = split(inode)?;
    store(&mut blank, 0);
    checksums.of_inode(NUMBER, raw.generation.get(), &blank)
}

fn has_checksum(inode: &[u8], checksum: u32) -> bool {
    let (lower, upper) = halves(checksum);
    split(inode).is_some_and(|(raw, extra)| {
        raw.checksum_lo.get() == lower && extra.is_none_or(|extra| extra.checksum_hi.get() == upper)
    })
}

/// Puts a checksum into an inode, as far as that has room for it.
fn store(inode: &mut [u8], checksum: u32) {
    let extra = split(inode).and_then(|(_, extra)| extra);
    let Ok((raw, rest)) = RawInode::mut_from_prefix(inode) else { return };
    raw.checksum_lo = U16::new(low(checksum));
    if let (Some(_), Ok((place, _))) = (extra, RawExtra::mut_from_prefix(rest)) {
        place.checksum_hi = U16::new(halves(checksum).1);
    }
}

fn set_sectors(inode: &mut [u8], count: u32, checksums: Checksums) {
    if let Ok((raw, _)) = RawInode::mut_from_prefix(inode) {
        raw.blocks = U32::new(count);
    }
    if let Some(checksum) = checksum(inode, checksums) {
        store(inode, checksum);
    }
}
