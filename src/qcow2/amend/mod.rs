//! Changing what an image is, in its place: its version, the width of its reference counts, what its
//! header says. The disk reads the same.
//!
//! What has to be written for that goes first, where it changes nothing: zeros that version 2 cannot
//! say, counts of another width where nothing refers to them. Then one change of the header
//! (`header_change`) makes everything true.

mod recount;
mod target;
#[cfg(test)]
mod tests;
mod zeros;

use self::recount::{Recount, require_width};
use self::target::target;
use super::check::scan;
use super::feature::{Autoclear, Incompatible};
use super::geometry::RefcountOrder;
use super::header::{BackingName, CompressionType, Header, Version};
use super::header_change::HeaderChange;
use super::open::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

/// What an image is to be. What is not said stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    /// The version of the format.
    pub version: Option<Version>,
    /// Whether reference counts may be updated late.
    pub lazy_refcounts: Option<bool>,
    /// The width of reference counts; that of version 2 when not given and it becomes that.
    pub refcount_order: Option<RefcountOrder>,
    /// How clusters will be compressed, for an image that has no compressed ones.
    pub compression: Option<CompressionType>,
    /// The backing file, or none: its name alone, as by [`Qcow2::rename_backing`].
    pub backing: Option<Option<BackingName>>,
    /// Whether the external data file is the disk, byte for byte.
    pub raw_data_file: Option<bool>,
}

/// What an amendment does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amended {
    /// The header before.
    pub old: Header,
    /// The header afterwards; where its tables are may differ in the file.
    pub new: Header,
    /// Bytes of the disk whose entries may not say zero any more.
    pub unsaid_zero_bytes: u64,
}

impl Amended {
    /// Whether there is anything to do.
    pub fn is_change(&self) -> bool {
        self.old != self.new
    }
}

/// Refuses what the header speaks against, and of a dirty image, whose counts are made true when it is
/// opened to be written, what refers to its clusters; nothing is written. Returns what it would become.
///
/// # Errors
/// As [`Qcow2::plan_amendment`].
pub fn refuse_amendment(
    storage: &dyn Storage,
    header: &Header,
    amendment: &Amendment,
    task: Task<'_>,
) -> Result<Header> {
    header.require_not_corrupt()?;
    let target = target(storage, header, amendment)?;
    HeaderChange::plan(storage, &target)?;
    let dirty = header.incompatible.contains(Incompatible::DIRTY);
    if dirty && target.geometry != header.geometry {
        let found = scan(storage, header, task.quiet())?;
        require_width(&found, header.geometry, target.geometry)?;
    }
    Ok(target)
}

impl Qcow2 {
    /// What [`amend`](Self::amend) would do, to an image that is open to be read too; nothing is
    /// written.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for an image that is marked so, and, where it becomes one of
    /// version 2 or its counts get another width, for one that a scan finds damaged;
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what does not go together, with
    /// what the image has already, and for a reference count that does not fit;
    /// [`HasSnapshots`](ErrorKind::HasSnapshots) for another version where snapshots have or lack
    /// something, and for another compression type;
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for another compression type where
    /// clusters are compressed, for a header with fields that only a later version knows, and where
    /// the first cluster has no room to change it safely; [`BadRequest`](ErrorKind::BadRequest) for
    /// a backing file name that does not fit;
    /// [`BackingRefused`](ErrorKind::BackingRefused) where what is below is needed and was not
    /// opened.
    pub fn plan_amendment(&self, amendment: &Amendment, task: Task<'_>) -> Result<Amended> {
        let storage = &*self.storage;
        let (old, new) = (&self.header, refuse_amendment(storage, &self.header, amendment, task)?);
        if new.compression != old.compression {
            if old.snapshots.count > 0 {
                let message = "internal snapshots may have compressed clusters";
                return Err(Error::new(ErrorKind::HasSnapshots, message));
            }
            if scan(storage, old, task.quiet())?.has_compressed {
                let message = "the image has clusters that are compressed as it says now";
                return Err(Error::new(ErrorKind::UnsupportedFeature, message));
            }
        }
        let dirty = old.incompatible.contains(Incompatible::DIRTY);
        if !dirty && (new.geometry != old.geometry || is_downgrade(old, &new)) {
            // What damaged entries lead to would be written over.
            self.require_sound(task.quiet())?;
        }
        let mut unsaid_zero_bytes = 0;
        if is_downgrade(old, &new) {
            unsaid_zero_bytes = self.said_zero(task)?;
            if unsaid_zero_bytes > 0 && old.backing.is_some() && self.backing.is_none() {
                let message = "what is below the image was not opened, and zeros hide it";
                return Err(Error::new(ErrorKind::BackingRefused, message));
            }
        }
        if new.geometry != old.geometry && !dirty {
            Recount::plan(storage, old, new.geometry)?;
        }
        Ok(Amended { old: old.clone(), new, unsaid_zero_bytes })
    }

    /// Makes the image what `amendment` says; its disk reads the same, unless the name of its
    /// backing file changes, which is then not open any more. Where reference counts get another width,
    /// leaked clusters are freed first. The caller must hold the image's lock. A crash or a failure
    /// leaves the old image or the new one, with leaked clusters at worst.
    ///
    /// # Errors
    /// Before anything is changed, [`Permission`](ErrorKind::Permission) for an image that was
    /// opened to be read, and as [`plan_amendment`](Self::plan_amendment); then what the storage
    /// says.
    pub fn amend(&mut self, amendment: &Amendment, task: Task<'_>) -> Result<Amended> {
        refuse_read_only(&*self.storage)?;
        if !self.options.writable {
            return Err(Error::new(ErrorKind::Permission, "the image was opened to be read"));
        }
        let amended = self.plan_amendment(amendment, task)?;
        if !amended.is_change() {
            return Ok(amended);
        }
        let before = self.failure.changes();
        let done = self.amend_as_planned(&amended, amendment, task);
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
            self.settle()?;
        }
        let changed = self.failure.changes() != before;
        done.map_err(|error| error.after_changes_if(changed))?;
        Ok(amended)
    }

    fn amend_as_planned(
        &mut self,
        amended: &Amended,
        amendment: &Amendment,
        task: Task<'_>,
    ) -> Result<()> {
        let (old, new) = (&amended.old, &amended.new);
        let bitmaps = old.autoclear.contains(Autoclear::BITMAPS);
        if is_downgrade(old, new) {
            if amended.unsaid_zero_bytes > 0 {
                self.say_no_zero(task)?;
            }
            self.forget_zeros_behind(task)?;
        }
        let raw_data = Autoclear::RAW_EXTERNAL_DATA;
        if new.autoclear.contains(raw_data) && !old.autoclear.contains(raw_data) {
            self.fill_data_file(task)?;
        }
        self.settle()?;
        if new.geometry != old.geometry {
            // What is counted behind the file's end would be in it: new counts lie behind all.
            self.free_leaks(task)?;
        }
        self.change_whole(|image| image.switch_all(amendment, bitmaps))?;
        if amendment.backing.is_some() {
            self.backing = None;
        }
        Ok(())
    }

    /// Counts of another width, and the header; returns that.
    fn switch_all(&self, amendment: &Amendment, bitmaps: bool) -> Result<(Header, ())> {
        let (storage, old) = (&*self.storage, &self.header);
        let mut new = target(storage, old, amendment)?;
        // The guest's data did not change.
        if bitmaps && new.version == Version::V3 {
            new = new.with_bitmaps(new.bitmaps());
        }
        let recount = match new.geometry == old.geometry {
            true => None,
            false => Some(Recount::plan(storage, old, new.geometry)?),
        };
        if let Some(recount) = &recount {
            new.refcount_table = recount.table_ref();
        }
        let change = HeaderChange::plan(storage, &new)?;
        match &recount {
            None => change.apply(storage)?,
            Some(recount) => {
                recount.write_and(storage, || change.apply(storage))?;
                recount.release_old(storage).map_err(Error::after_changes)?;
            }
        }
        Ok((change.header().clone(), ()))
    }
}

fn is_downgrade(old: &Header, new: &Header) -> bool {
    (old.version, new.version) == (Version::V3, Version::V2)
}
