//! Whether a file was cut short. The last cluster of a sound image may end early: what is missing
//! was never written, and reads as zeros. If more came behind it once, it was counted.

use super::table::TablePiece;
use crate::block::salvage::LossReason;
use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::geometry::ENTRY_SIZE;
use crate::qcow2::header::Header;
use crate::qcow2::refblock;
use crate::qcow2::table::first_word;

/// Whether the image counts the cluster behind the file's last one; also where nobody can tell.
pub(super) fn was_cut(storage: &dyn Storage, header: &Header) -> Result<bool> {
    let (geometry, table) = (header.geometry, header.refcount_table);
    let behind = geometry.host_cluster_after(storage.len()?);
    let index = geometry.refblock_index(behind);
    let entries = u64::from(table.count).saturating_mul(geometry.cluster_size() / ENTRY_SIZE);
    if index >= entries {
        return Ok(false);
    }
    let at = table.offset.plus_bytes(index.saturating_mul(ENTRY_SIZE));
    let piece = TablePiece::read(storage, at, 8)?;
    let word = piece.entry(0, ENTRY_SIZE).map(|stored| first_word(stored).unwrap_or_default());
    let Ok(Ok(block)) = word.map(|word| RefcountTableEntry::from_word(word).decode(geometry))
    else {
        return Ok(true);
    };
    let Some(block) = block else { return Ok(false) };
    let piece = TablePiece::read(storage, block, geometry.cluster_len())?;
    let bits = geometry.refcount_order().bits();
    let counts: Result<&[u8], LossReason> = piece.entry(0, geometry.cluster_size());
    let count =
        counts.map(|counts| refblock::get(counts, bits, geometry.index_in_refblock(behind)));
    Ok(count != Ok(0))
}
