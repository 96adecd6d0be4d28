//! A filesystem made to fill a partition that grew, as bytes to be written.
//!
//! What is written when, so that a guest that starts in between finds a filesystem that its kernel
//! can use, and that `e2fsck` makes sound without touching a file:
//!
//! - [`Beyond`](Stage::Beyond): the new groups, and their descriptors, behind the old ones in the
//!   primary table and in all copies. The old superblock does not lead there. Where the table grows,
//!   the resize inode gives up the blocks that it grows into, which no kernel looks at before it
//!   grows the filesystem itself.
//! - [`Descriptors`](Stage::Descriptors): the descriptors in these blocks. As long as the resize
//!   inode had them, `e2fsck` would have taken descriptors for numbers of blocks.
//! - [`Superblock`](Stage::Superblock): the primary superblock, in one write of 1 KiB. From now on
//!   there are the new groups. The blocks that the old last group has gained still count as used.
//! - [`Release`](Stage::Release): these blocks, in the bitmap and the descriptor of their group; what
//!   else the resize inode has; and the old copies of superblock and descriptors. Copies are what
//!   `e2fsck` goes by when the primary is lost: so they say what was true until the new size is.

use std::sync::Arc;

use super::Refusal;
use super::bitmap::Bitmap;
use super::checksum::Checksums;
use super::descriptor::{Descriptor, Descriptors};
use super::geometry::{Geometry, has_super};
use super::metadata::Metadata;
use super::refusal::Stop;
use super::resize_inode::{Piece, ResizeInode};
use super::superblock::{self, RawSuperblock};
use super::zeros::find_written;
use crate::block::BlockDevice;
use crate::error::Result;
use crate::guest::edit::{Content, Edits, Stage};

/// How a filesystem grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The size that it has, in bytes.
    pub old_size_bytes: u64,
    /// The size that it is going to have, in bytes. It may be the same: a group that would have
    /// next to no room for files is not added.
    pub new_size_bytes: u64,
    /// What is to be written, from the beginning of the device: nothing, where the size stays.
    pub edits: Edits,
}

/// Plans the growth of the filesystem with this superblock into `len_bytes`.
pub(super) fn plan(
    raw: &RawSuperblock,
    old: &Geometry,
    device: &dyn BlockDevice,
    len_bytes: u64,
) -> Result<Growth, Stop> {
    let new = old.grown(len_bytes)?;
    let (old_size_bytes, new_size_bytes) = (old.bytes(), new.bytes());
    if new == *old {
        return Ok(Growth { old_size_bytes, new_size_bytes, edits: Edits::new() });
    }
    let device_bytes = device.size();
    if device_bytes < old_size_bytes {
        return Err(Refusal::BeyondDevice { size_bytes: old_size_bytes, device_bytes }.into());
    }
    if RawSuperblock::read(device)?.as_deref() != Some(raw) {
        return Err(Refusal::Changed.into());
    }
    let found = Found::read(device, raw, old, &new)?;
    let draft = Draft {
        raw,
        old,
        new: &new,
        checksums: raw.checksums(),
        edits: Edits::new(),
        free_blocks: found.last.as_ref().map_or(0, |last| last.gained),
    };
    let edits = draft.finish(device, found)?;
    Ok(Growth { old_size_bytes, new_size_bytes, edits })
}

/// All that a plan begins with, read and checked.
struct Found {
    descriptors: Descriptors,
    last: Option<LastGroup>,
    resize_inode: Option<ResizeInode>,
}

impl Found {
    fn read(
        device: &dyn BlockDevice,
        raw: &RawSuperblock,
        old: &Geometry,
        new: &Geometry,
    ) -> Result<Found, Stop> {
        let checksums = raw.checksums();
        let descriptors = Descriptors::read(device, old)?;
        let totals = descriptors.check(old, checksums)?;
        let (groups, superblock) = (totals.free_blocks, raw.free_blocks());
        if groups != superblock {
            return Err(Refusal::FreeBlocks { groups, superblock }.into());
        }
        let (groups, superblock) = (totals.free_inodes, u64::from(raw.free_inodes_count.get()));
        if groups != superblock {
            return Err(Refusal::FreeInodes { groups, superblock }.into());
        }
        let metadata = Metadata::of(old, &descriptors)?;
        let last = LastGroup::read(device, (old, new), checksums, &descriptors, &metadata)?;
        let concerned = old.reserved_blocks > 0 && new.groups > old.groups;
        let resize_inode = match concerned {
            true => Some(ResizeInode::read(device, old, checksums, &descriptors, &metadata)?),
            false => None,
        };
        Ok(Found { descriptors, last, resize_inode })
    }
}

/// The old last group, as it is to be once it is longer.
struct LastGroup {
    group: u32,
    descriptor: Descriptor,
    /// Where it belongs, in bytes, and what it is; nothing where it was never written.
    bitmap: Option<Piece>,
    /// The number of blocks that it gains, all of them free.
    gained: u64,
}

impl LastGroup {
    fn read(
        device: &dyn BlockDevice,
        (old, new): (&Geometry, &Geometry),
        checksums: Checksums,
        descriptors: &Descriptors,
        metadata: &Metadata,
    ) -> Result<Option<LastGroup>, Stop> {
        let group = old.last_group();
        let (old_len, new_len) = (old.group_len(group), new.group_len(group));
        let gained = new_len.saturating_sub(old_len);
        if gained == 0 {
            return Ok(None);
        }
        let mut descriptor = descriptors.get(group);
        let mut bitmap = None;
        if descriptor.has_no_block_bitmap(checksums) {
            let start = old.group_start(group);
            let used = metadata.within(start..start.saturating_add(old_len));
            let used = used.fold(0, |sum: u64, range| {
                sum.saturating_add(range.end.saturating_sub(range.start))
            });
            if u64::from(descriptor.free_blocks()) != old_len.saturating_sub(used) {
                let what = "the number of free blocks of a group without a bitmap";
                return Err(Refusal::DescriptorDamaged { group, what }.into());
            }
        } else {
            let mut bits = Bitmap::read(device, old, (group, &descriptor), checksums)?;
            bits.check(old, (group, &descriptor), metadata)?;
            bits.set(old_len..new_len, false);
            bits.set(new_len..new.offset(8), true);
            descriptor.set_block_bitmap_checksum(new, bits.checksum(new, checksums));
            bitmap = Some((new.offset(descriptor.block_bitmap()), bits.into_bytes()));
        }
        let gained_blocks = u32::try_from(gained).unwrap_or(0);
        descriptor.set_free_blocks(descriptor.free_blocks().saturating_add(gained_blocks));
        descriptor.seal(new, group, checksums);
        Ok(Some(LastGroup { group, descriptor, bitmap, gained }))
    }
}

/// A growth in the making.
struct Draft<'a> {
    raw: &'a RawSuperblock,
    old: &'a Geometry,
    new: &'a Geometry,
    checksums: Checksums,
    edits: Edits,
    /// The number of free blocks gained so far.
    free_blocks: u64,
}

impl Draft<'_> {
    fn finish(mut self, device: &dyn BlockDevice, mut found: Found) -> Result<Edits, Stop> {
        let (old, new) = (self.old, self.new);
        let added = Added::of(self.new_groups(device)?, old);
        if let Some(last) = &found.last {
            found.descriptors.replace_last(new, &last.descriptor);
        }
        let kept: Arc<[u8]> = found.descriptors.into_bytes().into();
        let grown = self.raw.grown(old, new, self.free_blocks);

        if let Some(released) = found.resize_inode.as_ref().and_then(|i| i.released(old, new)) {
            self.put(Stage::Beyond, released.0, released.1);
        }
        self.add_descriptors(&added);
        for group in new.backups().filter(|group| *group >= old.groups) {
            self.put_copies(Stage::Beyond, group, &grown, &kept);
        }
        let primary = Content::Bytes(grown.copy_for(0));
        self.edits.push(Stage::Superblock, superblock::OFFSET, primary);
        if let Some(last) = found.last {
            self.put_last_group(last);
        }
        let pieces = found.resize_inode.map(|inode| inode.grown(old, new, self.checksums));
        for (offset, bytes) in pieces.into_iter().flatten() {
            self.put(Stage::Release, offset, bytes);
        }
        for group in old.backups() {
            self.put_copies(Stage::Release, group, &grown, &kept);
        }
        Ok(self.edits)
    }

    fn put(&mut self, stage: Stage, offset: u64, bytes: Vec<u8>) {
        self.edits.push(stage, offset, Content::Bytes(bytes.into()));
    }

    /// Writes the bitmaps of the new groups, as far as they must be, and zeros where their inode
    /// tables are not zero yet. Returns their descriptors, with zeros to the end of their block.
    fn new_groups(&mut self, device: &dyn BlockDevice) -> Result<Vec<u8>> {
        let (old, new) = (self.old, self.new);
        let table = new.offset(new.gdt_blocks);
        let len = table.saturating_sub(old.descriptor_offset(old.groups));
        let mut descriptors = Vec::new();
        let mut bitmaps = Bitmaps::default();
        for group in old.groups..new.groups {
            let mut descriptor = Descriptor::new(new, group, self.checksums);
            if !descriptor.has_no_block_bitmap(self.checksums) {
                let (bitmap, checksum) = bitmaps.of_blocks(new, group, self.checksums);
                descriptor.set_block_bitmap_checksum(new, checksum);
                let offset = new.offset(descriptor.block_bitmap());
                self.edits.push(Stage::Beyond, offset, Content::Bytes(bitmap));
            }
            if !descriptor.has_no_inode_bitmap(self.checksums) {
                let offset = new.offset(descriptor.inode_bitmap());
                let bitmap = bitmaps.of_inodes(new);
                self.edits.push(Stage::Beyond, offset, Content::Bytes(bitmap));
            }
            descriptor.seal(new, group, self.checksums);
            descriptors.extend_from_slice(descriptor.bytes(new));
            self.free_blocks = self.free_blocks.saturating_add(descriptor.free_blocks().into());
            let start = new.offset(descriptor.inode_table());
            let inodes = start..start.saturating_add(new.offset(new.table_blocks()));
            find_written(device, inodes, |offset, len| {
                self.edits.push(Stage::Beyond, offset, Content::Zeros(len));
            })?;
        }
        if new.groups > old.groups {
            descriptors.resize(usize::try_from(len).unwrap_or(0), 0);
        }
        Ok(descriptors)
    }

    /// Writes the descriptors of the new groups behind the old ones, in every group that has a copy.
    fn add_descriptors(&mut self, added: &Added) {
        let (old, new) = (self.old, self.new);
        for group in std::iter::once(0).chain(new.backups()) {
            let table = new.offset(new.group_start(group).saturating_add(1));
            let behind = table.saturating_add(old.descriptor_offset(old.groups));
            let rest = Content::Bytes(Arc::clone(&added.rest));
            self.edits.push(Stage::Beyond, behind, rest);
            let stage = if group == 0 { Stage::Descriptors } else { Stage::Beyond };
            let blocks = Content::Bytes(Arc::clone(&added.blocks));
            self.edits.push(stage, table.saturating_add(old.offset(old.gdt_blocks)), blocks);
        }
    }

    /// Writes a copy of the superblock and of the old groups' descriptors.
    fn put_copies(&mut self, stage: Stage, group: u32, raw: &RawSuperblock, kept: &Arc<[u8]>) {
        let start = self.new.group_start(group);
        let copy = Content::Bytes(raw.copy_for(group));
        self.edits.push(stage, self.new.offset(start), copy);
        let descriptors = self.new.offset(start.saturating_add(1));
        self.edits.push(stage, descriptors, Content::Bytes(Arc::clone(kept)));
    }

    /// Writes the bitmap and the primary descriptor of the old last group, one after the other: what
    /// a kernel finds between these two writes, it takes for damage of this group's free space.
    fn put_last_group(&mut self, last: LastGroup) {
        if let Some((offset, bitmap)) = last.bitmap {
            self.put(Stage::Release, offset, bitmap);
        }
        let table = self.new.offset(self.new.gdt_start());
        let offset = table.saturating_add(self.new.descriptor_offset(last.group));
        self.put(Stage::Release, offset, last.descriptor.bytes(self.new).to_vec());
    }
}

/// The descriptors of new groups, as bytes.
struct Added {
    /// Those that fit into the last block that has old ones.
    rest: Arc<[u8]>,
    /// The blocks behind that.
    blocks: Arc<[u8]>,
}

impl Added {
    fn of(mut descriptors: Vec<u8>, old: &Geometry) -> Added {
        let table = old.offset(old.gdt_blocks);
        let rest = table.saturating_sub(old.descriptor_offset(old.groups));
        let rest = usize::try_from(rest).unwrap_or(usize::MAX).min(descriptors.len());
        let blocks = descriptors.split_off(rest);
        Added { rest: descriptors.into(), blocks: blocks.into() }
    }
}

/// A block bitmap and its checksum.
type Sealed = (Arc<[u8]>, Option<u32>);

/// The bitmaps of new groups: most of them are the same.
#[derive(Default)]
struct Bitmaps {
    /// Of full groups without and with copies of the superblock.
    full: [Option<Sealed>; 2],
    inodes: Option<Arc<[u8]>>,
}

impl Bitmaps {
    /// The block bitmap of a group that has only its metadata, and its checksum.
    fn of_blocks(&mut self, geometry: &Geometry, group: u32, checksums: Checksums) -> Sealed {
        let len = geometry.group_len(group);
        let make = || {
            let bitmap = Bitmap::begun(geometry, geometry.overhead(group), len);
            let checksum = bitmap.checksum(geometry, checksums);
            (Arc::from(bitmap.into_bytes()), checksum)
        };
        let [plain, copies] = &mut self.full;
        match len == geometry.group_blocks {
            true if has_super(group) => copies.get_or_insert_with(make).clone(),
            true => plain.get_or_insert_with(make).clone(),
            false => make(),
        }
    }

    /// The bitmap of no inode at all.
    fn of_inodes(&mut self, geometry: &Geometry) -> Arc<[u8]> {
        let make = || Bitmap::begun(geometry, 0, geometry.group_inodes.into()).into_bytes().into();
        Arc::clone(self.inodes.get_or_insert_with(make))
    }
}
