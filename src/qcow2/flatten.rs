//! Making an image stand alone: what shows through from below is copied into it, and only when all
//! of that is on the medium does the header stop naming a backing file.
//!
//! Until then the backing file is named and shows what was not copied yet; what was copied is the
//! same. So the disk shows the same at every point, and a second run goes on where the first ended.

use super::feature::Autoclear;
use super::geometry::GuestOffset;
use super::header::{BackingName, Header};
use super::header_change::HeaderChange;
use super::lengths::len_of;
use super::open::Qcow2;
use crate::block::{BlockDevice, ExtentKind, Layers, Shown, is_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::task::Task;

/// So much is copied at once, in bytes; more where clusters are larger.
const PIECE: u64 = 1 << 20;

/// What making an image stand alone did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Flattened {
    /// Bytes that were copied from below.
    pub copied_bytes: u64,
}

impl Qcow2 {
    /// Copies what shows through from below into the image, as far as that is not zeros, and then
    /// takes the backing file's name out of the header. Bitmaps stay valid: the disk shows the same.
    /// The image must have been opened to be written, above its backing file, and its lock be held.
    ///
    /// A crash, a failure and a stop on request leave an image that shows the same, above its backing
    /// file or alone, with leaked clusters at worst; where the error is [`changed`](Error::changed), a
    /// part may have been copied.
    ///
    /// # Errors
    /// Before anything is changed: [`Permission`](ErrorKind::Permission) for an image that was opened
    /// to be read; [`HasSnapshots`](ErrorKind::HasSnapshots): what internal snapshots show of the
    /// backing file would be lost; [`BackingRefused`](ErrorKind::BackingRefused) where that was not
    /// opened; [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) where the header cannot be changed.
    /// Afterwards what the storage says.
    pub fn flatten(&mut self, task: Task<'_>) -> Result<Flattened> {
        if self.header.backing.is_none() {
            return Ok(Flattened::default());
        }
        self.refuse_flatten()?;
        let vouched = self.header.autoclear.contains(Autoclear::BITMAPS);
        let copied = self.telling(|| self.copy_up(task));
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                // What was copied is kept, so that the next call goes on from there, and bitmaps are as
                // true as before. Where this fails too, the first failure is the one that is told.
                let _ = match vouched {
                    true => self.change_header(|header| Ok(with_bitmaps_valid(header.clone()))),
                    false => self.settle(),
                };
                return Err(error);
            }
        };
        let stands_alone = |header: &Header| {
            let header = header.with_backing(None);
            Ok(if vouched { with_bitmaps_valid(header) } else { header })
        };
        let changed = self.change_header(stands_alone);
        changed.map_err(|error| if copied > 0 { error.after_changes() } else { error })?;
        self.backing = None;
        Ok(Flattened { copied_bytes: copied })
    }

    fn refuse_flatten(&self) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        if !self.options.writable {
            return Err(Error::new(ErrorKind::Permission, "the image was opened to be read"));
        }
        if self.backing.is_none() {
            let message = "the backing file is needed, and was not opened";
            return Err(Error::new(ErrorKind::BackingRefused, message));
        }
        let count = self.header.snapshots.count;
        if count > 0 {
            let message = format!(
                "{count} internal snapshots show what is below where they hold nothing: without a \
                 backing file that would be lost"
            );
            return Err(Error::new(ErrorKind::HasSnapshots, message));
        }
        HeaderChange::plan(&*self.storage, &self.header.with_backing(None)).map(drop)
    }

    /// Copies what shows through. Returns how many bytes that was.
    fn copy_up(&self, task: Task<'_>) -> Result<u64> {
        let layers = Layers::below(self);
        let below = layers.size().min(self.header.virtual_size);
        let (mut at, mut copied) = (0u64, 0u64);
        while at < below {
            task.step("flatten", at, below)?;
            let extent = self.extent(at, below)?;
            let end = at.saturating_add(extent.len);
            if extent.kind != ExtentKind::Unallocated {
                at = end;
                continue;
            }
            let (shown, shown_end) = layers.run(at, end)?;
            if let Shown::Data(_) = shown {
                let (written, copied_to) = self.copy_piece(at, shown_end)?;
                copied = copied.saturating_add(written);
                at = copied_to;
            } else {
                at = shown_end;
            }
        }
        task.step("flatten", below, below)?;
        Ok(copied)
    }

    /// Copies what is not zeros of the units of allocation that lie between these offsets, of which
    /// nothing is allocated, up to a piece. Returns how many bytes that was, and where it ends.
    fn copy_piece(&self, from: u64, to: u64) -> Result<(u64, u64)> {
        let geometry = self.header.geometry;
        let unit = geometry.subcluster_size();
        let within = geometry.within_cluster(GuestOffset::new(from));
        let ahead = within.saturating_sub(geometry.subcluster_start(within));
        let start = from.saturating_sub(ahead);
        let end = to.checked_next_multiple_of(unit).unwrap_or(to);
        let most = start.saturating_add(PIECE.max(geometry.cluster_size()));
        let end = end.min(most).min(self.header.virtual_size);
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or_default()];
        self.read_below(GuestOffset::new(start), &mut bytes)?;
        let unit = usize::try_from(unit).unwrap_or(usize::MAX);
        let units: Vec<_> = bytes.chunks(unit).collect();
        let (mut at, mut copied) = (start, 0u64);
        for run in units.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let run = run.concat();
            let len = len_of(&run);
            if !is_zero(&run) {
                self.write_at(at, &run)?;
                copied = copied.saturating_add(len);
            }
            at = at.saturating_add(len);
        }
        Ok((copied, end))
    }
}

/// What of an image was changed since changed nothing of what it shows.
fn with_bitmaps_valid(header: Header) -> Header {
    Header { autoclear: header.autoclear.with_if(true, Autoclear::BITMAPS), ..header }
}

/// Names another backing file in an image that nobody has opened yet, and whose header this is. It is
/// on the medium afterwards.
///
/// # Errors
/// As [`Qcow2::lie_above`].
pub fn name_backing(storage: &dyn Storage, header: &Header, backing: &BackingName) -> Result<()> {
    HeaderChange::plan(storage, &header.with_backing(Some(backing)))?.apply(storage)
}

impl Qcow2 {
    /// Names another backing file, which must show the same where the image has nothing of its own.
    /// Bitmaps stay valid. Everything written before is on the medium first; a crash leaves the old
    /// name or the new one. The caller must hold the image's lock.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for a storage that cannot be written,
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) and [`BadRequest`](ErrorKind::BadRequest)
    /// where the name does not fit; what the storage says.
    pub fn lie_above(&mut self, backing: &BackingName) -> Result<()> {
        self.change_header(|header| Ok(header.with_backing(Some(backing))))
    }

    /// Refuses a name that [`lie_above`](Self::lie_above) would refuse.
    ///
    /// # Errors
    /// As there.
    pub fn require_room_for(&self, backing: &BackingName) -> Result<()> {
        HeaderChange::plan(&*self.storage, &self.header.with_backing(Some(backing))).map(drop)
    }
}
