//! What is told of filesystems and arrays that only the guest can change.

use super::FilesystemKind;
use crate::block::BlockDevice;
use crate::error::Result;

/// What does not fill its place by less than this part of it, or this many bytes, is taken to fill
/// it: an allocation group of XFS, or a chunk of btrfs, that would be very small is not made.
const SLACK_PART: u64 = 64;
const SLACK_BYTES: u64 = 32 << 20;

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

/// The array that a place is a member of, if it is one that keeps its superblock at the end: what
/// is at the front is then the filesystem, which does not say so.
///
/// Linux `include/uapi/linux/raid/md_p.h`: the superblock of version 0.90 is in the last whole
/// 64 KiB, that of 1.0 between 8 and 12 KiB before the end.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn array_of(device: &dyn BlockDevice) -> Result<Option<&'static str>> {
    const MAGIC: u32 = 0xa92b_4efc;
    const LINUX_RAID: &str = "an array of Linux (md)";
    let back = |bytes: u64, unit: u64| {
        let end = device.size().checked_sub(bytes)?;
        Some(end.saturating_sub(end.checked_rem(unit).unwrap_or(0)))
    };
    // 0.90 is in the byte order of its machine: nearly always this one.
    for at in [back(64 << 10, 64 << 10), back(8 << 10, 4 << 10)].into_iter().flatten() {
        if read(device, at)?.map(u32::from_le_bytes) == Some(MAGIC) {
            return Ok(Some(LINUX_RAID));
        }
    }
    Ok(None)
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
