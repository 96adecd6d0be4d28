//! The superblock: 1 KiB at byte 1024, and copies of it in other groups.

use std::sync::Arc;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::checksum::{Checksums, low, of_superblock};
use super::features::{Features, incompat, ro_compat};
use super::geometry::Geometry;
use crate::block::BlockDevice;
use crate::error::Result;

/// Where it is, in bytes from the beginning of the filesystem.
pub(super) const OFFSET: u64 = 1024;

/// Its length, and that of each copy, in bytes.
const LEN: usize = 1024;

/// `EXT2_SUPER_MAGIC`.
const MAGIC: u16 = 0xEF53;

/// `EXT2_VALID_FS`: it was unmounted cleanly.
pub(super) const STATE_VALID: u16 = 0x1;
/// `EXT2_ERROR_FS`: the kernel found errors.
pub(super) const STATE_ERRORS: u16 = 0x2;
/// `EXT4_ORPHAN_FS`: orphans are being cleaned up.
pub(super) const STATE_ORPHANS: u16 = 0x4;
/// `EXT4_FC_REPLAY`: fast commits are being replayed.
pub(super) const STATE_REPLAY: u16 = 0x20;

/// `struct ext2_super_block`. What is a run of bytes here is of no consequence for a growth, and
/// stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub(super) inodes_count: U32,
    blocks_count: U32,
    r_blocks_count: U32,
    free_blocks_count: U32,
    pub(super) free_inodes_count: U32,
    pub(super) first_data_block: U32,
    pub(super) log_block_size: U32,
    pub(super) log_cluster_size: U32,
    pub(super) blocks_per_group: U32,
    pub(super) clusters_per_group: U32,
    pub(super) inodes_per_group: U32,
    times_and_mounts: [u8; 12],
    magic: U16,
    pub(super) state: U16,
    errors_to_creator: [u8; 16],
    pub(super) rev_level: U32,
    def_resuid_to_first_ino: [u8; 8],
    pub(super) inode_size: U16,
    block_group_nr: U16,
    feature_compat: U32,
    feature_incompat: U32,
    feature_ro_compat: U32,
    pub(super) uuid: [u8; 16],
    pub(super) volume_name: [u8; 16],
    last_mounted_to_prealloc: [u8; 70],
    pub(super) reserved_gdt_blocks: U16,
    journal: [u8; 24],
    pub(super) last_orphan: U32,
    hash_seed_to_jnl_backup_type: [u8; 18],
    pub(super) desc_size: U16,
    default_mount_opts_to_jnl_blocks: [u8; 80],
    blocks_count_hi: U32,
    r_blocks_count_hi: U32,
    free_blocks_hi: U32,
    min_extra_isize_to_log_groups_per_flex: [u8; 25],
    pub(super) checksum_type: u8,
    encryption_level_to_mount_opts: [u8; 210],
    /// `s_overhead_clusters`: 0 stands for "to be found out at the next mount".
    overhead_clusters: U32,
    backup_bgs_to_prj_quota_inum: [u8; 36],
    checksum_seed: U32,
    rest: [u8; 392],
    checksum: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == LEN);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, magic) == 0x38);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, uuid) == 0x68);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, desc_size) == 0xFE);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, checksum_type) == 0x175);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, checksum_seed) == 0x270);

impl RawSuperblock {
    /// The primary one, if there is something that looks like it.
    pub(super) fn read(device: &dyn BlockDevice) -> Result<Option<Box<RawSuperblock>>> {
        let mut bytes = [0; LEN];
        let end = OFFSET.saturating_add(u64::try_from(LEN).unwrap_or(u64::MAX));
        if device.size() < end {
            return Ok(None);
        }
        device.read_at(OFFSET, &mut bytes)?;
        let raw = RawSuperblock::read_from_bytes(&bytes).ok();
        Ok(raw.filter(|raw| raw.magic.get() == MAGIC).map(Box::new))
    }

    pub(super) fn features(&self) -> Features {
        Features {
            compat: self.feature_compat.get(),
            incompat: self.feature_incompat.get(),
            ro_compat: self.feature_ro_compat.get(),
        }
    }

    /// Whether numbers of blocks have 64 bits (feature `64bit`).
    pub(super) fn is_wide(&self) -> bool {
        self.features().incompatible(incompat::WIDE)
    }

    /// Whether upper halves are zero where they mean nothing. (The kernel reads them even so.)
    pub(super) fn is_consistently_narrow(&self) -> bool {
        let upper = [self.blocks_count_hi, self.r_blocks_count_hi, self.free_blocks_hi];
        self.is_wide() || upper == [U32::ZERO; 3]
    }

    /// The number of blocks.
    pub(super) fn blocks(&self) -> u64 {
        joined(self.blocks_count, self.blocks_count_hi)
    }

    /// The number of blocks that only root gets.
    pub(super) fn reserved_blocks(&self) -> u64 {
        joined(self.r_blocks_count, self.r_blocks_count_hi)
    }

    /// The number of free blocks.
    pub(super) fn free_blocks(&self) -> u64 {
        joined(self.free_blocks_count, self.free_blocks_hi)
    }

    /// How its metadata is checksummed.
    pub(super) fn checksums(&self) -> Checksums {
        let features = self.features();
        match () {
            () if features.read_compatible(ro_compat::METADATA_CSUM) => {
                let stored = features.incompatible(incompat::CSUM_SEED);
                let seed = stored.then_some(self.checksum_seed.get());
                Checksums::Metadata { seed: seed.unwrap_or_else(|| Checksums::seed_of(&self.uuid)) }
            }
            () if features.read_compatible(ro_compat::GDT_CSUM) => {
                Checksums::Descriptors { uuid: self.uuid }
            }
            () => Checksums::None,
        }
    }

    /// Whether its own checksum is right, or it has none.
    pub(super) fn is_sealed(&self) -> bool {
        let sealed = self.features().read_compatible(ro_compat::METADATA_CSUM);
        !sealed || self.checksum.get() == self.own_checksum()
    }

    fn own_checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        let before = std::mem::offset_of!(RawSuperblock, checksum);
        of_superblock(bytes.get(..before).unwrap_or(bytes))
    }

    /// Makes its own checksum right.
    pub(super) fn seal(&mut self) {
        if self.features().read_compatible(ro_compat::METADATA_CSUM) {
            self.checksum = U32::new(self.own_checksum());
        }
    }

    /// The same for a filesystem that has grown, and has got so many free blocks on the way.
    pub(super) fn grown(&self, old: &Geometry, new: &Geometry, free_blocks: u64) -> RawSuperblock {
        let mut raw = self.clone();
        let share = u128::from(self.reserved_blocks()).saturating_mul(new.blocks.into());
        let share = share.checked_div(old.blocks.into()).unwrap_or(0);
        let reserved = u64::try_from(share).unwrap_or(u64::MAX);
        let free = self.free_blocks().saturating_add(free_blocks);
        (raw.blocks_count, raw.blocks_count_hi) = split(new.blocks);
        (raw.r_blocks_count, raw.r_blocks_count_hi) = split(reserved);
        (raw.free_blocks_count, raw.free_blocks_hi) = split(free);
        let groups = new.groups.saturating_sub(old.groups);
        let added = groups.saturating_mul(new.group_inodes);
        raw.inodes_count = U32::new(self.inodes_count.get().saturating_add(added));
        raw.free_inodes_count = U32::new(self.free_inodes_count.get().saturating_add(added));
        raw.reserved_gdt_blocks = U16::new(u16::try_from(new.reserved_blocks).unwrap_or(0));
        raw.overhead_clusters = U32::ZERO;
        raw.seal();
        raw
    }

    /// The copy that belongs into a group. As e2fsprogs writes them, copies are never clean.
    pub(super) fn copy_for(&self, group: u32) -> Arc<[u8]> {
        let mut raw = self.clone();
        if group > 0 {
            // The field has 16 bits: of a larger number, everybody writes the lower half.
            raw.block_group_nr = U16::new(low(group));
            raw.state = U16::new(raw.state.get() & !STATE_VALID);
            raw.seal();
        }
        raw.as_bytes().into()
    }
}

/// A number from its halves.
pub(super) fn joined(low: U32, high: U32) -> u64 {
    u64::from(high.get()) << 32 | u64::from(low.get())
}

/// The lower and the upper half.
pub(super) fn split(number: u64) -> (U32, U32) {
    let half = |number: u64| U32::new(u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0));
    (half(number), half(number >> 32))
}
