//! Changing a disk as a whole: its size, and the guest's data with it.

use super::journal::{self, Lens, Place};
use super::opened::{Disk, Image};
use crate::block::{BlockDevice, Patch};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{Preallocation, ResizeOptions, Resized};
use crate::raw::{Raw, RawAllocation};
use crate::task::Task;
use crate::units::VirtualSize;

/// Size, and all of the guest's data that changes with it.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The size of the disk afterwards.
    pub virtual_size: VirtualSize,
    /// Of a qcow2 image: what is laid out for added clusters; inferred from the image when not
    /// given.
    pub preallocation: Option<Preallocation>,
    /// Of a raw disk: what is allocated for what is added.
    pub raw_allocation: RawAllocation,
    /// What is written to the disk. Where it cannot become true at once, it does so in these stages,
    /// first to last: each is on the medium before the next begins. Patches lie on the new disk and
    /// do not meet, whatever their stage.
    pub stages: Vec<Vec<Patch<'a>>>,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changed {
    /// Of a qcow2 image: what was laid out for added clusters; `None` when the disk shrank.
    pub preallocation: Option<Preallocation>,
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

impl Change<'_> {
    /// This size, with every default, and nothing else.
    pub fn of_size(virtual_size: VirtualSize) -> Self {
        Change {
            virtual_size,
            preallocation: None,
            raw_allocation: RawAllocation::Sparse,
            stages: Vec::new(),
        }
    }

    /// Whether something is written to the disk.
    fn writes(&self) -> bool {
        self.stages.iter().flatten().any(|patch| !patch.is_empty())
    }
}

impl Image {
    /// Makes the disk larger or smaller, and writes to it, so that a crash leaves the old disk or
    /// the new one: a qcow2 image by one write that makes everything true, a raw disk by a journal
    /// beside it (`DISK.vmdisk-journal`, where the disk really is), which the next writer finds.
    /// Added bytes read as zeros where nothing is written; what lies behind a smaller disk's end is
    /// lost, and nothing is written to a disk that becomes smaller. Everything written before is on
    /// the medium afterwards. `task` hears of the progress, and can stop it.
    ///
    /// After an error that is not [`changed`](Error::changed) the image is used on as it was; after
    /// one that is, nothing more is written to it, and it must be opened again, to write: that
    /// completes what was begun on a raw disk.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for a file that was opened to be read;
    /// [`BadRequest`](ErrorKind::BadRequest) for patches that meet, reach behind the end, or of a
    /// disk that becomes smaller; [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for patches
    /// of a raw disk on a block device, beside which there is no place for a journal, and for more
    /// than a journal holds; as [`Qcow2::resize_with`](crate::qcow2::Qcow2::resize_with) and
    /// [`Raw::resize`](crate::raw::Raw::resize).
    pub fn apply_atomically(&mut self, change: &Change<'_>, task: Task<'_>) -> Result<Changed> {
        let size = change.virtual_size;
        let changed = match &mut self.disk {
            Disk::Qcow2(image) => {
                let options =
                    ResizeOptions { virtual_size: size, preallocation: change.preallocation };
                let patches: Vec<_> = change.stages.iter().flatten().copied().collect();
                image.resize_with(&options, &patches, task).map(Changed::from)
            }
            Disk::Raw(disk) => {
                let place = self.journal.as_ref().map(|place| place as &dyn Place);
                change_raw(disk, place, change, task).map(|()| Changed::RAW)
            }
        };
        self.of_file(changed)
    }
}

/// Changes a raw disk, with a journal in `place` if anything is written to it.
pub(super) fn change_raw(
    disk: &mut Raw,
    place: Option<&dyn Place>,
    change: &Change<'_>,
    task: Task<'_>,
) -> Result<()> {
    let (size, allocation) = (change.virtual_size, change.raw_allocation);
    if !change.writes() {
        return disk.resize(size, allocation, task);
    }
    let Some(place) = place else {
        let message = "a block device has no place beside it for a journal, without which the \
                       guest's data does not change together";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message));
    };
    if size.bytes() < disk.size() {
        let message = "a disk that becomes smaller is not written to at once";
        return Err(Error::new(ErrorKind::BadRequest, message));
    }
    Patch::in_order(change.stages.iter().flatten().copied(), size.bytes())?;
    let lens = Lens { old: disk.size(), new: size.bytes(), allocation };
    disk.change_whole(size, |storage| journal::change(storage, place, lens, &change.stages, task))
}

impl Changed {
    const RAW: Changed = Changed { preallocation: None, freed_bytes: 0, rebuilt: false };

    fn from(resized: Resized) -> Changed {
        let Resized { preallocation, freed_bytes, rebuilt, .. } = resized;
        Changed { preallocation, freed_bytes, rebuilt }
    }
}
