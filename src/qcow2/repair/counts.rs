//! Counts, held against what refers to each cluster.

use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::check::{Finding, Ledger};
use crate::qcow2::geometry::HostCluster;
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::rebuild::TrueCounts;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::table::read_refcount_table;

/// Lowers the counts of clusters that are counted more often than they are used, and changes
/// nothing else.
pub(super) fn lower(storage: &dyn Storage, header: &Header, ledger: &Ledger) -> Result<()> {
    let geometry = header.geometry;
    let table = read_refcount_table(storage, header)?;
    Refcounts::new(storage, geometry, &table).each_block(|index, offset, stored| {
        let first = geometry.first_cluster_of_refblock(index);
        let last = first.get().saturating_add(geometry.refblock_entries()).saturating_sub(1);
        let mut lowered = stored.clone();
        let mut found = ledger.range(first.get()..=last).peekable();
        for place in 0..geometry.refblock_entries() {
            let used = found
                .next_if(|(cluster, _)| (*cluster - first).get() == place)
                .map_or(0, |(_, count)| count);
            if stored.get(place) > used {
                lowered.set(place, used);
            }
        }
        if lowered == *stored { Ok(()) } else { storage.write_at(offset.get(), lowered.bytes()) }
    })
}

/// Makes every count and every COPIED flag true; blocks that are missing go to `from` or behind it.
/// Returns where the refcount table is then.
pub(super) fn make_true(
    storage: &dyn Storage,
    header: &Header,
    ledger: &Ledger,
    from: HostCluster,
) -> Result<TableRef> {
    let counts = TrueCounts::plan(storage, header, ledger, from)?;
    counts.write(storage)?;
    counts.write_flags(storage, header)?;
    Ok(counts.table_ref().unwrap_or(header.refcount_table))
}

/// A count that the image has no room for.
pub(super) fn beyond_width(header: &Header, ledger: &Ledger) -> Option<Finding> {
    let max = header.geometry.refcount_order().max_count();
    let (cluster, found) = ledger.iter().find(|(_, count)| *count > max)?;
    Some(Finding::Undercount { host: header.geometry.host_offset(cluster), stored: max, found })
}
