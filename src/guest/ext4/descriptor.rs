//! Group descriptors (kernel `Documentation/filesystems/ext4/group_descr.rst`): where the bitmaps
//! and the inode table of a group are, and what is free in it.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::Refusal;
use super::checksum::{Checksums, halves, low};
use super::geometry::Geometry;
use super::superblock::{joined, split};
use crate::block::BlockDevice;
use crate::error::Result;

/// `EXT2_BG_INODE_UNINIT`: the inode bitmap was never written, and no inode is used.
const INODE_UNINIT: u16 = 0x1;
/// `EXT2_BG_BLOCK_UNINIT`: the block bitmap was never written, and only metadata is used.
const BLOCK_UNINIT: u16 = 0x2;
/// `EXT2_BG_INODE_ZEROED`: the inode table reads as zeros where it is not used.
const INODE_ZEROED: u16 = 0x4;

/// `struct ext4_group_desc`. Of a descriptor of 32 bytes, the upper half is zero.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Descriptor {
    block_bitmap: U32,
    inode_bitmap: U32,
    inode_table: U32,
    free_blocks: U16,
    free_inodes: U16,
    used_dirs: U16,
    flags: U16,
    exclude_bitmap: U32,
    block_bitmap_csum: U16,
    inode_bitmap_csum: U16,
    itable_unused: U16,
    checksum: U16,
    block_bitmap_hi: U32,
    inode_bitmap_hi: U32,
    inode_table_hi: U32,
    free_blocks_hi: U16,
    free_inodes_hi: U16,
    used_dirs_hi: U16,
    itable_unused_hi: U16,
    exclude_bitmap_hi: U32,
    block_bitmap_csum_hi: U16,
    inode_bitmap_csum_hi: U16,
    reserved: U32,
}

const _: () = assert!(size_of::<Descriptor>() == 64);
const _: () = assert!(std::mem::offset_of!(Descriptor, checksum) == 0x1E);

impl Descriptor {
    /// From its 32 or 64 bytes.
    fn of(bytes: &[u8]) -> Descriptor {
        let mut descriptor = Descriptor::new_zeroed();
        if let Some(place) = descriptor.as_mut_bytes().get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        descriptor
    }

    /// As it is stored: the first 32 bytes, or all.
    pub(super) fn bytes(&self, geometry: &Geometry) -> &[u8] {
        let len = usize::try_from(geometry.descriptor_bytes).unwrap_or(usize::MAX);
        self.as_bytes().get(..len).unwrap_or(self.as_bytes())
    }

    /// That of a group that nothing was ever put into, which holds its own metadata: the copies if
    /// it has any, the block bitmap, the inode bitmap, the inode table.
    pub(super) fn new(geometry: &Geometry, group: u32, checksums: Checksums) -> Descriptor {
        let mut new = Descriptor::new_zeroed();
        let copies = geometry.backup_blocks(group);
        let block_bitmap = geometry.group_start(group).saturating_add(copies);
        (new.block_bitmap, new.block_bitmap_hi) = split(block_bitmap);
        (new.inode_bitmap, new.inode_bitmap_hi) = split(block_bitmap.saturating_add(1));
        (new.inode_table, new.inode_table_hi) = split(block_bitmap.saturating_add(2));
        let free = geometry.group_len(group).saturating_sub(geometry.overhead(group));
        new.set_free_blocks(u32::try_from(free).unwrap_or(0));
        let inodes = halves(geometry.group_inodes);
        (new.free_inodes, new.free_inodes_hi) = (U16::new(inodes.0), U16::new(inodes.1));
        if checksums.cover_descriptors() {
            (new.itable_unused, new.itable_unused_hi) = (new.free_inodes, new.free_inodes_hi);
            // e2fsprogs wants the bitmap of the last group to be there, whether it is full or not.
            let last = group == geometry.last_group();
            let blocks = if last { 0 } else { BLOCK_UNINIT };
            new.flags = U16::new(INODE_UNINIT | INODE_ZEROED | blocks);
        }
        new
    }

    /// Whether its block bitmap was never written, where descriptors can say so.
    pub(super) fn has_no_block_bitmap(&self, checksums: Checksums) -> bool {
        checksums.cover_descriptors() && self.flags.get() & BLOCK_UNINIT != 0
    }

    /// Whether its inode bitmap was never written, where descriptors can say so.
    pub(super) fn has_no_inode_bitmap(&self, checksums: Checksums) -> bool {
        checksums.cover_descriptors() && self.flags.get() & INODE_UNINIT != 0
    }

    /// The block of the block bitmap.
    pub(super) fn block_bitmap(&self) -> u64 {
        joined(self.block_bitmap, self.block_bitmap_hi)
    }

    /// The block of the inode bitmap.
    pub(super) fn inode_bitmap(&self) -> u64 {
        joined(self.inode_bitmap, self.inode_bitmap_hi)
    }

    /// The first block of the inode table.
    pub(super) fn inode_table(&self) -> u64 {
        joined(self.inode_table, self.inode_table_hi)
    }

    /// The number of free blocks.
    pub(super) fn free_blocks(&self) -> u32 {
        u32::from(self.free_blocks_hi.get()) << 16 | u32::from(self.free_blocks.get())
    }

    /// The number of free inodes.
    pub(super) fn free_inodes(&self) -> u32 {
        u32::from(self.free_inodes_hi.get()) << 16 | u32::from(self.free_inodes.get())
    }

    /// The number of inodes at the end of the table that were never used.
    pub(super) fn itable_unused(&self) -> u32 {
        u32::from(self.itable_unused_hi.get()) << 16 | u32::from(self.itable_unused.get())
    }

    pub(super) fn set_free_blocks(&mut self, count: u32) {
        let (low, high) = halves(count);
        (self.free_blocks, self.free_blocks_hi) = (U16::new(low), U16::new(high));
    }

    /// Sets the checksum of the block bitmap, of which a descriptor of 32 bytes holds the lower half.
    pub(super) fn set_block_bitmap_checksum(&mut self, geometry: &Geometry, checksum: Option<u32>) {
        let Some(checksum) = checksum else { return };
        let (low, high) = halves(checksum);
        self.block_bitmap_csum = U16::new(low);
        self.block_bitmap_csum_hi = U16::new(if geometry.is_large() { high } else { 0 });
    }

    /// Whether this is the checksum of the block bitmap, as far as it is stored.
    pub(super) fn has_block_bitmap_checksum(&self, geometry: &Geometry, checksum: u32) -> bool {
        let upper = halves(checksum).1;
        self.block_bitmap_csum.get() == low(checksum)
            && (!geometry.is_large() || self.block_bitmap_csum_hi.get() == upper)
    }

    /// Makes its own checksum right.
    pub(super) fn seal(&mut self, geometry: &Geometry, group: u32, checksums: Checksums) {
        self.checksum = U16::ZERO;
        if let Some(checksum) = checksums.of_descriptor(group, self.bytes(geometry)) {
            self.checksum = U16::new(checksum);
        }
    }

    fn is_sealed(&self, geometry: &Geometry, group: u32, checksums: Checksums) -> bool {
        let mut sealed = self.clone();
        sealed.seal(geometry, group, checksums);
        !checksums.cover_descriptors() || sealed.checksum == self.checksum
    }

    /// What speaks against it, as far as it can be seen from this one alone.
    fn fault(&self, geometry: &Geometry, group: u32, checksums: Checksums) -> Option<&'static str> {
        let (start, len) = (geometry.group_start(group), geometry.group_len(group));
        let own = |first: u64, count: u64| {
            first >= start && first.saturating_add(count) <= start.saturating_add(len)
        };
        let allowed = |first: u64, count: u64| match geometry.flex_bg {
            true => geometry.has_blocks(first, count),
            false => own(first, count),
        };
        let inodes = geometry.group_inodes;
        match () {
            () if !allowed(self.block_bitmap(), 1) => Some("the place of the block bitmap"),
            () if !allowed(self.inode_bitmap(), 1) => Some("the place of the inode bitmap"),
            () if !allowed(self.inode_table(), geometry.table_blocks()) => {
                Some("the place of the inode table")
            }
            () if u64::from(self.free_blocks()) > len => Some("the number of free blocks"),
            () if self.free_inodes() > inodes => Some("the number of free inodes"),
            () if checksums.cover_descriptors() && self.itable_unused() > inodes => {
                Some("the number of inodes that were never used")
            }
            () => None,
        }
    }
}

/// The descriptors of all groups.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// One behind the other.
    bytes: Vec<u8>,
    descriptor_len: usize,
}

/// What the groups have together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u64,
}

impl Descriptors {
    /// Reads the primary ones: at most 16 MiB, all of them on the device.
    pub(super) fn read(device: &dyn BlockDevice, geometry: &Geometry) -> Result<Descriptors> {
        let len = usize::try_from(geometry.descriptor_offset(geometry.groups)).unwrap_or(0);
        let descriptor_len = usize::try_from(geometry.descriptor_bytes).unwrap_or(64);
        let mut bytes = vec![0; len];
        device.read_at(geometry.offset(geometry.gdt_start()), &mut bytes)?;
        Ok(Descriptors { bytes, descriptor_len })
    }

    /// Each with the number of its group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Descriptor)> {
        (0..).zip(self.bytes.chunks_exact(self.descriptor_len).map(Descriptor::of))
    }

    /// That of a group; one of zeros, where there is no such group.
    pub(super) fn get(&self, group: u32) -> Descriptor {
        let group = usize::try_from(group).unwrap_or(usize::MAX);
        let found = self.bytes.chunks_exact(self.descriptor_len).nth(group);
        Descriptor::of(found.unwrap_or_default())
    }

    /// Replaces the last one.
    pub(super) fn replace_last(&mut self, geometry: &Geometry, descriptor: &Descriptor) {
        let rest = self.bytes.len().saturating_sub(self.descriptor_len);
        self.bytes.truncate(rest);
        self.bytes.extend_from_slice(descriptor.bytes(geometry));
    }

    /// All bytes, as they are stored.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Holds every one against the geometry and its checksum.
    pub(super) fn check(
        &self,
        geometry: &Geometry,
        checksums: Checksums,
    ) -> Result<Totals, Refusal> {
        let mut totals = Totals::default();
        for (group, descriptor) in self.iter() {
            if !descriptor.is_sealed(geometry, group, checksums) {
                return Err(Refusal::DescriptorChecksum { group });
            }
            if let Some(what) = descriptor.fault(geometry, group, checksums) {
                return Err(Refusal::DescriptorDamaged { group, what });
            }
            let (blocks, inodes) = (descriptor.free_blocks(), descriptor.free_inodes());
            totals.free_blocks = totals.free_blocks.saturating_add(blocks.into());
            totals.free_inodes = totals.free_inodes.saturating_add(inodes.into());
        }
        Ok(totals)
    }
}
