//! What is told of filesystems and arrays that only the guest can change.

use super::FilesystemKind;
use super::partitions::{Kind, Known};
use crate::block::BlockDevice;
use crate::error::Result;

/// What does not fill its place by less than this part of it, or this many bytes, is taken to fill
/// it: an allocation group of XFS, or a chunk of btrfs, that would be very small is not made.
const SLACK_PART: u64 = 64;
const SLACK_BYTES: u64 = 32 << 20;

const LINUX_RAID: &str = "an array of Linux (md)";
const ZFS: &str = "a pool of ZFS";

/// The size of a filesystem, in bytes, where it can be read.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn size_bytes(kind: FilesystemKind, device: &dyn BlockDevice) -> Result<Option<u64>> {
    match kind {
        FilesystemKind::Xfs => xfs(device),
        // `struct btrfs_super_block` (Linux `include/uapi/linux/btrfs_tree.h`), of the first copy at
        // 64 KiB: `dev_item.total_bytes`, of this device alone.
        FilesystemKind::Btrfs => Ok(read(device, 0x1_0000 + 0xC9 + 8)?.map(u64::from_le_bytes)),
        _ => Ok(None),
    }
}

/// `struct xfs_dsb` (Linux `fs/xfs/libxfs/xfs_format.h`): `sb_blocksize` and `sb_dblocks`.
fn xfs(device: &dyn BlockDevice) -> Result<Option<u64>> {
    let (block, blocks) = (read(device, 4)?, read(device, 8)?);
    let size = block.map(u32::from_be_bytes).zip(blocks.map(u64::from_be_bytes));
    Ok(size.and_then(|(block, blocks)| blocks.checked_mul(u64::from(block))))
}

/// Whether a filesystem of this size fills a place of that length, in bytes.
pub(super) fn fills(size_bytes: u64, place_bytes: u64) -> bool {
    let slack = place_bytes.checked_div(SLACK_PART).unwrap_or(0).min(SLACK_BYTES);
    size_bytes.saturating_add(slack) >= place_bytes
}

/// Whose a place is, although it looks like a filesystem or swap: an array that keeps its superblock at
/// the end, or what was made where a filesystem had been, and left its superblock.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn owner_of(device: &dyn BlockDevice) -> Result<Option<&'static str>> {
    if is_md_member(device)? {
        return Ok(Some(LINUX_RAID));
    }
    // `struct cache_sb` (Linux `drivers/md/bcache`), `struct bch_sb`: both begin with these bytes.
    if read(device, 4096 + 24)? == Some([0xc6, 0x85, 0x73, 0xf6]) {
        return Ok(Some("a cache of Linux (bcache)"));
    }
    Ok(is_zfs_member(device)?.then_some(ZFS))
}

/// Whose a partition is by its type.
pub(super) fn owner_by_kind(kind: Option<Kind>) -> Option<&'static str> {
    match kind?.known()? {
        Known::LinuxRaid => Some(LINUX_RAID),
        Known::LinuxLvm => Some("a volume group of LVM"),
        Known::LinuxLuks => Some("an encrypted volume (LUKS)"),
        _ => None,
    }
}

/// Linux `include/uapi/linux/raid/md_p.h`: the superblock of version 0.90 is in the last whole 64 KiB,
/// that of 1.0 between 8 and 12 KiB before the end, that of 1.1 at the beginning, that of 1.2 at 4 KiB.
fn is_md_member(device: &dyn BlockDevice) -> Result<bool> {
    const MAGIC: u32 = 0xa92b_4efc;
    let back = |bytes: u64, unit: u64| {
        let end = device.size().checked_sub(bytes)?;
        Some(end.saturating_sub(end.checked_rem(unit).unwrap_or(0)))
    };
    let places = [back(64 << 10, 64 << 10), back(8 << 10, 4 << 10), Some(0), Some(4096)];
    for at in places.into_iter().flatten() {
        // 0.90 is in the byte order of its machine: nearly always this one.
        if read(device, at)?.map(u32::from_le_bytes) == Some(MAGIC) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// OpenZFS `include/sys/vdev_impl.h`: the first label has a ring of uberblocks in its second half, each
/// of at least 1 KiB, which begin with this in the byte order of their machine.
fn is_zfs_member(device: &dyn BlockDevice) -> Result<bool> {
    const MAGIC: u64 = 0x00ba_b10c;
    const HALF: u64 = 128 << 10;
    if device.size() < HALF.saturating_mul(2) {
        return Ok(false);
    }
    let mut ring = vec![0; 128 << 10];
    device.read_at(HALF, &mut ring)?;
    let is_uberblock = |slot: &[u8]| {
        slot.first_chunk().is_some_and(|magic| {
            let magic = u64::from_le_bytes(*magic);
            magic == MAGIC || magic == MAGIC.swap_bytes()
        })
    };
    Ok(ring.chunks(1 << 10).any(is_uberblock))
}

/// Some bytes, if the device has them.
fn read<const N: usize>(device: &dyn BlockDevice, offset: u64) -> Result<Option<[u8; N]>> {
    let len = u64::try_from(N).unwrap_or(u64::MAX);
    if offset.checked_add(len).is_none_or(|end| end > device.size()) {
        return Ok(None);
    }
    let mut bytes = [0; N];
    device.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}
