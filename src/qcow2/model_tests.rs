//! An image under random operations, against a run of bytes in memory that had the same done to
//! it: the same at every step, after every flush and every reopening, with every cluster counted
//! as often as it is referred to.

use std::sync::Arc;

use proptest::prelude::*;

use super::audit_tests::Audit;
use super::create::create;
use super::geometry::{ClusterBits, Geometry, RefcountOrder};
use super::header::{BackingName, CompressionType, Header, Version};
use super::open::{Backing, Parts, Qcow2};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use crate::block::{
    BlockDevice, CacheConfig, DeviceOptions, Discard, ExtentKind, Extents, MemoryDevice,
};
use crate::host::storage::MemoryStorage;
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

/// What an image is like.
#[derive(Debug, Clone, Copy)]
struct Shape {
    cluster_bits: u32,
    order: u32,
    extended: bool,
    version: Version,
    compression: CompressionType,
    lazy: bool,
    preallocation: Preallocation,
    /// Bytes of the disk below, if there is one.
    below: Option<u64>,
    size: u64,
    options: DeviceOptions,
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    /// So many clusters from this one on, compressed, of how many values of bytes.
    Pack(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
    Flush,
    Reopen,
}

/// An image and what it should show.
struct Subject {
    shape: Shape,
    storage: Arc<MemoryStorage>,
    image: Option<Qcow2>,
    model: Vec<u8>,
    below: Vec<u8>,
}

impl Subject {
    fn new(shape: Shape) -> Subject {
        let below: Vec<u8> = (0..shape.below.unwrap_or(0)).map(|at| (at / 7 + 1) as u8).collect();
        let storage = Arc::new(MemoryStorage::default());
        let bits = ClusterBits::new(shape.cluster_bits).unwrap();
        let order = RefcountOrder::new(shape.order).unwrap();
        let backing = BackingName { name: b"below".to_vec(), format: Some(b"raw".to_vec()) };
        let options = CreateOptions {
            version: shape.version,
            geometry: Geometry::new(bits, order, shape.extended).unwrap(),
            virtual_size: VirtualSize::round_up(ByteSize::from_bytes(shape.size)).unwrap(),
            backing: shape.below.map(|_| backing),
            compression: shape.compression,
            lazy_refcounts: shape.lazy,
            dirty: false,
            header_form: HeaderForm::Qemu,
            l1_capacity: L1Capacity::AsNeeded,
            preallocation: shape.preallocation,
        };
        create(&*storage, &options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
        let mut model = below.clone();
        model.resize(options.virtual_size.bytes() as usize, 0);
        let mut subject = Subject { shape, storage, image: None, model, below };
        subject.open();
        subject
    }

    fn open(&mut self) {
        let header = Header::read(&*self.storage).unwrap();
        let below: Option<Backing> =
            self.shape.below.map(|_| Box::new(MemoryDevice::new(self.below.clone())) as Backing);
        let storage = Box::new(self.storage.clone());
        let parts = Parts { storage, data_file: None, backing: below };
        let cancel = Cancel::new();
        let task = Task::new(&Silent, &cancel);
        let image = Qcow2::open_with(parts, header, &self.shape.options, task);
        self.image = Some(image.unwrap());
    }

    fn image(&self) -> &Qcow2 {
        self.image.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        let size = self.model.len() as u64;
        let clip = |at: u64, len: u64| (at % size, len.min(size - at % size));
        match *step {
            Step::Write(at, len, value) => {
                let (at, len) = clip(at, len as u64);
                let data: Vec<u8> = (0..len).map(|n| value.wrapping_add(n as u8)).collect();
                self.image().write_at(at, &data).unwrap();
                self.model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
            Step::Pack(at, len, value) => self.pack(at, len, value),
            Step::Zero(at, len) => {
                let (at, len) = clip(at, len);
                self.image().write_zeroes(at, len).unwrap();
                self.model[at as usize..(at + len) as usize].fill(0);
            }
            Step::Discard(at, len) => self.discard(clip(at, len)),
            Step::Flush => self.image().flush().unwrap(),
            Step::Reopen => {
                self.close();
                self.open();
            }
        }
    }

    /// Clusters of one byte, of few values, and of so many that they do not get smaller.
    fn pack(&mut self, at: u64, clusters: u64, value: u8) {
        let (size, unit) = (self.model.len(), 1usize << self.shape.cluster_bits);
        let start = at as usize % size.div_ceil(unit) * unit;
        let end = size.min(start + clusters as usize * unit);
        let mut noise = u32::from(value);
        let data: Vec<u8> = (start..end)
            .map(|at| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let values = [0, 1, 3, 15, 255][(at / unit + usize::from(value)) % 5];
                (noise >> 24) as u8 & values | value & 1
            })
            .collect();
        self.image().write_compressed(start as u64, &data).unwrap();
        self.model[start..end].copy_from_slice(&data);
    }

    /// What was discarded reads as zeros, as before or as what is below, cluster by cluster; the
    /// model learns which.
    fn discard(&mut self, (at, len): (u64, u64)) {
        self.image().discard(at, len).unwrap();
        let now = self.contents();
        let unit = 1usize << self.shape.cluster_bits;
        for start in (0..now.len()).step_by(unit) {
            let range = start..(start + unit).min(now.len());
            let inside = start as u64 >= at && range.end as u64 <= at + len;
            let before = &self.model[range.clone()];
            let found = &now[range.clone()];
            let mut below = self.below.clone();
            below.resize(now.len(), 0);
            let zeros = found.iter().all(|&byte| byte == 0);
            let allowed = found == before || inside && (zeros || found == &below[range.clone()]);
            assert!(allowed, "cluster at {start} after a discard of {len} at {at}");
        }
        self.model = now;
    }

    fn contents(&self) -> Vec<u8> {
        let mut found = vec![1; self.model.len()];
        self.image().read_at(0, &mut found).unwrap();
        found
    }

    fn close(&mut self) {
        self.image.take().unwrap().close().unwrap();
        let audit = Audit::of(&self.storage);
        assert_eq!(audit, Audit::default());
    }

    fn check(&self) {
        let found = self.contents();
        let differs = found.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that differs");
        // What is zero by its entry is zero, and every byte is in one run.
        let mut at = 0;
        for extent in Extents::of(self.image(), 0..self.model.len() as u64) {
            let extent = extent.unwrap();
            assert_eq!(extent.offset, at);
            at += extent.len;
            let bytes = &self.model[extent.offset as usize..at as usize];
            assert!(extent.kind != ExtentKind::Zero || bytes.iter().all(|&byte| byte == 0));
        }
        assert_eq!(at, self.model.len() as u64);
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let preallocations = [Preallocation::Off, Preallocation::Tables, Preallocation::Metadata];
    let discards = [Discard::Unmap, Discard::Free, Discard::KeepAllocated];
    let layout = (
        prop::sample::select(vec![(9, false), (10, false), (12, false), (14, true)]),
        0u32..=6,
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(preallocations.to_vec()),
    );
    let rest = (
        prop::option::of(1u64..90_000),
        1u64..150_000,
        prop::sample::select(discards.to_vec()),
        any::<bool>(),
        prop::sample::select(vec![0, 4096, 8 << 20]),
        any::<bool>(),
    );
    (layout, rest).prop_map(|(layout, rest)| {
        let ((cluster_bits, extended), order, v2, lazy, preallocation) = layout;
        let (below, size, discard, detect_zeroes, table_bytes, zstd) = rest;
        let v2 = v2 && !extended;
        let compression = if zstd && !v2 { CompressionType::Zstd } else { CompressionType::Zlib };
        let maps = preallocation == Preallocation::Metadata && below.is_some() && !extended;
        let size = size.next_multiple_of(512);
        Shape {
            cluster_bits,
            order: if v2 { 4 } else { order },
            extended,
            version: if v2 { Version::V2 } else { Version::V3 },
            compression,
            lazy: lazy && !v2,
            preallocation: if maps { Preallocation::Tables } else { preallocation },
            below: below.map(|below| below.min(size)),
            size,
            options: DeviceOptions {
                writable: true,
                cache: CacheConfig { table_bytes, refcount_bytes: 4096 },
                discard,
                detect_zeroes,
            },
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1usize..600, 1usize..40_000, Just(512), Just(4096)];
    let at = prop_oneof![0u64..150_000, (0u64..290).prop_map(|n| n * 512)];
    let step = prop_oneof![
        5 => (at.clone(), len.clone(), any::<u8>()).prop_map(|(at, len, value)| Step::Write(at, len, value)),
        4 => (0u64..300, 1u64..8, any::<u8>()).prop_map(|(at, len, value)| Step::Pack(at, len, value)),
        2 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Zero(at, len as u64)),
        2 => (at, len).prop_map(|(at, len)| Step::Discard(at, len as u64)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_image_shows_what_was_done_to_it(shape in shapes(), steps in steps()) {
        let mut subject = Subject::new(shape);
        subject.check();
        for step in &steps {
            subject.step(step);
            subject.check();
        }
        subject.close();
        subject.open();
        subject.check();
    }
}
