//! Opening an image by its path: locked, its format believed or refused, what is below it opened
//! as far as that is trusted.

use std::path::Path;

use super::Image;
use super::chain::Opening;
use super::gate::Trust;
use super::probe::Format;
use crate::block::DeviceOptions;
use crate::error::Result;
use crate::host::LockPolicy;
use crate::task::Cancel;

/// How an image is opened. Name the fields that matter and take the others from one of the
/// functions here: there may be more of them one day.
///
/// ```
/// use vmdisk::image::OpenOptions;
/// use vmdisk::image::gate::Trust;
///
/// let trust = Trust::default().and("/var/lib/machines".into());
/// let options = OpenOptions { trust, ..OpenOptions::to_write() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Its format; believed from name and content when not given. Give it for a raw disk: its
    /// guest can write anything where a header would be.
    pub format: Option<Format>,
    /// The id or the name of an internal snapshot whose disk is opened instead of the image's own,
    /// to be read. It has the size that the image had when the snapshot was taken.
    pub snapshot: Option<String>,
    /// Whether it is written, and how.
    pub device: DeviceOptions,
    /// Which files it may make us open: a backing file, an external data file. An image with an
    /// external data file is opened to be written only where this names that file or its folder:
    /// `Trust::default().and(folder)`.
    pub trust: Trust,
    /// How long to wait for others that use it, and what to do where there are no locks.
    pub locks: LockPolicy,
    /// Ends the wait for a lock, and the rebuild of a dirty image's reference counts.
    pub cancel: Cancel,
}

impl OpenOptions {
    /// To be read, as by default.
    pub fn to_read() -> Self {
        OpenOptions::default()
    }

    /// To be read and written.
    pub fn to_write() -> Self {
        let device = DeviceOptions { writable: true, ..DeviceOptions::default() };
        OpenOptions { device, ..OpenOptions::default() }
    }
}

impl Image {
    /// Opens and locks the image at `path`, with everything below it: to be read, other readers
    /// may have it open; to be written, nobody else may, in this process either. Nothing is changed
    /// before the first write, except in an image that was left dirty: its reference counts are
    /// made true first; and on a raw disk whose change was interrupted: that is completed.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), for a snapshot too, [`Locked`](crate::ErrorKind::Locked),
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch),
    /// [`BadRequest`](crate::ErrorKind::BadRequest) for a snapshot that is to be written, or that
    /// could be one of several,
    /// [`UnsupportedFeature`](crate::ErrorKind::UnsupportedFeature) for encrypted images and
    /// unknown incompatible features, [`Corrupt`](crate::ErrorKind::Corrupt),
    /// [`JournalStale`](crate::ErrorKind::JournalStale) where an interrupted change cannot be
    /// completed,
    /// [`BackingRefused`](crate::ErrorKind::BackingRefused) for a file that
    /// [`trust`](OpenOptions::trust) does not allow: see [`Trust`],
    /// [`BackingMissing`](crate::ErrorKind::BackingMissing),
    /// [`BackingCycle`](crate::ErrorKind::BackingCycle), and what the system says.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Image> {
        let path = path.as_ref();
        Self::open_chain(path, options).map_err(|error| error.at_path(path))
    }

    fn open_chain(path: &Path, options: &OpenOptions) -> Result<Image> {
        let opening =
            Opening { trust: &options.trust, locks: Some(&options.locks), cancel: &options.cancel };
        let mut top = opening.named_by_caller(path, options.format, options.device.writable)?;
        if let Some(snapshot) = &options.snapshot {
            top = top.at_snapshot(snapshot)?;
        }
        let below = opening.below(&top, &[])?;
        opening.assemble(top, below, &[], &options.device)
    }
}
