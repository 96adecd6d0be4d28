//! Clusters that an interrupted change left counted, and that nothing refers to: who takes the work
//! up again frees them first.

use std::collections::BTreeSet;

use super::check::{ScanReport, scan};
use super::error::FormatError;
use super::feature::Incompatible;
use super::flush::switch_header;
use super::geometry::{ClusterCount, HostCluster};
use super::header::Header;
use super::open::Qcow2;
use super::repair::lower;
use super::table::{L2Table, each_l1_entry};
use crate::error::{Error, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

impl Qcow2 {
    /// Frees leaked clusters, for what is done next to take them again, and returns how many bytes of the
    /// file they have. An image with which anything else is wrong, or whose counts are rebuilt anyway,
    /// is left alone. The caller must hold the image's lock. Reads all tables; what was written before
    /// is on the medium afterwards.
    ///
    /// A crash leaves leaked clusters at worst.
    ///
    /// # Errors
    /// [`Permission`](crate::ErrorKind::Permission) for a storage that cannot be written,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for an image that is marked so,
    /// [`Cancelled`](crate::ErrorKind::Cancelled) before anything is changed, what the storage says.
    pub fn free_leaks(&mut self, task: Task<'_>) -> Result<u64> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.settle()?;
        if self.header.incompatible.contains(Incompatible::DIRTY) {
            return Ok(0);
        }
        let found = scan(&*self.storage, &self.header, task.quiet())?;
        if found.leaks == 0 && found.counted_beyond_file == 0 || found.require_sound().is_err() {
            return Ok(0);
        }
        task.check()?;
        let lowered =
            self.change_whole(|image| free_leaks(&*image.storage, &image.header, &found))?;
        Ok(lowered.freed_bytes)
    }
}

/// Counts that were lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lowered {
    /// How many.
    pub(super) counts: u64,
    /// Bytes of the file that are free since.
    pub(super) freed_bytes: u64,
}

/// Lowers the counts of clusters that are counted too often, as `found` in a sound image, and returns
/// the header then. What an entry of the disk alone refers to stays as it is where that does not say so: its
/// COPIED flag would have to change at the same moment.
///
/// # Errors
/// What the storage says, after changes.
pub(super) fn free_leaks(
    storage: &dyn Storage,
    header: &Header,
    found: &ScanReport,
) -> Result<(Header, Lowered)> {
    log::info!("freeing what is leaked, of {} clusters with too high counts", found.leaks);
    let end = header.geometry.host_cluster_after(storage.len()?);
    let known = Header { autoclear: header.autoclear.known(), ..header.clone() };
    if known != *header {
        switch_header(storage, &known).map_err(Error::after_changes)?;
    }
    let (mut counts, mut freed, mut sole) = (0u64, 0u64, BTreeSet::new());
    let lowered = lower(storage, &known, found.ledger(), |cluster, used| {
        if used == 1 {
            sole.insert(cluster);
            return false;
        }
        counts = counts.saturating_add(1);
        freed = freed.saturating_add(u64::from(used == 0 && cluster < end));
        true
    });
    lowered.map_err(Error::after_changes)?;
    if !sole.is_empty() {
        forget_unsaid(storage, &known, &mut sole)
            .map_err(|error| error.after_changes_if(counts > 0))?;
        counts = counts.saturating_add(u64::try_from(sole.len()).unwrap_or(u64::MAX));
        let lowered = lower(storage, &known, found.ledger(), |cluster, _| sole.contains(&cluster));
        lowered.map_err(Error::after_changes)?;
    }
    let freed_bytes = header.geometry.bytes_of(ClusterCount::new(freed));
    Ok((known, Lowered { counts, freed_bytes }))
}

/// Forgets those of the clusters to which an entry of the disk leads that has no COPIED flag. Those of
/// snapshots need none.
fn forget_unsaid(
    storage: &dyn Storage,
    header: &Header,
    clusters: &mut BTreeSet<HostCluster>,
) -> Result<()> {
    let geometry = header.geometry;
    each_l1_entry(storage, header, |entry| {
        let table = entry.decode(geometry).map_err(FormatError::into_error)?;
        let Some(table) = table else { return Ok(()) };
        if !table.copied {
            clusters.remove(&geometry.host_cluster(table.offset));
        }
        for entry in L2Table::read_padded(storage, table.offset, geometry)?.entries() {
            let mapping = header.mapping(entry).map_err(FormatError::into_error)?;
            if let Some(host) = mapping.host_cluster().filter(|host| !host.copied) {
                clusters.remove(&geometry.host_cluster(host.offset));
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockDevice;
    use crate::qcow2::fixtures_tests::{counted_twice, leaking};
    use crate::qcow2::shape_tests::{PLAIN, in_memory};
    use crate::task::{Cancel, Silent};

    /// What is counted and in use stays counted: an image that says so of itself is not to be marked
    /// corrupt on the way, if the power goes.
    #[test]
    fn what_is_in_use_is_left_alone() {
        let files = in_memory(&PLAIN.create());
        let image = PLAIN.open(&files, true).unwrap();
        image.write_at(0, &[7; 2048]).unwrap();
        image.close().unwrap();
        let cancel = Cancel::new();
        let task = Task::new(&Silent, &cancel);
        for (make, frees) in [(leaking as fn(Vec<u8>) -> Vec<u8>, true), (counted_twice, false)] {
            let before = make(files[0].contents());
            let files = in_memory(std::slice::from_ref(&before));
            let mut image = PLAIN.open(&files, true).unwrap();
            assert_eq!(image.free_leaks(task).unwrap() > 0, frees);
            assert_eq!(image.free_leaks(task).unwrap(), 0);
            drop(image);
            assert_eq!(files[0].contents() == before, !frees);
        }
    }
}
