//! What a snapshot alone holds on to.

use super::references::{cluster_at, count_data, each_table, snapshot_l1};
use super::table::Snapshot;
use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::check::Ledger;
use crate::qcow2::geometry::{ClusterCount, ENTRY_SIZE};
use crate::qcow2::header::Header;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

/// How many bytes of the image become free when this snapshot is deleted: clusters that are counted
/// as often as the snapshot refers to them. It is as true as the counts are, which those of a
/// [dirty](crate::qcow2::Incompatible::DIRTY) image are not. Memory: up to three bytes for each
/// cluster that the snapshot refers to, and the largest table.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) where a table cannot be read, and what the storage says.
pub fn exclusive_bytes(
    storage: &dyn Storage,
    header: &Header,
    snapshot: &Snapshot,
    task: Task<'_>,
) -> Result<u64> {
    let geometry = header.geometry;
    // Its bounds are checked with it.
    header.at_snapshot(storage, snapshot)?;
    let mut ledger = Ledger::default();
    let first = geometry.host_cluster(snapshot.l1.offset);
    let len = u64::from(snapshot.l1.count).saturating_mul(ENTRY_SIZE);
    ledger.add(first..first + geometry.clusters_for(len));
    let l1 = snapshot_l1(storage, snapshot.l1)?;
    each_table(storage, geometry, &l1, task, |_, at, table| {
        ledger.add(cluster_at(geometry, at.offset));
        count_data(header, table, &mut ledger)
    })?;
    let blocks = ledger.blocks(geometry);
    let table = read_refcount_table(storage, header)?;
    let mut exclusive = 0u64;
    Refcounts::new(storage, geometry, &table).each_block(|index, _, stored| {
        if !blocks.contains(&index) {
            return Ok(());
        }
        task.check()?;
        let Some(own) = ledger.block(geometry, index) else { return Ok(()) };
        exclusive = exclusive.saturating_add(own.alike(stored));
        Ok(())
    })?;
    Ok(geometry.bytes_of(ClusterCount::new(exclusive)))
}
