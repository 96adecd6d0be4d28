//! Copies of drawn disks into images of every kind: sound, the same, and the same every time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::block::{Content, Extent, ExtentKind, MemoryDevice, is_zero, require_run};
use crate::host::storage::{Allocation, MemoryStorage};
use crate::image::{Comparison, compare, hash};
use crate::qcow2::check::scan;
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::{
    BackingName, CompressionType, Header, HeaderForm, L1Capacity, Parts, Qcow2, Version,
};
use crate::task::{Cancel, Silent};

/// A disk that knows some of its zeros.
struct Sparse {
    contents: Vec<u8>,
    /// Zeros are known in steps of so many bytes.
    step: u64,
}

impl Sparse {
    fn is_hole(&self, offset: u64) -> bool {
        let start = (offset / self.step * self.step) as usize;
        let end = (start + self.step as usize).min(self.contents.len());
        is_zero(&self.contents[start..end])
    }
}

impl BlockDevice for Sparse {
    fn size(&self) -> u64 {
        self.contents.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(&self.contents[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        unreachable!("a source is only read")
    }

    fn write_zeroes(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a source is only read")
    }

    fn discard(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a source is only read")
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let len = require_run(self.size(), offset, end)?.min(self.step - offset % self.step);
        let kind = match self.is_hole(offset) {
            true => ExtentKind::Zero,
            false => ExtentKind::Data { host_offset: offset },
        };
        Ok(Extent { offset, len, kind })
    }
}

/// What a disk holds, a part after the other.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let part = (0u8..4, 1usize..60_000, any::<u32>());
    let parts = prop::collection::vec(part, 1..30);
    let large = (0usize..3).prop_map(|pieces| pieces << 20);
    (parts, large).prop_map(|(parts, large)| {
        let mut all = Vec::new();
        for (kind, len, seed) in parts {
            let mut state = seed;
            all.extend((0..len).map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match kind {
                    0 => 0,
                    1 => (state >> 24) as u8,
                    2 => (state >> 30) as u8,
                    _ => (at / 100) as u8,
                }
            }));
        }
        let middle = all.len() / 2;
        all.splice(middle..middle, vec![0; large]);
        all
    })
}

/// The plainest image.
fn plain(size: VirtualSize) -> CreateOptions {
    CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(ClusterBits::DEFAULT, RefcountOrder::DEFAULT, false).unwrap(),
        virtual_size: size,
        backing: None,
        compression: CompressionType::Zlib,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation: Preallocation::Off,
    }
}

fn options() -> impl Strategy<Value = CreateOptions> {
    let shape = (9u32..=18, 0u32..=6, any::<bool>(), any::<bool>(), any::<bool>());
    (shape, 0usize..6, any::<bool>()).prop_map(
        |((bits, order, extended, zstd, v2), plan, whole)| {
            let extended = extended && bits >= 14 && !v2;
            let order = RefcountOrder::new(if v2 { 4 } else { order }).unwrap();
            let bits = ClusterBits::new(bits).unwrap();
            let plans = [
                Preallocation::Off,
                Preallocation::Off,
                Preallocation::Tables,
                Preallocation::Metadata,
                Preallocation::Falloc,
                Preallocation::Full,
            ];
            CreateOptions {
                version: if v2 { Version::V2 } else { Version::V3 },
                geometry: Geometry::new(bits, order, extended).unwrap(),
                virtual_size: VirtualSize::MAX,
                backing: None,
                compression: match zstd && !v2 {
                    true => CompressionType::Zstd,
                    false => CompressionType::Zlib,
                },
                lazy_refcounts: false,
                dirty: false,
                header_form: HeaderForm::Qemu,
                l1_capacity: if whole { L1Capacity::WholeClusters } else { L1Capacity::AsNeeded },
                preallocation: plans[plan],
            }
        },
    )
}

fn task<T>(run: impl FnOnce(Task<'_>) -> T) -> T {
    run(Task::new(&Silent, &Cancel::new()))
}

fn written(from: &dyn BlockDevice, target: &Target, how: &CopyOptions<'_>) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    task(|task| copy(from, &storage, target, how, task)).unwrap();
    storage
}

fn opened(storage: &Arc<MemoryStorage>, below: Option<Vec<u8>>) -> Qcow2 {
    let header = Header::read(storage).unwrap();
    let below = below.map(|below| Box::new(MemoryDevice::new(below)) as Box<dyn BlockDevice>);
    let parts = Parts { storage: Box::new(storage.clone()), data_file: None, backing: below };
    task(|task| Qcow2::open_with(parts, header, &Default::default(), task)).unwrap()
}

/// The definition, word for word.
fn hash_naively(contents: &[u8]) -> String {
    let sum = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    let mut whole = b"vmdisk-hash-1\n".to_vec();
    whole.extend((contents.len() as u64).to_be_bytes());
    let mut continued = contents.to_vec();
    continued.resize(contents.len().next_multiple_of(16 << 20), 0);
    for group in continued.chunks(16 << 20) {
        whole.extend(sum(&group.chunks(65536).flat_map(sum).collect::<Vec<_>>()));
    }
    sum(&whole).iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// An image is sound, reads as its source, hashes as its source, and is the same every time.
    #[test]
    fn images_are_their_source(
        contents in contents(),
        mut create in options(),
        packs: bool,
        above: bool,
        shorter: bool,
        sparse in prop::sample::select(vec![0u64, 512, 4096, 65536]),
        step in prop::sample::select(vec![512u64, 4096, 70_000]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1usize..9000), 0..5),
    ) {
        let size = VirtualSize::round_up(ByteSize::from_bytes(contents.len() as u64)).unwrap();
        create.virtual_size = size;
        let maps = create.preallocation.maps_data();
        let below = (above && (!maps || create.geometry.extended_l2())).then(|| {
            let mut below = contents.clone();
            for (at, len) in changes {
                let at = at.index(below.len());
                let end = (at + len).min(below.len());
                below[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            }
            below.truncate(if shorter { contents.len() / 2 } else { contents.len() });
            below
        });
        create.backing = below.as_ref().map(|_| BackingName { name: b"b".to_vec(), format: None });
        let base = below.clone().map(MemoryDevice::new);
        let base = base.as_ref().map(|disk| Base { disk, is_below_source: false });
        let packing = (packs && !maps).then(Packing::default);
        let how = CopyOptions { base, packing, sparse_size: sparse };
        let source = Sparse { contents: contents.clone(), step };
        let image = written(&source, &Target::Qcow2(create.clone()), &how);
        prop_assert!(image.contents() == written(&source, &Target::Qcow2(create), &how).contents());

        let header = Header::read(&image).unwrap();
        let report = task(|task| scan(&image, &header, task)).unwrap();
        prop_assert!(report.is_clean() && report.notices == 0, "{:?}", report.findings);
        let disk = opened(&image, below);
        prop_assert_eq!(disk.size(), size.bytes());
        prop_assert_eq!(task(|task| compare(&source, &disk, task)).unwrap(), Comparison::Same);
        let mut read = vec![1; size.bytes() as usize];
        disk.read_at(0, &mut read).unwrap();
        prop_assert!(read[..contents.len()] == contents && is_zero(&read[contents.len()..]));
        let ours = task(|task| hash(&disk, task)).unwrap();
        prop_assert_eq!(ours.to_string(), hash_naively(&read));
    }

    /// The first byte that differs is found, wherever it is.
    #[test]
    fn the_first_difference_is_told(contents in contents(), at: prop::sample::Index, more: bool) {
        let mut other = contents.clone();
        if more {
            other.resize(contents.len() + 3000, 0);
        }
        let ours = Sparse { contents, step: 4096 };
        let same = Sparse { contents: other.clone(), step: 512 };
        prop_assert_eq!(task(|task| compare(&ours, &same, task)).unwrap(), Comparison::Same);
        let at = at.index(other.len());
        other[at] ^= 0x40;
        let theirs = MemoryDevice::new(other);
        let found = task(|task| compare(&theirs, &ours, task)).unwrap();
        prop_assert_eq!(found, Comparison::Differ { offset: at as u64 });
    }
}

/// A stream becomes what a disk of the same bytes becomes, and a disk becomes a stream.
#[test]
fn streams_are_disks() {
    let mut contents = vec![7u8; 3 << 20];
    contents[1 << 20..2 << 20].fill(0);
    contents.truncate((3 << 20) - 700);
    let size = VirtualSize::round_up(ByteSize::from_bytes(contents.len() as u64)).unwrap();
    let disk = Sparse { contents: contents.clone(), step: 512 };
    let raw = Target::Raw { size: disk.size(), allocation: RawAllocation::Sparse };
    let image = plain(size);
    for target in [raw, Target::Qcow2(image)] {
        let expected = written(&disk, &target, &CopyOptions::default());
        let storage = MemoryStorage::default();
        let how = CopyOptions::default();
        let len = task(|task| copy_stream(&mut &contents[..], &storage, &target, &how, task));
        assert_eq!(len.unwrap(), disk.size());
        assert!(storage.contents() == expected.contents());
    }
    let mut stream = Vec::new();
    task(|task| copy_to_stream(&disk, &mut stream, task)).unwrap();
    assert!(stream == contents);
}

/// What is below the source as well is not read.
#[test]
fn what_is_left_to_the_same_base_is_not_read() {
    struct Overlay(u64);
    impl BlockDevice for Overlay {
        fn size(&self) -> u64 {
            self.0
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            assert!(offset < 1 << 20, "nothing of its own is there");
            buf.fill(7);
            Ok(())
        }
        fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
            unreachable!("a source is only read")
        }
        fn write_zeroes(&self, _: u64, _: u64) -> Result<()> {
            unreachable!("a source is only read")
        }
        fn discard(&self, _: u64, _: u64) -> Result<()> {
            unreachable!("a source is only read")
        }
        fn flush(&self) -> Result<()> {
            Ok(())
        }
        fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
            let (kind, end) = match offset < 1 << 20 {
                true => (ExtentKind::Data { host_offset: 0 }, end.min(1 << 20)),
                false => (ExtentKind::Unallocated, end),
            };
            Ok(Extent { offset, len: end - offset, kind })
        }
        fn content(&self, _: u64, end: u64) -> Result<Content> {
            Ok(Content { is_zero: false, end })
        }
    }
    let size = VirtualSize::round_up(ByteSize::from_bytes(1 << 40)).unwrap();
    let backing = Some(BackingName { name: b"b".to_vec(), format: None });
    let create = CreateOptions { backing, ..plain(size) };
    let below = MemoryDevice::new(vec![1; 1 << 20]);
    let base = Some(Base { disk: &below, is_below_source: true });
    let how = CopyOptions { base, ..CopyOptions::default() };
    let image = written(&Overlay(1 << 40), &Target::Qcow2(create), &how);
    assert_eq!(
        task(|task| scan(&image, &Header::read(&image).unwrap(), task)).unwrap().allocated_clusters,
        16
    );
}

/// A file in memory of which one change fails.
#[derive(Default)]
struct Failing {
    file: MemoryStorage,
    changes: AtomicU64,
    fails_at: u64,
}

impl Failing {
    fn change(&self) -> Result<()> {
        match self.changes.fetch_add(1, Ordering::Relaxed) == self.fails_at {
            true => Err(Error::new(ErrorKind::NoSpace, "on purpose")),
            false => Ok(()),
        }
    }
}

impl Storage for Failing {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change()?;
        self.file.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change()?;
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.change()?;
        self.file.allocate(offset, len, how)
    }

    fn punch_hole(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a new file has no need of it")
    }

    fn zero_range(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a new file has no need of it")
    }

    fn sync(&self) -> Result<()> {
        unreachable!("whoever publishes it does")
    }
}

/// Whichever change of the file fails, the copy fails with it, and nothing hangs.
#[test]
fn a_failed_write_is_heard_of() {
    let mut contents = vec![0u8; 3 << 20];
    contents
        .chunks_mut(40_000)
        .step_by(2)
        .enumerate()
        .for_each(|(at, part)| part.fill(at as u8 | 1));
    let disk = Sparse { contents, step: 4096 };
    let size = VirtualSize::round_up(ByteSize::from_bytes(disk.size())).unwrap();
    let raw = |allocation| Target::Raw { size: disk.size(), allocation };
    let mut image = plain(size);
    let mut targets = vec![raw(RawAllocation::Sparse), raw(RawAllocation::Zeros)];
    for preallocation in [Preallocation::Off, Preallocation::Falloc, Preallocation::Full] {
        image.preallocation = preallocation;
        targets.push(Target::Qcow2(image.clone()));
    }
    for target in targets {
        let mut changes = 0;
        loop {
            let storage = Failing { fails_at: changes, ..Failing::default() };
            let how = CopyOptions::default();
            let done = task(|task| copy(&disk, &storage, &target, &how, task));
            if storage.changes.into_inner() <= changes {
                done.unwrap();
                break;
            }
            assert_eq!(
                done.unwrap_err().kind(),
                ErrorKind::NoSpace,
                "{target:?}: change {changes}"
            );
            changes += 1;
        }
        assert!(changes > 3, "{target:?}");
    }
}
