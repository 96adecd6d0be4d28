//! How far a filesystem grows in so much room.

use super::Refusal;
use super::geometry::Geometry;

/// Sizes are rounded down to pages, as `resize2fs` does.
const PAGE_BYTES: u64 = 4096;

/// A last group with fewer blocks for files is left out (`resize2fs`, `adjust_fs_info`).
const USEFUL_BLOCKS: u64 = 50;

/// What a number of 32 bits can name.
const BLOCKS_MAX: u64 = 0xFFFF_FFFF;

impl Geometry {
    /// That of the same filesystem in `len_bytes`. It is the same where there is nothing to gain.
    pub(super) fn grown(&self, len_bytes: u64) -> Result<Geometry, Refusal> {
        let size_bytes = self.bytes();
        if len_bytes < size_bytes {
            return Err(Refusal::Smaller { size_bytes, wanted_bytes: len_bytes });
        }
        let pages = len_bytes.checked_div(PAGE_BYTES).unwrap_or(0).saturating_mul(PAGE_BYTES);
        let blocks = pages.checked_div(self.block_bytes).unwrap_or(0);
        let blocks = if self.wide { blocks } else { blocks.min(BLOCKS_MAX) };
        let blocks = self.with_useful_groups(blocks, len_bytes)?;
        if blocks <= self.blocks {
            return Ok(self.clone());
        }
        self.with_descriptors(blocks)
    }

    /// As many of these blocks as make groups that can be used.
    fn with_useful_groups(&self, blocks: u64, wanted_bytes: u64) -> Result<u64, Refusal> {
        let beyond = blocks.saturating_sub(self.first_block);
        let groups = beyond.div_ceil(self.group_blocks);
        let over = beyond.checked_rem(self.group_blocks).unwrap_or(0);
        // The blocks of descriptors and those reserved for them stay as many together, so that
        // asking for the same size again changes nothing.
        let last = u32::try_from(groups).unwrap_or(u32::MAX).saturating_sub(1);
        let needed = self.overhead(last).saturating_add(USEFUL_BLOCKS);
        if groups > u64::from(self.groups) && over > 0 && over < needed {
            return self.with_useful_groups(blocks.saturating_sub(over), wanted_bytes);
        }
        let inodes = |groups: u64| groups.saturating_mul(self.group_inodes.into());
        let fits = |groups: u64| inodes(groups) <= u64::from(u32::MAX);
        let fewer = groups.saturating_sub(1);
        match () {
            () if fits(groups) => Ok(blocks),
            () if fits(fewer) => {
                Ok(self.first_block.saturating_add(fewer.saturating_mul(self.group_blocks)))
            }
            () => Err(Refusal::TooManyInodes { wanted_bytes }),
        }
    }

    /// With so many blocks, where their groups can be described in the room that was reserved.
    fn with_descriptors(&self, blocks: u64) -> Result<Geometry, Refusal> {
        let mut grown = self.with_blocks(blocks)?;
        let taken = grown.gdt_blocks.saturating_sub(self.gdt_blocks);
        let Some(reserved_blocks) = self.reserved_blocks.checked_sub(taken) else {
            let limit_bytes = self.limit_bytes();
            return Err(match self.resize_inode {
                true => Refusal::ReservationExhausted { limit_bytes },
                false => Refusal::NoResizeInode { limit_bytes },
            });
        };
        if self.reserved_blocks > 0 && blocks > BLOCKS_MAX {
            // The resize inode names blocks with 32 bits.
            return Err(Refusal::SizeLimit { limit_bytes: self.offset(BLOCKS_MAX) });
        }
        grown.reserved_blocks = reserved_blocks;
        let roomy = |group: u32| grown.overhead(group) < grown.group_blocks;
        if grown.groups > self.groups && !(roomy(0) && roomy(2)) {
            return Err(Refusal::Damaged("groups that cannot hold their own metadata"));
        }
        Ok(grown)
    }

    /// The size up to which groups can be described.
    fn limit_bytes(&self) -> u64 {
        let table = self.gdt_blocks.saturating_add(self.reserved_blocks);
        let groups = table.saturating_mul(self.descriptors_per_block());
        let blocks = self.first_block.saturating_add(groups.saturating_mul(self.group_blocks));
        self.offset(if self.wide { blocks } else { blocks.min(BLOCKS_MAX) })
    }
}
