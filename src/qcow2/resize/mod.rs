//! Resizing: survey the image, plan the change, write everything new where nothing refers to it,
//! switch with one write in the header's first sector, release what was dropped.

mod apply;
mod fill;
mod plan;
mod rewrite;
mod shadow;
mod survey;
#[cfg(test)]
mod tests;
mod verify;

use crate::block::Patch;
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::refuse_read_only;
use crate::task::Task;
use crate::units::VirtualSize;

use self::plan::Plan;
use self::rewrite::Rewrites;
use self::survey::Survey;
use super::feature::Incompatible;
use super::geometry::{GuestOffset, HostCluster};
use super::header::{Header, Version};
use super::open::Qcow2;
use super::options::Preallocation;
use super::snapshot;

/// What a resize is asked to do.
#[derive(Debug, Clone, Copy)]
pub struct ResizeOptions {
    /// The size of the disk afterwards.
    pub virtual_size: VirtualSize,
    /// What is laid out for added clusters; inferred from the image when not given.
    pub preallocation: Option<Preallocation>,
}

/// How what is added is laid out.
#[derive(Debug, Clone, Copy)]
struct Growth {
    preallocation: Preallocation,
    /// Where what is below ends; `None` when the backing file was not opened: it is then hidden
    /// from everything that is added.
    below_end: Option<GuestOffset>,
}

/// What a resize did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resized {
    /// What was laid out for the added clusters; `None` when the disk shrank.
    pub preallocation: Option<Preallocation>,
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

impl Qcow2 {
    /// Makes the disk larger or smaller, down to the byte. Added bytes read as zeros whatever is
    /// below; clusters behind a smaller disk's end are released. The reference counts of a dirty
    /// image are rebuilt first. The caller must hold the image's lock. Everything written before is
    /// on the medium afterwards.
    ///
    /// A crash leaves the old disk or the new one, and at worst leaked clusters. So does a failure:
    /// where its error is not [`changed`](Error::changed), the image is used on as it was, with some
    /// of what was written before on the medium; else nothing more is written to it, and it must be
    /// opened again. One that was not written any more before stays as it is.
    ///
    /// # Errors
    /// Before anything is changed: [`Permission`](ErrorKind::Permission) for a storage that cannot
    /// be written, whatever the image was opened for, [`Corrupt`](ErrorKind::Corrupt),
    /// [`Dirty`](ErrorKind::Dirty) where the counts cannot be rebuilt,
    /// [`HasSnapshots`](ErrorKind::HasSnapshots),
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with bitmaps,
    /// [`BadSize`](ErrorKind::BadSize) beyond the format's limits,
    /// [`NoSpace`](ErrorKind::NoSpace) where what is added does not fit on a block device,
    /// [`BackingRefused`](ErrorKind::BackingRefused) where the backing file's bytes are needed and
    /// it was not opened. Afterwards ([`changed`](Error::changed) is set) what the storage says.
    pub fn resize(&mut self, options: &ResizeOptions, task: Task<'_>) -> Result<Resized> {
        self.resize_with(options, &[], task)
    }

    /// The same, and the guest's data changes with it: the size and all of `patches` become true at
    /// once, with one write to the header's first sector. What they change goes to clusters that
    /// nothing refers to until then. Patches lie on the new disk, and do not meet; with them, the
    /// size may also stay as it is.
    ///
    /// # Errors
    /// As [`resize`](Self::resize); [`BadRequest`](ErrorKind::BadRequest) for patches that meet, or of
    /// a disk that becomes smaller.
    pub fn resize_with(
        &mut self,
        options: &ResizeOptions,
        patches: &[Patch<'_>],
        task: Task<'_>,
    ) -> Result<Resized> {
        if !patches.is_empty() && options.virtual_size.bytes() < self.header.virtual_size {
            let message = "a disk that becomes smaller is not written to at once";
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        self.refuse_resize(options)?;
        self.settle()?;
        let rebuilt = self.header.incompatible.contains(Incompatible::DIRTY);
        if rebuilt {
            // What would be refused afterwards is refused before anything is written.
            let rewrites = self.rewrites(options, patches, task)?;
            self.plan(options, &rewrites, None)?;
            self.rebuild_refcounts(task)?;
        }
        let resized = self.change_whole(|image| {
            let resized = image.resize_clean(options, patches, task);
            if rebuilt { resized.map_err(Error::after_changes) } else { resized }
        })?;
        Ok(Resized { rebuilt, ..resized })
    }

    /// Returns the header after the switch, too.
    fn resize_clean(
        &self,
        options: &ResizeOptions,
        patches: &[Patch<'_>],
        task: Task<'_>,
    ) -> Result<(Header, Resized)> {
        let rewrites = self.rewrites(options, patches, task)?;
        let (plan, preallocation) = self.plan(options, &rewrites, Some(task))?;
        plan.log(self.header.virtual_size);
        let header = plan.header.clone();
        let freed_bytes = self.apply(plan, preallocation, &rewrites, task)?;
        Ok((header, Resized { preallocation, freed_bytes, rebuilt: false }))
    }

    fn rewrites<'a>(
        &self,
        options: &ResizeOptions,
        patches: &[Patch<'a>],
        task: Task<'_>,
    ) -> Result<Rewrites<'a>> {
        Rewrites::new(self, patches, options.virtual_size.bytes(), task)
    }

    /// Plans the resize, and how what is added is laid out; nothing when the disk shrinks. With a
    /// task, counts are believed, so they are verified first.
    fn plan(
        &self,
        options: &ResizeOptions,
        rewrites: &Rewrites<'_>,
        verify: Option<Task<'_>>,
    ) -> Result<(Plan, Option<Preallocation>)> {
        let new_size = options.virtual_size.bytes();
        let mut growth = (new_size >= self.header.virtual_size).then(|| Growth {
            preallocation: options.preallocation.unwrap_or(Preallocation::Off),
            below_end: self.below_end(),
        });
        let mut survey = Survey::new(self, new_size, growth, rewrites)?;
        let kept_end = match verify {
            Some(task) => self.verify(&mut survey, rewrites, task)?,
            None => HostCluster::ZERO,
        };
        if let Some(growth) = &mut growth
            && options.preallocation.is_none()
            && survey.edge_is_fully_mapped()
        {
            growth.preallocation = Preallocation::Metadata;
        }
        let plan = Plan::new(survey, new_size, growth, rewrites, kept_end)?;
        plan.growth.require_room(&*self.storage)?;
        Ok((plan, growth.map(|growth| growth.preallocation)))
    }

    /// Where what is below ends: at 0 without a backing file, unknown when it was not opened.
    fn below_end(&self) -> Option<GuestOffset> {
        match (&self.header.backing, &self.backing) {
            (None, _) => Some(GuestOffset::ZERO),
            (Some(_), Some(below)) => Some(GuestOffset::new(below.size())),
            (Some(_), None) => None,
        }
    }

    fn refuse_resize(&self, options: &ResizeOptions) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        let header = &self.header;
        header.require_not_corrupt()?;
        header.require_own_data()?;
        if header.bitmaps().is_some() {
            let message = "an image with persistent bitmaps cannot be resized";
            let refused = Error::new(ErrorKind::UnsupportedFeature, message);
            return Err(refused.in_case(Case::HasBitmaps));
        }
        if !header.geometry.holds(options.virtual_size) {
            let (size, max) = (options.virtual_size, header.geometry.max_virtual_size());
            let cluster = header.geometry.cluster_size();
            let message =
                format!("size {size}: clusters of {cluster} bytes map at most {max} bytes");
            return Err(Error::new(ErrorKind::BadSize, message));
        }
        if header.snapshots.count > 0 {
            let has_snapshots = |why: &str| Err(Error::new(ErrorKind::HasSnapshots, why));
            if header.version == Version::V2 {
                return has_snapshots(
                    "a version 2 image with internal snapshots cannot be resized",
                );
            }
            let snapshots = snapshot::read_snapshots(&*self.storage, header)?;
            if snapshots.iter().any(|snapshot| snapshot.disk_size_bytes.is_none()) {
                return has_snapshots("an internal snapshot does not say how large its disk is");
            }
        }
        Ok(())
    }
}
