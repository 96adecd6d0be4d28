//! How a filesystem is divided into groups (kernel `Documentation/filesystems/ext4/blockgroup.rst`).

use super::Refusal;
use super::features::{compat, incompat};
use super::superblock::RawSuperblock;

/// How many groups are handled at most. Their descriptors then take 16 MiB; with blocks of 4 KiB
/// it is reached at 32 TiB.
pub(super) const GROUPS_MAX: u32 = 1 << 18;

/// Where things are in a filesystem whose numbers fit together: nothing here is zero that divides,
/// and the table of descriptors fits into group 0.
///
/// Sums and products saturate. None does: blocks times their size fit into 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// The size of a block: 1, 2 or 4 KiB.
    pub(super) block_bytes: u64,
    /// The number of blocks, from 0.
    pub(super) blocks: u64,
    /// The first block of group 0: 1 where blocks have 1 KiB, else 0.
    pub(super) first_block: u64,
    /// Blocks of every group but the last: a multiple of 8, at most as many as a block has bits.
    pub(super) group_blocks: u64,
    /// Inodes of every group: a multiple of 8, at most as many as a block has bits.
    pub(super) group_inodes: u32,
    /// The size of an inode: a power of two, from 128 to the size of a block.
    pub(super) inode_bytes: u64,
    /// The size of a group descriptor: 32 or 64.
    pub(super) descriptor_bytes: u64,
    /// The number of groups: at least one.
    pub(super) groups: u32,
    /// The blocks that the descriptors take, behind every copy of the superblock.
    pub(super) gdt_blocks: u64,
    /// The blocks that are reserved for more of them, behind them (`s_reserved_gdt_blocks`).
    pub(super) reserved_blocks: u64,
    /// Whether bitmaps and inode tables may lie in other groups.
    pub(super) flex_bg: bool,
    /// Whether the reserved blocks belong to an inode.
    pub(super) resize_inode: bool,
    /// Whether numbers of blocks have 64 bits.
    pub(super) wide: bool,
}

/// The size of a block, in bytes, of a superblock that can have one: up to 64 KiB.
pub(super) fn block_bytes(raw: &RawSuperblock) -> Option<u64> {
    let log = raw.log_block_size.get();
    (log <= 6).then(|| 1024_u64.rotate_left(log))
}

impl Geometry {
    /// What the superblock says, if it fits together.
    pub(super) fn parse(raw: &RawSuperblock) -> Result<Geometry, Refusal> {
        let damaged = |what| Err(Refusal::Damaged(what));
        let features = raw.features();
        let Some(block_bytes) = block_bytes(raw) else { return damaged("the size of its blocks") };
        if block_bytes > 4096 {
            return Err(Refusal::BlockSize { bytes: block_bytes });
        }
        if !raw.is_consistently_narrow() {
            return damaged("upper halves of numbers that have none");
        }
        let descriptor_bytes = match raw.desc_size.get() {
            _ if !raw.is_wide() => 32,
            64 => 64,
            bytes => return Err(Refusal::DescriptorSize { bytes }),
        };
        let block_bits = block_bytes.saturating_mul(8);
        let counts =
            |count: u32| count > 0 && count.is_multiple_of(8) && count_fits(count, block_bits);
        if !counts(raw.blocks_per_group.get()) || !counts(raw.inodes_per_group.get()) {
            return damaged("the size of its groups");
        }
        let same = raw.log_cluster_size == raw.log_block_size
            && raw.clusters_per_group == raw.blocks_per_group;
        if !same {
            return damaged("clusters that are no blocks");
        }
        let inode_bytes = u64::from(raw.inode_size.get());
        if !inode_bytes.is_power_of_two() || !(128..=block_bytes).contains(&inode_bytes) {
            return damaged("the size of its inodes");
        }
        let geometry = Geometry {
            block_bytes,
            blocks: raw.blocks(),
            first_block: u64::from(block_bytes == 1024),
            group_blocks: raw.blocks_per_group.get().into(),
            group_inodes: raw.inodes_per_group.get(),
            inode_bytes,
            descriptor_bytes,
            groups: 0,
            gdt_blocks: 0,
            reserved_blocks: raw.reserved_gdt_blocks.get().into(),
            flex_bg: features.incompatible(incompat::FLEX_BG),
            resize_inode: features.compatible(compat::RESIZE_INODE),
            wide: raw.is_wide(),
        };
        geometry.with_blocks(raw.blocks())?.checked(raw)
    }

    /// The same, if what the superblock counts is what follows from it.
    fn checked(self, raw: &RawSuperblock) -> Result<Geometry, Refusal> {
        let damaged = |what| Err(Refusal::Damaged(what));
        let inodes = u64::from(self.groups).saturating_mul(self.group_inodes.into());
        let reserved_max = self.block_bytes / 4;
        let bounded = raw.free_blocks() <= self.blocks
            && raw.reserved_blocks() <= self.blocks
            && raw.free_inodes_count <= raw.inodes_count;
        match () {
            () if u64::from(raw.first_data_block.get()) != self.first_block => {
                damaged("where its first group begins")
            }
            () if u64::from(raw.inodes_count.get()) != inodes => {
                damaged("the number of its inodes")
            }
            () if !bounded => damaged("more is free or reserved than there is"),
            () if self.reserved_blocks > reserved_max => damaged("blocks reserved for descriptors"),
            () if self.reserved_blocks > 0 && !self.resize_inode => {
                damaged("blocks reserved for descriptors that belong to nobody")
            }
            () if self.backup_blocks(0) >= self.group_len(0) => {
                damaged("descriptors that do not fit into their group")
            }
            () => Ok(self),
        }
    }

    /// The same for so many blocks, with as many blocks for descriptors as that takes.
    pub(super) fn with_blocks(&self, blocks: u64) -> Result<Geometry, Refusal> {
        let groups = blocks.saturating_sub(self.first_block).div_ceil(self.group_blocks);
        let count = u32::try_from(groups).unwrap_or(u32::MAX);
        if groups == 0 {
            return Err(Refusal::Damaged("it has no blocks"));
        }
        if count > GROUPS_MAX {
            return Err(Refusal::TooManyGroups { groups, max: GROUPS_MAX });
        }
        let gdt_blocks = groups.div_ceil(self.descriptors_per_block());
        Ok(Geometry { blocks, groups: count, gdt_blocks, ..self.clone() })
    }

    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.offset(self.blocks)
    }

    /// Where a block begins, in bytes; the length of so many blocks.
    pub(super) fn offset(&self, block: u64) -> u64 {
        block.saturating_mul(self.block_bytes)
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        self.block_bytes.checked_div(self.descriptor_bytes).unwrap_or(1).max(1)
    }

    /// Where the descriptor of a group begins in the table of all, in bytes; the length of so many.
    pub(super) fn descriptor_offset(&self, group: u32) -> u64 {
        u64::from(group).saturating_mul(self.descriptor_bytes)
    }

    /// The blocks of an inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        u64::from(self.group_inodes).saturating_mul(self.inode_bytes).div_ceil(self.block_bytes)
    }

    /// The first block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        self.first_block.saturating_add(u64::from(group).saturating_mul(self.group_blocks))
    }

    /// The number of its blocks.
    pub(super) fn group_len(&self, group: u32) -> u64 {
        self.blocks.saturating_sub(self.group_start(group)).min(self.group_blocks)
    }

    /// The number of the last group.
    pub(super) fn last_group(&self) -> u32 {
        self.groups.saturating_sub(1)
    }

    /// The blocks at the start of a group that hold a superblock, descriptors, and room for more.
    pub(super) fn backup_blocks(&self, group: u32) -> u64 {
        let blocks = self.gdt_blocks.saturating_add(self.reserved_blocks).saturating_add(1);
        if has_super(group) { blocks } else { 0 }
    }

    /// The blocks of a group that files never get, where it holds its own metadata and no other's.
    pub(super) fn overhead(&self, group: u32) -> u64 {
        self.backup_blocks(group).saturating_add(self.table_blocks()).saturating_add(2)
    }

    /// The groups that hold copies of the superblock.
    pub(super) fn backups(&self) -> impl Iterator<Item = u32> {
        (1..self.groups).filter(|group| has_super(*group))
    }

    /// Whether descriptors have 64 bytes.
    pub(super) fn is_large(&self) -> bool {
        self.descriptor_bytes == 64
    }

    /// The block of the first group descriptors.
    pub(super) fn gdt_start(&self) -> u64 {
        self.first_block.saturating_add(1)
    }

    /// Whether so many blocks from this one on are blocks of the filesystem.
    pub(super) fn has_blocks(&self, first: u64, count: u64) -> bool {
        let end = first.checked_add(count);
        first >= self.first_block && end.is_some_and(|end| end <= self.blocks)
    }
}

fn count_fits(count: u32, max: u64) -> bool {
    u64::from(count) <= max
}

/// Whether a group has a copy of the superblock and the descriptors (feature `sparse_super`).
pub(super) fn has_super(group: u32) -> bool {
    let power_of = |base: u32| {
        let powers = std::iter::successors(Some(base), |power| power.checked_mul(base));
        powers.take_while(|power| *power <= group).any(|power| power == group)
    };
    group <= 1 || [3, 5, 7].into_iter().any(power_of)
}
