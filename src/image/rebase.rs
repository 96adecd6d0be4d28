//! Another backing file below an open image, and another kind of image.

use super::opened::{Disk, Image};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{Amended, Amendment, Backing, BackingName, Qcow2, Rebased};
use crate::task::Task;

impl Image {
    /// Puts the image above `below`, named `name`, or above nothing, and lets it read the same: see
    /// [`Qcow2::rebase`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn rebase(
        &mut self,
        below: Option<Image>,
        name: Option<&BackingName>,
        task: Task<'_>,
    ) -> Result<Rebased> {
        let path = below.as_ref().map(|below| below.path().to_owned());
        let below = below.map(|below| Box::new(below) as Backing);
        let rebased = self.with_qcow2(|image| image.rebase(below, name, task))?;
        self.backing_path = path;
        Ok(rebased)
    }

    /// Names another backing file, or none, and nothing else: see [`Qcow2::rename_backing`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn rename_backing(&mut self, name: Option<&BackingName>) -> Result<()> {
        self.with_qcow2(|image| image.rename_backing(name))?;
        self.backing_path = None;
        Ok(())
    }

    /// What [`amend`](Self::amend) would do: see [`Qcow2::plan_amendment`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn plan_amendment(&mut self, amendment: &Amendment, task: Task<'_>) -> Result<Amended> {
        self.with_qcow2(|image| image.plan_amendment(amendment, task))
    }

    /// Makes the image what `amendment` says: see [`Qcow2::amend`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn amend(&mut self, amendment: &Amendment, task: Task<'_>) -> Result<Amended> {
        let amended = self.with_qcow2(|image| image.amend(amendment, task))?;
        if amendment.backing.is_some() {
            self.backing_path = None;
        }
        Ok(amended)
    }

    fn with_qcow2<T>(&mut self, run: impl FnOnce(&mut Qcow2) -> Result<T>) -> Result<T> {
        let done = match &mut self.disk {
            Disk::Qcow2(image) => run(image),
            Disk::Raw(_) => {
                let message = "a raw disk has no header that could be changed";
                Err(Error::new(ErrorKind::UnsupportedFeature, message))
            }
        };
        self.of_file(done)
    }
}
