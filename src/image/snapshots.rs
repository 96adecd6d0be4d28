//! The internal snapshots of an open image.

use super::opened::{Disk, Image};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{NewSnapshot, Qcow2, Snapshot, SnapshotChange};
use crate::task::Task;

impl Image {
    /// The internal snapshots, in the order in which they were taken; a raw disk has none.
    ///
    /// # Errors
    /// As [`Qcow2::snapshots`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        match &self.disk {
            Disk::Qcow2(image) => self.of_file(image.snapshots()),
            Disk::Raw(_) => Ok(Vec::new()),
        }
    }

    /// Keeps what the disk holds now under a name: see [`Qcow2::create_snapshot`].
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for an image that was opened to be read;
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a raw disk; as there.
    pub fn create_snapshot(&mut self, new: &NewSnapshot, task: Task<'_>) -> Result<SnapshotChange> {
        self.of_qcow2(|image| image.create_snapshot(new, task))
    }

    /// Makes the disk what it was when a snapshot was taken: see [`Qcow2::apply_snapshot`]. Images
    /// that have this one as their backing file are not looked for.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot) here and [`Qcow2::apply_snapshot`].
    pub fn apply_snapshot(
        &mut self,
        id_or_name: &str,
        disk_only: bool,
        task: Task<'_>,
    ) -> Result<SnapshotChange> {
        self.of_qcow2(|image| image.apply_snapshot(id_or_name, disk_only, task))
    }

    /// Deletes a snapshot: see [`Qcow2::delete_snapshot`].
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot) here and [`Qcow2::delete_snapshot`].
    pub fn delete_snapshot(&mut self, id_or_name: &str, task: Task<'_>) -> Result<SnapshotChange> {
        self.of_qcow2(|image| image.delete_snapshot(id_or_name, task))
    }

    fn of_qcow2<T>(&mut self, change: impl FnOnce(&mut Qcow2) -> Result<T>) -> Result<T> {
        let changed = match &mut self.disk {
            _ if !self.writable => {
                Err(Error::new(ErrorKind::Permission, "the image was opened to be read"))
            }
            Disk::Qcow2(image) => change(image),
            Disk::Raw(_) => {
                let message = "a raw disk has no internal snapshots";
                Err(Error::new(ErrorKind::UnsupportedFeature, message))
            }
        };
        self.of_file(changed)
    }
}
