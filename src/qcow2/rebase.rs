//! Another backing file below an image.
//!
//! The image goes on to read the same: where what it shows of the old chain differs in the new one,
//! that becomes its own first, which changes nothing of what it shows; everything is on the medium
//! before the header names the new file. So whenever the power goes, the image reads the same above
//! the file that it names.

use super::feature::Autoclear;
use super::geometry::GuestOffset;
use super::header::{BackingName, Header};
use super::header_change::HeaderChange;
use super::lengths::len_of;
use super::open::{Backing, Qcow2};
use crate::block::{BlockDevice, Content, ExtentKind, MemoryDevice, is_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

/// So many bytes are compared at a time; no less than a cluster.
const PIECE: u64 = 1 << 20;

/// What became the image's own, since it differs in the new chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebased {
    /// Bytes of data that were written.
    pub written_bytes: u64,
    /// Bytes that the image says are zeros now.
    pub zeroed_bytes: u64,
    /// Bytes of clusters that an interrupted change had left leaked, and that were freed first.
    pub leaked_bytes: u64,
}

/// Refuses what would keep the image in `storage`, whose header was read before, from getting
/// `name` as its backing file; nothing is written. Where its contents are to be kept, also what
/// keeps them from being the same.
///
/// # Errors
/// [`Permission`](ErrorKind::Permission) for a storage that cannot be written,
/// [`Corrupt`](ErrorKind::Corrupt) for an image that is marked so,
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for one whose external data file is to be
/// read as a raw disk; [`BadRequest`](ErrorKind::BadRequest) for a name that does not fit,
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) where the first cluster has no room to
/// change it safely; [`HasSnapshots`](ErrorKind::HasSnapshots) where contents are kept: what the
/// image's snapshots show of what is below would change.
pub fn refuse_rebase(
    storage: &dyn Storage,
    header: &Header,
    name: Option<&BackingName>,
    keeps_contents: bool,
) -> Result<()> {
    refuse_read_only(storage)?;
    header.require_not_corrupt()?;
    if name.is_some() && header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA) {
        let message = "an image whose external data file is read as a raw disk has no backing file";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message));
    }
    if keeps_contents && header.snapshots.count > 0 {
        let count = header.snapshots.count;
        let message = format!(
            "internal snapshots ({count}) show what is below too, and would show something else"
        );
        return Err(Error::new(ErrorKind::HasSnapshots, message));
    }
    HeaderChange::plan(storage, &header.with_backing(name)).map(drop)
}

/// Names another backing file in an image that nobody has opened yet, and whose header this is. It is
/// on the medium afterwards.
///
/// # Errors
/// As [`refuse_rebase`] where contents are not kept, and what the storage says.
pub fn name_backing(storage: &dyn Storage, header: &Header, backing: &BackingName) -> Result<()> {
    HeaderChange::plan(storage, &header.with_backing(Some(backing)))?.apply(storage)
}

impl Qcow2 {
    /// Puts the image above `below`, named `name`, or above nothing, and lets it read the same: what
    /// differs there becomes its own. The caller must hold the image's lock, and all that is below
    /// before and afterwards must stay as it is. Leaked clusters are freed first, such as an earlier
    /// rebase that was interrupted left behind. `task` can stop it: the image then has more of its
    /// own than before, and is still above the old chain. Bitmaps stay as valid as they are, for the
    /// guest's data does not change.
    ///
    /// # Errors
    /// Before anything is changed, as [`refuse_rebase`], and
    /// [`BackingRefused`](ErrorKind::BackingRefused) where what is below now was not opened; then
    /// what reading and writing says. Where [`changed`](Error::changed) is set, the image may have
    /// more of its own than before, and reads the same.
    pub fn rebase(
        &mut self,
        below: Option<Backing>,
        name: Option<&BackingName>,
        task: Task<'_>,
    ) -> Result<Rebased> {
        refuse_rebase(&*self.storage, &self.header, name, true)?;
        if self.backing.is_none() && self.header.backing.is_some() {
            let message = "what is below the image was not opened, so it cannot be kept";
            return Err(Error::new(ErrorKind::BackingRefused, message));
        }
        // What nothing was written to reads as zeros, and must say so above another chain.
        self.backing.get_or_insert_with(|| Box::new(MemoryDevice::default()));
        let before = self.failure.changes();
        // Until the end, nothing but what the disk shows already is written.
        let kept = std::mem::replace(&mut self.options.keeps_contents, true);
        let moved = self.move_above(below.as_deref(), name, task);
        // Then the next write is asked about bitmaps again. What was copied is kept.
        let settled = self.settle();
        self.options.keeps_contents = kept;
        let moved = match moved {
            Err(error) if error.kind() != ErrorKind::Cancelled => Err(error),
            moved => settled.and(moved),
        };
        match moved {
            Ok(rebased) => {
                self.backing = below;
                Ok(rebased)
            }
            Err(error) => {
                let changed = self.failure.changes() != before;
                Err(error.after_changes_if(changed))
            }
        }
    }

    fn move_above(
        &mut self,
        below: Option<&dyn BlockDevice>,
        name: Option<&BackingName>,
        task: Task<'_>,
    ) -> Result<Rebased> {
        let leaked_bytes = self.free_leaks(task)?;
        let rebased = self.keep_what_differs(below, task)?;
        self.change_header(|header| Ok(header.with_backing(name)))?;
        Ok(Rebased { leaked_bytes, ..rebased })
    }

    /// Names another backing file, or none, and nothing else: what the image shows of it changes
    /// with it. What was open below it is not any more.
    ///
    /// # Errors
    /// As [`refuse_rebase`], and what the storage says.
    pub fn rename_backing(&mut self, name: Option<&BackingName>) -> Result<()> {
        refuse_rebase(&*self.storage, &self.header, name, false)?;
        self.change_header(|header| Ok(header.with_backing(name)))?;
        self.backing = None;
        Ok(())
    }

    /// Makes the image's own what it shows of what is below and `below` does not have.
    fn keep_what_differs(
        &self,
        below: Option<&dyn BlockDevice>,
        task: Task<'_>,
    ) -> Result<Rebased> {
        let geometry = self.header.geometry;
        let (size, unit) = (self.header.virtual_size, geometry.subcluster_size());
        let piece = PIECE.max(geometry.cluster_size());
        let mut rebased = Rebased::default();
        let mut at = 0;
        while at < size {
            task.step("rebase", at, size)?;
            let extent = self.extent(at, size)?;
            let end = at.saturating_add(extent.len);
            if extent.kind != ExtentKind::Unallocated {
                at = end;
                continue;
            }
            let (old, new) = (self.content(at, end)?, content(below, at, end)?);
            if old.is_zero && new.is_zero {
                at = old.end.min(new.end);
                continue;
            }
            // To the end of a piece of the disk, so that the next one begins with a unit.
            let end = at.saturating_add(1).checked_next_multiple_of(piece).unwrap_or(end).min(end);
            self.keep_piece(below, at, end, unit, &mut rebased)?;
            at = end;
        }
        task.step("rebase", size, size)?;
        let Rebased { written_bytes, zeroed_bytes, .. } = rebased;
        log::info!("kept what differs: {written_bytes} bytes of data, {zeroed_bytes} of zeros");
        Ok(rebased)
    }

    /// The same, of the bytes from `at` to `end`, in units of the disk.
    fn keep_piece(
        &self,
        below: Option<&dyn BlockDevice>,
        at: u64,
        end: u64,
        unit: u64,
        rebased: &mut Rebased,
    ) -> Result<()> {
        let len = usize::try_from(end.saturating_sub(at)).unwrap_or_default();
        let (mut old, mut new) = (vec![0; len], vec![0; len]);
        self.read_mapped(GuestOffset::new(at), &mut old)?;
        read_below(below, at, &mut new)?;
        let (mut at, mut old, mut new) = (at, &*old, &*new);
        while !old.is_empty() {
            let unit_end = at.saturating_add(1).checked_next_multiple_of(unit).unwrap_or(end);
            let len = usize::try_from(unit_end.saturating_sub(at)).unwrap_or_default();
            let (ours, rest) = old.split_at(len.min(old.len()));
            let (theirs, rest_of_theirs) = new.split_at(len.min(new.len()));
            if ours != theirs {
                self.keep(at, ours, rebased)?;
            }
            (at, old, new) = (at.saturating_add(len_of(ours)), rest, rest_of_theirs);
        }
        Ok(())
    }

    /// Makes these bytes, which the disk shows already, the image's own.
    fn keep(&self, at: u64, bytes: &[u8], rebased: &mut Rebased) -> Result<()> {
        let (offset, len) = (GuestOffset::new(at), len_of(bytes));
        if is_zero(bytes) && self.header.may_say_zero() {
            rebased.zeroed_bytes = rebased.zeroed_bytes.saturating_add(len);
            return self.zero_mapped(offset, len);
        }
        rebased.written_bytes = rebased.written_bytes.saturating_add(len);
        self.write_mapped(offset, bytes)
    }
}

/// What the bytes from `at` on read as on a disk, if there is one, behind whose end are zeros.
fn content(disk: Option<&dyn BlockDevice>, at: u64, end: u64) -> Result<Content> {
    match disk.filter(|disk| at < disk.size()) {
        Some(disk) => disk.content(at, end.min(disk.size())),
        None => Ok(Content { is_zero: true, end }),
    }
}

/// Fills `buf`, which is zeros, with what a disk, if there is one, has at `at`.
fn read_below(disk: Option<&dyn BlockDevice>, at: u64, buf: &mut [u8]) -> Result<()> {
    let Some(disk) = disk else { return Ok(()) };
    let inside = usize::try_from(disk.size().saturating_sub(at)).unwrap_or(usize::MAX);
    let inside = inside.min(buf.len());
    match buf.get_mut(..inside).filter(|inside| !inside.is_empty()) {
        Some(inside) => disk.read_at(at, inside),
        None => Ok(()),
    }
}
