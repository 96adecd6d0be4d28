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
    /// Frees leaked clusters, for what is done next to take them again, and returns how many bytes of the
    /// file they have. An image with which anything else is wrong, in which clusters in use are
    /// counted too often as well, or whose counts are rebuilt anyway, is left alone. The caller must
    /// hold the image's lock. Reads all tables; what was written before is on the medium afterwards.
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
        if !plan.unmended.is_empty() || !plan.changes_only_counts() {
            return Ok(0);
        }
        log::info!("freeing {wrong_counts} leaked clusters");
        self.change_whole(|image| {
            plan.apply(&*image.storage, task.quiet())?;
            let header = Header::read(&*image.storage).map_err(Error::after_changes)?;
            Ok((header, ()))
        })?;
        Ok(self.header.geometry.bytes_of(ClusterCount::new(found.leaks)))
    }
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
