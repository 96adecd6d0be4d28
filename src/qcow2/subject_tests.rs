//! An image, what is done to it, and what it should show: what tests of the whole engine share,
//! and the fuzzer with them, which is why everything is named from the crate's root.

use std::sync::Arc;

use crate::Result;
use crate::block::{BlockDevice, CacheConfig, DeviceOptions, Discard, MemoryDevice};
use crate::host::recording::RecordingStorage;
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::check::scan;
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::{
    Backing, BackingName, CompressionType, CreateOptions, Header, HeaderForm, L1Capacity, Parts,
    Preallocation, Qcow2, ResizeOptions, Version, create,
};
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
    pub(super) size: u64,
    pub(super) options: DeviceOptions,
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
    size: 40 << 10,
    options: DeviceOptions {
        writable: true,
        cache: CacheConfig { table_bytes: 0, refcount_bytes: 0 },
        discard: Discard::Unmap,
        detect_zeroes: false,
    },
};

/// What is done to an image. Offsets and lengths are cut to fit the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Write(u64, usize, u8),
    /// So many clusters from this one on, compressed: of one value, of few, and of so many that
    /// they do not get smaller.
    Pack(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
    Flush,
    Reopen,
    /// Closes the image, makes the disk this large and opens it again.
    Resize(u64),
}

impl Shape {
    /// The nearest that the format allows.
    pub(super) fn allowed(self) -> Shape {
        let v2 = self.version == Version::V2 && !self.extended;
        let unmapped = self.below.is_none() || self.extended;
        let size = self.size.max(1).next_multiple_of(512);
        let zlib = v2 || self.compression == CompressionType::Zlib;
        Shape {
            order: if v2 { RefcountOrder::DEFAULT.get() } else { self.order },
            version: if v2 { Version::V2 } else { Version::V3 },
            compression: if zlib { CompressionType::Zlib } else { CompressionType::Zstd },
            lazy: self.lazy && !v2,
            preallocation: match self.preallocation {
                Preallocation::Metadata if !unmapped => Preallocation::Tables,
                allowed => allowed,
            },
            below: self.below.map(|below| below.min(size)),
            size,
            ..self
        }
    }

    fn geometry(&self) -> Geometry {
        let bits = ClusterBits::new(self.cluster_bits).unwrap();
        let order = RefcountOrder::new(self.order).unwrap();
        Geometry::new(bits, order, self.extended).unwrap()
    }

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
            preallocation: self.preallocation,
        };
        create(storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
    }

    /// The bytes of the disk below.
    pub(super) fn below(&self) -> Vec<u8> {
        (0..self.below.unwrap_or(0)).map(|at| (at / 7 + 1) as u8).collect()
    }

    fn backing(&self) -> Option<Backing> {
        self.below.map(|_| Box::new(MemoryDevice::new(self.below())) as Backing)
    }

    /// The disk as it reads when the image was just created.
    fn disk(&self) -> Vec<u8> {
        let mut disk = self.below();
        disk.resize(virtual_size(self.size).bytes() as usize, 0);
        disk
    }

    /// Opens the image in `storage`, as whatever `header` says.
    pub(super) fn open_as(
        &self,
        storage: Arc<dyn Storage>,
        header: Header,
        writable: bool,
    ) -> Result<Qcow2> {
        let parts = Parts { storage: Box::new(storage), data_file: None, backing: self.backing() };
        let (cancel, options) = (Cancel::new(), DeviceOptions { writable, ..self.options });
        Qcow2::open_with(parts, header, &options, Task::new(&Silent, &cancel))
    }

    pub(super) fn open(&self, storage: Arc<dyn Storage>, writable: bool) -> Result<Qcow2> {
        let header = Header::read(&*storage)?;
        self.open_as(storage, header, writable)
    }
}

pub(super) fn virtual_size(bytes: u64) -> VirtualSize {
    VirtualSize::round_up(ByteSize::from_bytes(bytes)).unwrap()
}

/// Damages an image, each time with a word at an offset, and then does all that can be done with
/// it: whatever it answers, it does answer, and what it is asked for bounds its work.
pub(super) fn survive(shape: Shape, damage: &[(u64, u64)], steps: &[Step]) {
    let storage = Arc::new(MemoryStorage::default());
    shape.create_in(&*storage);
    let len = storage.len().unwrap();
    for (at, word) in damage {
        storage.write_at(at % len, &word.to_be_bytes()).unwrap();
    }
    let cancel = Cancel::new();
    let task = Task::new(&Silent, &cancel);
    if let Ok(header) = Header::read(&*storage) {
        let _ = scan(&*storage, &header, task);
    }
    for writable in [false, true] {
        let Ok(image) = shape.open(storage.clone(), writable) else { continue };
        let mut buf = vec![0; 40_000];
        for step in steps {
            let (Step::Write(at, ..) | Step::Zero(at, _) | Step::Discard(at, _)) = *step else {
                continue;
            };
            let at = at % image.size().max(1);
            let len = 40_000.min(image.size() - at);
            let _ = image.read_at(at, &mut buf[..len as usize]);
            let _ = image.extent(at, at + len);
            let _ = match step {
                Step::Write(..) => image.write_at(at, &buf[..len as usize]),
                Step::Zero(..) => image.write_zeroes(at, len),
                _ => image.discard(at, len),
            };
        }
        let _ = image.close();
    }
    if let Ok(image) = shape.open(storage.clone(), false) {
        let size = virtual_size(image.size() / 2 + 70_000);
        let _ = image.resize(&ResizeOptions { virtual_size: size, preallocation: None }, task);
    }
}

/// The whole disk.
pub(super) fn contents(image: &Qcow2) -> Result<Vec<u8>> {
    let mut found = vec![1; image.size() as usize];
    image.read_at(0, &mut found)?;
    Ok(found)
}

/// An image and what it should show.
pub(super) struct Subject {
    pub(super) shape: Shape,
    pub(super) storage: Arc<RecordingStorage>,
    /// Gone between a failure and the next opening.
    pub(super) image: Option<Qcow2>,
    pub(super) model: Vec<u8>,
}

impl Subject {
    /// A new image, open.
    pub(super) fn new(shape: Shape) -> Subject {
        let storage = MemoryStorage::default();
        shape.create_in(&storage);
        let mut subject = Subject::over(shape, storage.contents(), shape.disk());
        subject.open().unwrap();
        subject
    }

    /// One that is there already and shows `model`; closed.
    pub(super) fn over(shape: Shape, bytes: Vec<u8>, model: Vec<u8>) -> Subject {
        let storage = Arc::new(RecordingStorage::new(bytes));
        Subject { shape, storage, image: None, model }
    }

    /// One that was left like this, whatever it shows.
    pub(super) fn found(shape: Shape, bytes: Vec<u8>) -> Subject {
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        let model = contents(&shape.open(storage, false).unwrap()).unwrap();
        Subject::over(shape, bytes, model)
    }

    pub(super) fn open(&mut self) -> Result<()> {
        self.image = Some(self.shape.open(self.storage.clone(), true)?);
        Ok(())
    }

    pub(super) fn image(&self) -> &Qcow2 {
        self.image.as_ref().unwrap()
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        contents(self.image()).unwrap()
    }

    /// Closes the image and leaves it closed.
    pub(super) fn close(&mut self) -> Result<()> {
        self.image.take().map_or(Ok(()), Qcow2::close)
    }

    /// Nothing about a closed image is wrong or leaked.
    pub(super) fn is_sound(&self) {
        let storage = MemoryStorage::new(self.storage.contents());
        let header = Header::read(&storage).unwrap();
        let found = scan(&storage, &header, Task::new(&Silent, &Cancel::new())).unwrap();
        let beyond = found.counted_beyond_file;
        assert!(found.is_clean() && beyond == 0, "{:?}, {beyond} beyond", found.findings);
    }

    /// Does it to the image and the model, and compares nothing but what was discarded.
    pub(super) fn step(&mut self, step: Step) {
        self.apply(step).unwrap_or_else(|error| panic!("{step:?}: {error}"));
        let range = |(at, len): (u64, u64)| at as usize..(at + len) as usize;
        match step {
            Step::Write(at, len, value) => {
                let (at, len) = self.clip(at, len as u64);
                self.model[range((at, len))].copy_from_slice(&pattern(len, value));
            }
            Step::Pack(at, clusters, value) => {
                let (at, data) = self.packed(at, clusters, value);
                self.model[at as usize..][..data.len()].copy_from_slice(&data);
            }
            Step::Zero(at, len) => {
                let range = range(self.clip(at, len));
                self.model[range].fill(0);
            }
            Step::Discard(at, len) => self.learn_discarded(self.clip(at, len)),
            Step::Flush | Step::Reopen => {}
            Step::Resize(size) => self.model.resize(virtual_size(size).bytes() as usize, 0),
        }
    }

    /// Does it to the image alone. Where closing or opening fails, there is no image afterwards.
    pub(super) fn apply(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Write(at, len, value) => {
                let (at, len) = self.clip(at, len as u64);
                self.image().write_at(at, &pattern(len, value))
            }
            Step::Pack(at, clusters, value) => {
                let (at, data) = self.packed(at, clusters, value);
                self.image().write_compressed(at, &data)
            }
            Step::Zero(at, len) => {
                let (at, len) = self.clip(at, len);
                self.image().write_zeroes(at, len)
            }
            Step::Discard(at, len) => {
                let (at, len) = self.clip(at, len);
                self.image().discard(at, len)
            }
            Step::Flush => self.image().flush(),
            Step::Reopen => {
                self.close()?;
                self.open()
            }
            Step::Resize(size) => {
                self.close()?;
                let options =
                    ResizeOptions { virtual_size: virtual_size(size), preallocation: None };
                let image = self.shape.open(self.storage.clone(), false)?;
                image.resize(&options, Task::new(&Silent, &Cancel::new()))?;
                self.open()
            }
        }
    }

    fn clip(&self, at: u64, len: u64) -> (u64, u64) {
        let size = self.image().size();
        (at % size, len.min(size - at % size))
    }

    /// Where the clusters of a [`Step::Pack`] begin, and what they hold.
    fn packed(&self, at: u64, clusters: u64, value: u8) -> (u64, Vec<u8>) {
        let (size, unit) = (self.image().size(), 1u64 << self.shape.cluster_bits);
        let start = at % size.div_ceil(unit) * unit;
        let end = size.min(start + clusters * unit);
        let mut noise = u32::from(value);
        let bytes = (start..end).map(|at| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let values = [0, 1, 3, 15, 255][(at / unit + u64::from(value)) as usize % 5];
            (noise >> 24) as u8 & values | value & 1
        });
        (start, bytes.collect())
    }

    /// What was discarded reads as zeros, as before or as what is below, cluster by cluster; the
    /// model learns which.
    fn learn_discarded(&mut self, (at, len): (u64, u64)) {
        let now = self.contents();
        let unit = 1usize << self.shape.cluster_bits;
        let mut below = self.shape.below();
        below.resize(now.len(), 0);
        for start in (0..now.len()).step_by(unit) {
            let range = start..(start + unit).min(now.len());
            let inside = start as u64 >= at && range.end as u64 <= at + len;
            let before = &self.model[range.clone()];
            let found = &now[range.clone()];
            let zeros = found.iter().all(|&byte| byte == 0);
            let allowed = found == before || inside && (zeros || found == &below[range.clone()]);
            assert!(allowed, "cluster at {start} after a discard of {len} at {at}");
        }
        self.model = now;
    }
}

fn pattern(len: u64, value: u8) -> Vec<u8> {
    (0..len).map(|n| value.wrapping_add(n as u8)).collect()
}
