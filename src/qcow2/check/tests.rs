//! Hostile images: whatever they claim, a scan ends, in bounded memory and after bounded reading.

use proptest::prelude::*;

use super::{Finding, MAX_FINDINGS, ScanReport, Severity, Structure, scan};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::create::create;
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::header::{CompressionType, Header, Version};
use crate::qcow2::medium_tests::{Holes, Medium, On};
use crate::qcow2::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

const COPIED: u64 = 1 << 63;

fn image(bits: u32, order: u32, size: u64, data: usize, preallocation: Preallocation) -> Vec<u8> {
    let order = RefcountOrder::new(order).unwrap();
    let options = CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(ClusterBits::new(bits).unwrap(), order, false).unwrap(),
        virtual_size: VirtualSize::round_up(ByteSize::from_bytes(size)).unwrap(),
        backing: None,
        compression: CompressionType::Zlib,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation,
    };
    let storage = MemoryStorage::default();
    create(&storage, &options, &vec![1; data], Task::new(&Silent, &Cancel::new())).unwrap();
    storage.contents()
}

fn scanned(storage: &dyn Storage) -> Result<ScanReport> {
    let header = Header::read(storage)?;
    scan(storage, &header, Task::new(&Silent, &Cancel::new()))
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// 65 536 snapshots that all claim one L1 table of 32 MiB, in a file of 2^60 bytes.
#[test]
fn many_snapshots_cannot_claim_one_long_table() {
    let mut bytes = image(16, 4, 1 << 20, 100, Preallocation::Off);
    let table = bytes.len().next_multiple_of(65536);
    put(&mut bytes, 60, &65_536u32.to_be_bytes());
    put(&mut bytes, 64, &(table as u64).to_be_bytes());
    for n in 0..65_536 {
        let at = table + n * 40;
        put(&mut bytes, at, &(1u64 << 40).to_be_bytes());
        put(&mut bytes, at + 8, &(4u32 << 20).to_be_bytes());
        put(&mut bytes, at + 39, &[0]);
    }
    let storage = Holes::to_read(bytes, 1 << 60);
    let report = scanned(&storage).unwrap();
    assert!(report.corruptions >= 65_535, "{}", report.corruptions);
    assert_eq!(report.findings.len(), MAX_FINDINGS);
    assert!(storage.medium.read() < 64 << 20);
}

/// An L1 table of which every entry leads to one L2 table, and a refcount table of which every
/// entry leads to one block: each is read once.
#[test]
fn what_is_claimed_many_times_is_read_once() {
    let mut bytes = image(16, 4, 1 << 50, 100, Preallocation::Off);
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let (l1, blocks) = (word(&bytes, 40) as usize, word(&bytes, 48) as usize);
    let (l2, block) = (word(&bytes, l1), word(&bytes, blocks));
    let entries = u32::from_be_bytes(bytes[36..40].try_into().unwrap()) as usize;
    for n in 0..entries {
        put(&mut bytes, l1 + n * 8, &l2.to_be_bytes());
    }
    for n in 0..8192 {
        put(&mut bytes, blocks + n * 8, &block.to_be_bytes());
    }
    let len = bytes.len() as u64;
    let storage = Holes::to_read(bytes, 1 << 60);
    let report = scanned(&storage).unwrap();
    assert_eq!(report.worst(), Some(Severity::Corruption));
    assert!(matches!(report.damage(), Some(Finding::Overlap { .. })), "{:?}", report.damage());
    assert!(storage.medium.read() < 4 * len, "{len}");
}

/// Bitmaps and an encryption header that claim what no file has.
#[test]
fn extensions_claim_in_vain() {
    // Where the feature names end.
    const PLACE: usize = 504;
    let huge = [(1u64 << 32 | 65_535).to_be_bytes(), [0xff; 8], (1u64 << 40).to_be_bytes()];
    for (id, data) in [
        (
            0x2385_2875u32,
            [[0, 0, 0xff, 0xff, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0], huge[2]].concat(),
        ),
        (0x2385_2875, huge.concat()),
        (0x0537_be77, [huge[2], [0x7f; 8]].concat()),
    ] {
        let mut bytes = image(16, 4, 1 << 20, 100, Preallocation::Off);
        put(&mut bytes, PLACE, &id.to_be_bytes());
        put(&mut bytes, PLACE + 4, &(data.len() as u32).to_be_bytes());
        put(&mut bytes, PLACE + 8, &data);
        put(&mut bytes, 95, &[1]);
        let storage = Holes::to_read(bytes, 1 << 60);
        let report = scanned(&storage).unwrap();
        assert!(report.corruptions > 0);
        assert!(storage.medium.read() < 32 << 20);
    }
}

/// Every kind of damage has a finding of its own, and one does not hide the next.
#[test]
fn each_damage_is_found_by_name() {
    let sound = image(9, 4, 64 << 10, 8 << 10, Preallocation::Off);
    let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
    let l1 = word(40) as usize;
    let l2 = (word(l1) & !COPIED) as usize;
    assert!(scanned(&MemoryStorage::new(sound.clone())).unwrap().is_clean());
    type Check = fn(&Finding) -> bool;
    let cases: &[(usize, u64, Check)] = &[
        (l2, word(l2) & !COPIED, |f| {
            matches!(f, Finding::CopiedFlag { set: false, stored: 1, .. })
        }),
        (l2, word(l2) | 2, |f| matches!(f, Finding::Malformed { .. })),
        (l2, 0, |f| matches!(f, Finding::Leak { stored: 1, found: 0, .. })),
        (l2, 1 << 40 | COPIED, |f| matches!(f, Finding::BeyondFile { .. })),
        (
            l2,
            l1 as u64 | COPIED,
            |f| matches!(f, Finding::Overlap { to, .. } if to.what == Structure::Data),
        ),
        (
            l2,
            word(l2 + 8),
            |f| matches!(f, Finding::Shared { to, .. } if to.guest.is_some_and(|g| g.get() == 512)),
        ),
        (
            l1,
            1 << 40,
            |f| matches!(f, Finding::BeyondFile { to, .. } if to.what == Structure::L2Table),
        ),
        (l1, word(l1) | 1 << 56, |f| matches!(f, Finding::Malformed { .. })),
        (word(48) as usize + 8, 0x123, |f| matches!(f, Finding::Malformed { .. })),
        (
            word(48) as usize + 8,
            word(l2) & !COPIED,
            |f| matches!(f, Finding::Overlap { to, .. } if to.what == Structure::Data),
        ),
    ];
    for (n, (at, value, found)) in cases.iter().enumerate() {
        let mut bytes = sound.clone();
        put(&mut bytes, *at, &value.to_be_bytes());
        // A leak beside it, far from the damage.
        let end = bytes.len();
        bytes.resize(end + 512, 0);
        let block = word(word(48) as usize) as usize;
        put(&mut bytes, block + end / 512 * 2, &[0, 1]);
        let report = scanned(&MemoryStorage::new(bytes)).unwrap();
        assert!(report.findings.iter().any(found), "{n}: {:?}", report.findings);
        assert!(report.leaks > 0, "{n}: {:?}", report.findings);
    }
}

/// A medium that does not give a table back: the walk goes on around it.
#[test]
fn an_unreadable_table_is_a_finding() {
    struct Bad(u64);
    impl Medium for Bad {
        fn on_read(&self, offset: u64, _: u64) -> Result<()> {
            match offset == self.0 {
                true => Err(Error::new(ErrorKind::Io, "a bad sector")),
                false => Ok(()),
            }
        }
    }
    let bytes = image(9, 4, 128 << 10, 100 << 10, Preallocation::Off);
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let second_table = word(word(40) as usize + 8) & !COPIED;
    let storage = On::holding(Bad(second_table), bytes.clone());
    let report = scanned(&*storage).unwrap();
    assert_eq!(report.corruptions, 1, "{:?}", report.findings);
    assert!(matches!(report.damage(), Some(Finding::Unreadable { kind: ErrorKind::Io, .. })));
    assert_eq!((report.leaks, report.allocated_clusters), (64, 200 - 64));
}

/// Asked to stop, a scan stops.
#[test]
fn a_scan_can_be_stopped() {
    let storage = MemoryStorage::new(image(9, 4, 64 << 10, 8 << 10, Preallocation::Off));
    let (header, cancel) = (Header::read(&storage).unwrap(), Cancel::new());
    cancel.trip();
    let error = scan(&storage, &header, Task::new(&Silent, &cancel)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is overwritten, the scan ends without a panic, what it reads and lists is bounded,
    /// and a rebuild either refuses without a write or leaves nothing to be found.
    #[test]
    fn random_damage_is_survived(
        order in 0u32..=6,
        damage in prop::collection::vec((any::<u16>(), any::<u64>(), 0u32..64), 1..6),
        dirty: bool,
    ) {
        let mut bytes = image(9, order, 64 << 10, 12 << 10, Preallocation::Metadata);
        for (at, value, shift) in damage {
            // Words of the tables, mostly small numbers, so that some of them lead somewhere.
            let at = usize::from(at) * 8 % (bytes.len().min(16 << 10) - 8);
            put(&mut bytes, at, &(value >> shift).to_be_bytes());
        }
        bytes[79] = u8::from(dirty) | bytes[79] & !1;
        let storage = std::sync::Arc::new(MemoryStorage::new(bytes.clone()));
        if let Ok(header) = Header::read(&*storage) {
            let report = scanned(&*storage).unwrap();
            prop_assert!(report.findings.len() <= MAX_FINDINGS);
            let image = crate::qcow2::Qcow2::open(Box::new(storage.clone()), header, None);
            let (cancel, damaged) = (Cancel::new(), report.damage().is_some());
            if let Ok(mut image) = image {
                match image.rebuild_refcounts(Task::new(&Silent, &cancel)) {
                    Ok(()) => {
                        prop_assert!(!damaged);
                        let after = scanned(&*storage).unwrap();
                        prop_assert!(after.is_clean(), "{:?}", after.findings);
                    }
                    Err(error) => {
                        prop_assert!(!error.changed(), "{error}");
                        prop_assert!(storage.contents() == bytes);
                    }
                }
            }
        }
    }
}
