//! What of a filesystem is free, as its block bitmaps say. It is believed only where everything that
//! counts blocks agrees: bitmaps, descriptors, superblock, and where metadata is.

use std::ops::Range;

use super::Refusal;
use super::bitmap::Bitmap;
use super::checksum::Checksums;
use super::descriptor::{Descriptor, Descriptors};
use super::filesystem::Filesystem;
use super::geometry::Geometry;
use super::metadata::Metadata;
use super::refusal::Stop;
use super::superblock::RawSuperblock;
use crate::block::BlockDevice;
use crate::error::Result;

/// The free blocks of a filesystem that was unmounted cleanly.
#[derive(Debug)]
pub struct FreeMap {
    geometry: Geometry,
    checksums: Checksums,
    descriptors: Descriptors,
    metadata: Metadata,
    free_bytes: u64,
}

impl Filesystem {
    /// Reads what is free. `device` begins with the filesystem.
    ///
    /// All group descriptors are read (at most 16 MiB), and every block bitmap.
    ///
    /// # Errors
    /// Whatever reading the device says; inside, why what the filesystem calls free is not believed.
    pub fn free_map(&self, device: &dyn BlockDevice) -> Result<Result<FreeMap, Refusal>> {
        match self.readable() {
            Err(refusal) => Ok(Err(refusal)),
            Ok((raw, geometry)) => Stop::apart(FreeMap::read(device, raw, geometry)),
        }
    }
}

impl FreeMap {
    fn read(
        device: &dyn BlockDevice,
        raw: &RawSuperblock,
        geometry: &Geometry,
    ) -> Result<FreeMap, Stop> {
        if RawSuperblock::read(device)?.as_deref() != Some(raw) {
            return Err(Refusal::Changed.into());
        }
        let checksums = raw.checksums();
        let descriptors = Descriptors::read(device, geometry)?;
        let totals = descriptors.check(geometry, checksums)?;
        let (groups, superblock) = (totals.free_blocks, raw.free_blocks());
        if groups != superblock {
            return Err(Refusal::FreeBlocks { groups, superblock }.into());
        }
        let metadata = Metadata::of(geometry, &descriptors)?;
        let free_bytes = geometry.offset(groups);
        let geometry = geometry.clone();
        let map = FreeMap { geometry, checksums, descriptors, metadata, free_bytes };
        for (group, descriptor) in map.descriptors.iter() {
            map.bitmap(device, group, &descriptor)?;
        }
        Ok(map)
    }

    /// How much is free, in bytes.
    pub const fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Shows every run of free blocks, in bytes from the beginning of the filesystem, ascending. The
    /// bitmaps are read again, from the device that the map was read from.
    ///
    /// # Errors
    /// What `visit` and reading the device say; inside, what is wrong with a bitmap by now.
    pub fn each_run(
        &self,
        device: &dyn BlockDevice,
        mut visit: impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<Result<(), Refusal>> {
        Stop::apart(self.show_runs(device, &mut visit))
    }

    fn show_runs(
        &self,
        device: &dyn BlockDevice,
        visit: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<(), Stop> {
        let geometry = &self.geometry;
        let mut run = 0..0;
        for (group, descriptor) in self.descriptors.iter() {
            let start = geometry.group_start(group);
            let bitmap = self.bitmap(device, group, &descriptor)?;
            for free in bitmap.free_runs(geometry.group_len(group)) {
                let free = start.saturating_add(free.start)..start.saturating_add(free.end);
                if run.end == free.start {
                    run.end = free.end;
                    continue;
                }
                self.show(run, visit)?;
                run = free;
            }
        }
        self.show(run, visit)
    }

    fn show(
        &self,
        run: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<(), Stop> {
        if !run.is_empty() {
            visit(self.geometry.offset(run.start)..self.geometry.offset(run.end))?;
        }
        Ok(())
    }

    /// What of the inode tables was never used, in bytes from the beginning of the filesystem,
    /// ascending: it reads as zeros, if the guest or `mkfs` has come to that.
    pub fn unused_inodes(&self) -> Vec<Range<u64>> {
        if !self.checksums.cover_descriptors() {
            return Vec::new();
        }
        let geometry = &self.geometry;
        let unused = |(_, descriptor): (u32, Descriptor)| {
            let table = geometry.offset(descriptor.inode_table());
            let used = geometry.group_inodes.saturating_sub(descriptor.itable_unused());
            let used = u64::from(used).saturating_mul(geometry.inode_bytes);
            let start = table.saturating_add(used);
            start..table.saturating_add(geometry.offset(geometry.table_blocks()))
        };
        let mut ranges: Vec<_> = self.descriptors.iter().map(unused).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        // Tables of neighbours lie side by side: none of them may be smaller than a cluster.
        ranges.dedup_by(|next, range| {
            let touches = next.start == range.end;
            if touches {
                range.end = next.end;
            }
            touches
        });
        ranges
    }

    /// The bitmap of a group; of one whose bitmap was never written, what it would be.
    fn bitmap(
        &self,
        device: &dyn BlockDevice,
        group: u32,
        descriptor: &Descriptor,
    ) -> Result<Bitmap, Stop> {
        let geometry = &self.geometry;
        let bitmap = match descriptor.has_no_block_bitmap(self.checksums) {
            false => Bitmap::read(device, geometry, (group, descriptor), self.checksums)?,
            true => {
                let (start, len) = (geometry.group_start(group), geometry.group_len(group));
                let mut bitmap = Bitmap::begun(geometry, 0, len);
                for used in self.metadata.within(start..start.saturating_add(len)) {
                    let used = used.start.saturating_sub(start)..used.end.saturating_sub(start);
                    bitmap.set(used, true);
                }
                bitmap
            }
        };
        bitmap.check(geometry, (group, descriptor), &self.metadata)?;
        Ok(bitmap)
    }
}
