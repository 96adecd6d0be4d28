//! An open image: its storage, its header, its tables in memory, and what lies below it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use super::compress::Codec;
use super::entry::L1Entry;
use super::feature::Incompatible;
use super::header::Header;
use super::live::Live;
use super::read::Recent;
use super::table::read_l1;
use crate::block::{BlockDevice, DeviceOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{FirstFailure, Latch, Storage, refuse_read_only};
use crate::task::{Cancel, Silent, Task};

/// What lies below an image: unallocated clusters show it.
pub type Backing = Box<dyn BlockDevice>;

/// The files of an image that is being opened.
pub struct Parts {
    /// The image itself.
    pub storage: Box<dyn Storage>,
    /// Where its guest data is, for an image that names an external data file.
    pub data_file: Option<Box<dyn Storage>>,
    /// What is below it. Where it is missing, reading what it holds is an error.
    pub backing: Option<Backing>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// An open qcow2 image. Any number of threads may use it at once.
pub struct Qcow2 {
    pub(super) storage: Box<dyn Storage>,
    /// The external data file, where the image has one.
    pub(super) data_file: Option<Box<dyn Storage>>,
    /// The first change of either that failed.
    pub(super) failure: Arc<FirstFailure>,
    /// The header as it was when the image was opened, rebuilt, settled or resized; what changes of
    /// it in between is in `live`.
    pub(super) header: Header,
    pub(super) backing: Option<Backing>,
    pub(super) options: DeviceOptions,
    /// Held by whoever changes tables; taken before `live`.
    pub(super) order: Mutex<()>,
    pub(super) live: RwLock<Live>,
    /// How many L2 entries were changed in memory.
    pub(super) entries_changed: AtomicU64,
    /// How clusters are packed and unpacked.
    pub(super) codec: Codec,
    pub(super) unpacked: Mutex<Recent>,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Opens the image in `storage`, whose header was read before, above `backing`, to be read.
    /// Nothing more is read until something is asked for.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(
        storage: Box<dyn Storage>,
        header: Header,
        backing: Option<Backing>,
    ) -> Result<Qcow2> {
        let (options, cancel) = (DeviceOptions::default(), Cancel::new());
        let parts = Parts { storage, data_file: None, backing };
        Self::open_with(parts, header, &options, Task::new(&Silent, &cancel))
    }

    /// Opens an image whose header was read before. The caller must hold its lock if it is to be
    /// written; the reference counts of a dirty image are then
    /// [made true](Self::rebuild_refcounts) first, which is what `task` is for.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for encrypted images;
    /// [`BadRequest`](ErrorKind::BadRequest) where a data file is missing, or given and not used;
    /// to write, [`Permission`](ErrorKind::Permission) where a storage
    /// [cannot be](Storage::is_read_only), [`Corrupt`](ErrorKind::Corrupt) for an image that is
    /// marked so, and as [`rebuild_refcounts`](Self::rebuild_refcounts).
    pub fn open_with(
        parts: Parts,
        header: Header,
        options: &DeviceOptions,
        task: Task<'_>,
    ) -> Result<Qcow2> {
        header.require_not_encrypted()?;
        if header.has_external_data() != parts.data_file.is_some() {
            let message = match parts.data_file {
                None => "the image keeps its data in an external data file, which was not opened",
                Some(_) => "the image has no external data file",
            };
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        if options.writable {
            refuse_read_only(&*parts.storage)?;
            parts.data_file.as_deref().map_or(Ok(()), refuse_read_only)?;
            header.require_not_corrupt()?;
        }
        let failure: Arc<FirstFailure> = Arc::default();
        let latched = |storage| match options.writable {
            true => Box::new(Latch::new(storage, failure.clone())),
            // What changes an image as a whole clears up behind itself when that fails.
            false => storage,
        };
        let live = RwLock::new(Live::new(&header, options.cache));
        let codec = Codec::new(header.compression, header.geometry.cluster_len());
        let mut image = Qcow2 {
            storage: latched(parts.storage),
            data_file: parts.data_file.map(latched),
            failure,
            header,
            backing: parts.backing,
            options: *options,
            order: Mutex::default(),
            live,
            entries_changed: AtomicU64::new(0),
            codec,
            unpacked: Mutex::default(),
        };
        if options.writable && image.header.incompatible.contains(Incompatible::DIRTY) {
            image.rebuild_refcounts(task)?;
        }
        Ok(image)
    }

    /// Writes everything and returns when it is on the medium: the real end of an image that was
    /// written. What was not flushed is lost without it; the image is sound in either case.
    ///
    /// # Errors
    /// What the storage says.
    pub fn close(mut self) -> Result<()> {
        self.settle()
    }

    /// The file says this now: what was in memory of its tables is forgotten.
    pub(super) fn go_on_with(&mut self, header: Header) {
        self.live = RwLock::new(Live::new(&header, self.options.cache));
        self.recent().forget();
        self.header = header;
    }

    /// What changes the image as a whole, clears up behind itself where it fails and says what its
    /// header is then. Where it says that it could not clear up ([`changed`](Error::changed)),
    /// nothing more is written; it may have come behind a switch, when tables had moved already, so
    /// reading goes on with what the file says now.
    ///
    /// # Errors
    /// What `change` says, or that a change failed before.
    pub(super) fn change_whole<T>(
        &mut self,
        change: impl FnOnce(&Self) -> Result<(Header, T)>,
    ) -> Result<T> {
        let done = self.failure.suspended(|| change(self));
        if done.as_ref().is_err_and(Error::changed)
            && let Ok(header) = Header::read(&*self.storage)
        {
            self.go_on_with(header);
        }
        let (header, done) = done?;
        self.go_on_with(header);
        Ok(done)
    }

    /// The active L1 table, whole.
    pub(super) fn l1(&self) -> Result<Vec<L1Entry>> {
        read_l1(&*self.storage, &self.header)
    }

    /// Where guest data is.
    pub(super) fn data(&self) -> &dyn Storage {
        self.data_file.as_deref().unwrap_or(&*self.storage)
    }

    /// The header as it was when the image was opened, or resized or rebuilt since. What the guest
    /// writes sets and clears feature bits, and moves the refcount table, without being seen here.
    pub fn header(&self) -> &Header {
        &self.header
    }
}
