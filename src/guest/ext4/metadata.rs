//! Where all the metadata is that groups have: what nothing else may use.

use std::ops::Range;

use super::Refusal;
use super::descriptor::Descriptors;
use super::geometry::Geometry;

/// Ranges of blocks, in their order; no two share a block.
#[derive(Debug)]
pub(super) struct Metadata(Vec<Range<u64>>);

impl Metadata {
    /// The copies of the superblock with all that follows on them, the bitmaps and the inode tables.
    pub(super) fn of(geometry: &Geometry, descriptors: &Descriptors) -> Result<Metadata, Refusal> {
        let of = |first: u64, count: u64| first..first.saturating_add(count);
        let mut ranges = Vec::new();
        for (group, descriptor) in descriptors.iter() {
            let copies = of(geometry.group_start(group), geometry.backup_blocks(group));
            if copies.end > geometry.blocks {
                let what = "its copy of the descriptors does not fit";
                return Err(Refusal::DescriptorDamaged { group, what });
            }
            ranges.extend(Some(copies).filter(|copies| !copies.is_empty()));
            ranges.push(of(descriptor.block_bitmap(), 1));
            ranges.push(of(descriptor.inode_bitmap(), 1));
            ranges.push(of(descriptor.inode_table(), geometry.table_blocks()));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let pairs = ranges.iter().zip(ranges.iter().skip(1));
        match pairs.into_iter().find(|(one, next)| one.end > next.start) {
            Some((_, next)) => Err(Refusal::Overlap { block: next.start }),
            None => Ok(Metadata(ranges)),
        }
    }

    /// What of it lies between these blocks.
    pub(super) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let before = self.0.partition_point(|one| one.end <= range.start);
        let rest = self.0.get(before..).unwrap_or_default().iter();
        let inside = rest.take_while(move |one| one.start < range.end);
        inside.map(move |one| one.start.max(range.start)..one.end.min(range.end))
    }

    /// Whether a block is metadata.
    pub(super) fn has(&self, block: u64) -> bool {
        self.within(block..block.saturating_add(1)).next().is_some()
    }
}
