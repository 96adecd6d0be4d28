//! What an image is like: how one is made, and how its files are opened together. Shared by the
//! tests of the whole engine, and by the fuzzer.

use std::sync::Arc;

use super::fixtures_tests::with_data_file;
use super::geometry::{ClusterBits, Geometry, RefcountOrder};
use super::header::{BackingName, CompressionType, Header, Version};
use super::open::{Backing, Parts, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use super::{ResizeOptions, create};
use crate::block::{BlockDevice, CacheConfig, DeviceOptions, Discard, MemoryDevice};
use crate::error::Result;
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

/// What an image is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) cluster_bits: u32,
    pub(super) order: u32,
    pub(super) extended: bool,
    pub(super) version: Version,
    pub(super) compression: CompressionType,
    pub(super) lazy: bool,
    pub(super) preallocation: Preallocation,
    /// Bytes of the disk below, if there is one.
    pub(super) below: Option<u64>,
    pub(super) data: Data,
    pub(super) size: u64,
    pub(super) options: DeviceOptions,
}

/// Where an image keeps guest data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    Inside,
    /// In an external data file.
    Apart,
    /// In an external data file that is the disk, byte for byte.
    Raw,
}

/// The plainest, with room for a few tables only, so that they are often written.
pub(super) const PLAIN: Shape = Shape {
    cluster_bits: 9,
    order: 4,
    extended: false,
    version: Version::V3,
    compression: CompressionType::Zlib,
    lazy: false,
    preallocation: Preallocation::Off,
    below: None,
    data: Data::Inside,
    size: 40 << 10,
    options: DeviceOptions {
        writable: true,
        cache: CacheConfig { table_bytes: 0, refcount_bytes: 0 },
        discard: Discard::Unmap,
        detect_zeroes: false,
        keeps_contents: false,
    },
};

impl Shape {
    /// The nearest that the format allows.
    pub(super) fn allowed(self) -> Shape {
        let inside = self.data == Data::Inside;
        let v2 = self.version == Version::V2 && !self.extended && inside;
        let below = self.below.filter(|_| self.data != Data::Raw);
        let unmapped = below.is_none() || self.extended;
        let size = self.size.max(1).next_multiple_of(512);
        let zlib = v2 || self.compression == CompressionType::Zlib;
        Shape {
            order: if v2 { RefcountOrder::DEFAULT.get() } else { self.order },
            version: if v2 { Version::V2 } else { Version::V3 },
            compression: if zlib { CompressionType::Zlib } else { CompressionType::Zstd },
            lazy: self.lazy && !v2,
            preallocation: match self.preallocation {
                Preallocation::Metadata if !unmapped || !inside => Preallocation::Tables,
                allowed => allowed,
            },
            below: below.map(|below| below.min(size)),
            size,
            ..self
        }
    }

    fn geometry(&self) -> Geometry {
        let bits = ClusterBits::new(self.cluster_bits).unwrap();
        let order = RefcountOrder::new(self.order).unwrap();
        Geometry::new(bits, order, self.extended).unwrap()
    }

    /// Makes the image's own file, which keeps its data inside.
    pub(super) fn create_in(&self, storage: &dyn Storage) {
        let backing = BackingName { name: b"below".to_vec(), format: Some(b"raw".to_vec()) };
        let options = CreateOptions {
            version: self.version,
            geometry: self.geometry(),
            virtual_size: virtual_size(self.size),
            backing: self.below.map(|_| backing),
            compression: self.compression,
            lazy_refcounts: self.lazy,
            dirty: false,
            header_form: HeaderForm::Qemu,
            l1_capacity: L1Capacity::AsNeeded,
            preallocation: match self.data {
                // Its entries always refer to its data.
                Data::Raw => Preallocation::Tables,
                _ => self.preallocation,
            },
        };
        create(storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
    }

    /// The files of a new image: its own, and its data file if it has one.
    pub(super) fn create(&self) -> Vec<Vec<u8>> {
        let image = MemoryStorage::default();
        self.create_in(&image);
        match self.data {
            Data::Inside => vec![image.contents()],
            Data::Apart => vec![with_data_file(image.contents(), false), Vec::new()],
            Data::Raw => vec![with_data_file(image.contents(), true), self.disk()],
        }
    }

    /// The bytes of the disk below.
    pub(super) fn below(&self) -> Vec<u8> {
        (0..self.below.unwrap_or(0)).map(|at| (at / 7 + 1) as u8).collect()
    }

    fn backing(&self) -> Option<Backing> {
        self.below.map(|_| Box::new(MemoryDevice::new(self.below())) as Backing)
    }

    /// The disk as it reads when the image was just created.
    pub(super) fn disk(&self) -> Vec<u8> {
        let mut disk = self.below();
        disk.resize(virtual_size(self.size).bytes() as usize, 0);
        disk
    }

    /// Opens the image in these files, as whatever `header` says.
    pub(super) fn open_as<S: Storage + 'static>(
        &self,
        files: &[Arc<S>],
        header: Header,
        writable: bool,
    ) -> Result<Qcow2> {
        let boxed = |file: &Arc<S>| Box::new(file.clone()) as Box<dyn Storage>;
        let parts = Parts {
            storage: boxed(&files[0]),
            data_file: files.get(1).map(boxed),
            backing: self.backing(),
        };
        let (cancel, options) = (Cancel::new(), DeviceOptions { writable, ..self.options });
        Qcow2::open_with(parts, header, &options, Task::new(&Silent, &cancel))
    }

    pub(super) fn open<S: Storage + 'static>(
        &self,
        files: &[Arc<S>],
        writable: bool,
    ) -> Result<Qcow2> {
        let header = Header::read(&*files[0])?;
        self.open_as(files, header, writable)
    }
}

/// Files with these contents.
pub(super) fn in_memory(files: &[Vec<u8>]) -> Vec<Arc<MemoryStorage>> {
    files.iter().map(|bytes| Arc::new(MemoryStorage::new(bytes.clone()))).collect()
}

pub(super) fn virtual_size(bytes: u64) -> VirtualSize {
    VirtualSize::round_up(ByteSize::from_bytes(bytes)).unwrap()
}

/// To this size, with what the image has.
pub(super) fn to_size(bytes: u64) -> ResizeOptions {
    ResizeOptions { virtual_size: virtual_size(bytes), preallocation: None }
}

/// The whole disk.
pub(super) fn contents(image: &Qcow2) -> Result<Vec<u8>> {
    let mut found = vec![1; image.size() as usize];
    image.read_at(0, &mut found)?;
    Ok(found)
}
