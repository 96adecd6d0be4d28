//! The header, and what it leads to beside tables of clusters.

use std::mem::offset_of;

use super::Wound;
use super::dice::Dice;
use super::places::flip_bit;
use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::header::Header;
use crate::qcow2::raw_header::RawHeader;

/// Up to four bits of the header are flipped, behind its magic.
pub(super) fn flip_bits(storage: &dyn Storage, dice: &mut Dice) -> Result<Vec<Wound>> {
    const MAGIC_LEN: u64 = 4;
    /// The header of version 3, and some extensions.
    const REACH: u64 = 256;
    let mut wounds = Vec::new();
    for _ in 0..=dice.below(4) {
        let at = MAGIC_LEN.saturating_add(dice.below(REACH));
        wounds.extend(flip_bit(storage, at, dice)?);
    }
    Ok(wounds)
}

/// Where a field of the header is, and how many bytes it has.
const FIELDS: [(usize, usize); 12] = [
    (offset_of!(RawHeader, backing_file_offset), 8),
    (offset_of!(RawHeader, backing_file_size), 4),
    (offset_of!(RawHeader, cluster_bits), 4),
    (offset_of!(RawHeader, size), 8),
    (offset_of!(RawHeader, l1_size), 4),
    (offset_of!(RawHeader, l1_table_offset), 8),
    (offset_of!(RawHeader, refcount_table_offset), 8),
    (offset_of!(RawHeader, refcount_table_clusters), 4),
    (offset_of!(RawHeader, nb_snapshots), 4),
    (offset_of!(RawHeader, snapshots_offset), 8),
    (offset_of!(RawHeader, refcount_order), 4),
    (offset_of!(RawHeader, header_length), 4),
];

/// A field becomes large, small, or just a little more than it was.
pub(super) fn claim(storage: &dyn Storage, header: &Header, dice: &mut Dice) -> Result<Vec<Wound>> {
    let Some((offset, len)) = dice.pick(&FIELDS) else { return Ok(Vec::new()) };
    let value = match dice.below(6) {
        0 => u64::MAX,
        1 => i64::MAX.unsigned_abs(),
        2 => dice.next() >> dice.below(60).min(60),
        3 => header.geometry.cluster_size(),
        4 => dice.below(1 << 24),
        _ => 0,
    };
    let bytes = value.to_be_bytes();
    // Of a short field, the low bytes.
    let low = bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default();
    let offset = u64::try_from(offset).unwrap_or_default();
    Ok(vec![Wound::bytes(storage, offset, low.to_vec())?])
}

/// Some bits of the snapshot table or of the directory of bitmaps.
pub(super) fn garble_directory(
    storage: &dyn Storage,
    header: &Header,
    dice: &mut Dice,
) -> Result<Vec<Wound>> {
    const REACH: u64 = 80;
    let snapshots = (header.snapshots.count > 0).then_some(header.snapshots.offset);
    let bitmaps = header.bitmaps().map(|bitmaps| HostOffset::new(bitmaps.offset));
    let all: Vec<_> = snapshots.into_iter().chain(bitmaps).collect();
    let Some(directory) = dice.pick(&all) else { return Ok(Vec::new()) };
    let mut wounds = Vec::new();
    for _ in 0..=dice.below(4) {
        let at = directory.plus_bytes(dice.below(REACH));
        wounds.extend(flip_bit(storage, at.get(), dice)?);
    }
    Ok(wounds)
}
