//! Counts, held against what refers to each cluster.

use std::collections::BTreeSet;

use super::rounds::AT_ONCE;
use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::check::{Finding, Ledger, Reference, ScanOptions, ScanReport, scan, scan_with};
use crate::qcow2::entry::L2Entry;
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::rebuild::TrueCounts;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

/// Lowers the counts of clusters that are counted more often than they are used, and changes nothing
/// else. `lowers` is shown each of them, with how often it is used, and says whether that one is.
pub(in crate::qcow2) fn lower(
    storage: &dyn Storage,
    header: &Header,
    ledger: &Ledger,
    mut lowers: impl FnMut(HostCluster, u64) -> bool,
) -> Result<()> {
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
            if stored.get(place) > used && lowers(first + ClusterCount::new(place), used) {
                lowered.set(place, used);
            }
        }
        if lowered == *stored { Ok(()) } else { storage.write_at(offset.get(), lowered.bytes()) }
    })
}

/// Lowers counts, and lets the entries of what has one owner now say so. Returns what a scan found
/// before.
pub(super) fn drop_leaks(
    storage: &dyn Storage,
    header: &Header,
    gap: (HostOffset, HostOffset),
    task: Task<'_>,
) -> Result<ScanReport> {
    let report = scan(storage, header, task)?;
    // There was none when the plan was begun. A medium that fails now and then must not make what it
    // did not give look free.
    if let Some(damage) = report.damage() {
        return Err(damage.to_error());
    }
    let mut sole = BTreeSet::new();
    lower(storage, header, report.ledger(), |cluster, used| {
        sole.extend((used == 1).then_some(cluster));
        true
    })?;
    let cluster = |to: &Reference| header.geometry.host_cluster(to.host);
    let which = |finding: &Finding| match finding {
        Finding::CopiedFlag { to, set: false, .. } => sole.contains(&cluster(to)),
        _ => false,
    };
    let options = ScanOptions { limit: AT_ONCE, which: &which, gap };
    while !sole.is_empty() {
        let found = scan_with(storage, header, options, task)?.findings;
        let entries = found.iter().filter_map(|finding| finding.reference()?.entry);
        entries.into_iter().try_for_each(|entry| set_copied(storage, entry))?;
        if found.len() < AT_ONCE {
            break;
        }
    }
    Ok(report)
}

fn set_copied(storage: &dyn Storage, at: HostOffset) -> Result<()> {
    let mut word = [0; 8];
    read_padded_at(storage, at.get(), &mut word)?;
    let entry = L2Entry { word: u64::from_be_bytes(word), bitmap: 0 };
    storage.write_at(at.get(), &entry.with_copied(true).word.to_be_bytes())
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
