//! Clusters that an interrupted change left counted, and that nothing refers to: who takes the work
//! up again frees them first.

use super::check::scan;
use super::feature::Incompatible;
use super::geometry::ClusterCount;
use super::header::Header;
use super::open::Qcow2;
use super::repair::{RepairMode, RepairPlan};
use crate::error::{Error, Result};
use crate::host::storage::refuse_read_only;
use crate::task::Task;

impl Qcow2 {
    /// Frees leaked clusters, for what is done next to take them again, and returns how many bytes they
    /// have; those behind the end of the file count, too. An image with which anything else is wrong,
    /// or whose counts are rebuilt anyway, is left alone. The caller must hold the image's lock. Reads
    /// all tables; what was written before is on the medium afterwards.
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
        let storage = &*self.storage;
        let found = scan(storage, &self.header, task.quiet())?;
        let wrong_counts = found.leaks.saturating_add(found.counted_beyond_file);
        if wrong_counts == 0 || found.require_sound().is_err() {
            return Ok(0);
        }
        let plan = RepairPlan::new(storage, &self.header, RepairMode::Leaks, task.quiet())?;
        if !plan.unmended.is_empty() {
            return Ok(0);
        }
        log::info!("freeing {wrong_counts} leaked clusters");
        self.change_whole(|image| {
            plan.apply(&*image.storage, task.quiet())?;
            let header = Header::read(&*image.storage).map_err(Error::after_changes)?;
            Ok((header, ()))
        })?;
        Ok(self.header.geometry.bytes_of(ClusterCount::new(wrong_counts)))
    }
}
