//! An open image: its storage, its header, its tables in memory, and what lies below it.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};

use super::cache::CacheConfig;
use super::entry::L1Entry;
use super::feature::Incompatible;
use super::geometry::HostOffset;
use super::header::{Encryption, Header};
use super::latch::Latch;
use super::live::Live;
use super::table::read_l1;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;

/// What lies below an image: unallocated clusters show it.
pub type Backing = Box<dyn BlockDevice + Send + Sync>;

/// What becomes of the room of discarded clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// They are freed, and their room goes back to the host's file system.
    #[default]
    Unmap,
    /// They are freed; the file keeps its room for what is written next.
    Free,
    /// They stay where they are and read as zeros, so that writing them again allocates nothing.
    /// In version 2, which has no such entries, nothing happens.
    KeepAllocated,
}

/// How an image is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Whether it will be written. The caller must hold the image's lock then.
    pub writable: bool,
    /// The memory for its tables.
    pub cache: CacheConfig,
    /// What discarding does.
    pub discard: Discard,
    /// Whether writes of nothing but zeros become zero clusters.
    pub detect_zeroes: bool,
}

/// An open qcow2 image. Any number of threads may use it at once.
pub struct Qcow2 {
    pub(super) storage: Box<dyn Storage>,
    /// The external data file, where the image has one.
    pub(super) data_file: Option<Box<dyn Storage>>,
    /// The header as it was when the image was opened.
    pub(super) header: Header,
    pub(super) backing: Option<Backing>,
    pub(super) options: OpenOptions,
    pub(super) live: RwLock<Live>,
    /// The compressed cluster that was unpacked last, by where it begins.
    pub(super) unpacked: Mutex<Option<(HostOffset, Vec<u8>)>>,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Opens the image in `storage`, whose header was read before, above `backing`. Nothing more is
    /// read until something is asked for.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for encrypted images and external
    /// data files.
    pub fn open(
        storage: Box<dyn Storage>,
        header: Header,
        backing: Option<Backing>,
    ) -> Result<Qcow2> {
        if header.has_external_data() {
            return Err(unsupported("the image keeps its data in an external data file"));
        }
        Self::open_with(storage, None, header, backing, OpenOptions::default())
    }

    /// Opens the image in `storage`, whose header was read before, above `backing`, its data in
    /// `data_file` if the header says so.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for encrypted images;
    /// [`BadRequest`](ErrorKind::BadRequest) where a data file is missing, or given and not used;
    /// to write, [`Corrupt`](ErrorKind::Corrupt) for an image that is marked so, and for a dirty
    /// one, whose counts are made true first, as
    /// [`resize`](Self::resize) says.
    pub fn open_with(
        storage: Box<dyn Storage>,
        data_file: Option<Box<dyn Storage>>,
        header: Header,
        backing: Option<Backing>,
        options: OpenOptions,
    ) -> Result<Qcow2> {
        match header.encryption {
            Encryption::None => {}
            Encryption::Aes => return Err(unsupported("the image is encrypted (AES)")),
            Encryption::Luks => return Err(unsupported("the image is encrypted (LUKS)")),
        }
        if header.has_external_data() != data_file.is_some() {
            let message = match data_file {
                None => "the image keeps its data in an external data file, which was not opened",
                Some(_) => "the image has no external data file",
            };
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        if options.writable && header.incompatible.contains(Incompatible::CORRUPT) {
            return Err(Error::new(ErrorKind::Corrupt, "the image is marked corrupt"));
        }
        let failed: Arc<AtomicBool> = Arc::default();
        let latched =
            |storage| -> Box<dyn Storage> { Box::new(Latch::new(storage, failed.clone())) };
        let live = RwLock::new(Live::new(&header, options.cache));
        let mut image = Qcow2 {
            storage: latched(storage),
            data_file: data_file.map(latched),
            header,
            backing,
            options,
            live,
            unpacked: Mutex::default(),
        };
        if options.writable && image.header.incompatible.contains(Incompatible::DIRTY) {
            image.rebuild_refcounts()?;
        }
        Ok(image)
    }

    /// Writes everything and returns when it is on the medium: the real end of an image that was
    /// written. What was not flushed is lost without it; the image is sound in either case.
    ///
    /// # Errors
    /// What the storage says.
    pub fn close(self) -> Result<()> {
        self.settle()
    }

    /// The active L1 table, whole.
    pub(super) fn l1(&self) -> Result<Vec<L1Entry>> {
        read_l1(&*self.storage, &self.header)
    }

    /// Where guest data is.
    pub(super) fn data(&self) -> &dyn Storage {
        self.data_file.as_deref().unwrap_or(&*self.storage)
    }

    /// The header as it was when the image was opened.
    pub fn header(&self) -> &Header {
        &self.header
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::UnsupportedFeature, what)
}
