//! What a header may claim, and what is made of it.

use proptest::prelude::*;

use super::create::create;
use super::entry::{ClusterRef, L2Entry, Mapping, Subclusters};
use super::error::{FormatError, Problem};
use super::extension::Extension;
use super::feature::Incompatible;
use super::geometry::{ClusterBits, Geometry, HostOffset, RefcountOrder};
use super::header::{BackingName, CompressionType, Header, Version};
use super::options::{CreateOptions, HeaderForm, L1Capacity, Preallocation};
use crate::error::{ErrorKind, Result};
use crate::host::storage::MemoryStorage;
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

fn options() -> CreateOptions {
    CreateOptions {
        version: Version::V3,
        geometry: Geometry::new(ClusterBits::DEFAULT, RefcountOrder::DEFAULT, false).unwrap(),
        virtual_size: VirtualSize::round_up(ByteSize::from_bytes(1 << 30)).unwrap(),
        backing: None,
        compression: CompressionType::Zlib,
        lazy_refcounts: false,
        dirty: false,
        header_form: HeaderForm::Qemu,
        l1_capacity: L1Capacity::AsNeeded,
        preallocation: Preallocation::Off,
    }
}

fn image(options: &CreateOptions) -> Vec<u8> {
    let storage = MemoryStorage::default();
    create(&storage, options, &[], Task::new(&Silent, &Cancel::new())).unwrap();
    storage.contents()
}

fn read(bytes: Vec<u8>) -> Result<Header> {
    Header::read(&MemoryStorage::new(bytes))
}

/// Bytes put over a good header at an offset, and the very problem that must be found.
fn claims() -> Vec<(&'static str, u64, Vec<u8>, Problem)> {
    let be32 = |n: u32| n.to_be_bytes().to_vec();
    let be64 = |n: u64| n.to_be_bytes().to_vec();
    let file_len = 0x50000;
    vec![
        ("magic", 0, b"QFI\0".to_vec(), Problem::NoMagic),
        ("version 1", 4, be32(1), Problem::Version(1)),
        ("version 4", 4, be32(4), Problem::Version(4)),
        ("clusters of 256 B", 20, be32(8), Problem::ClusterBits(8)),
        ("clusters of 2^64 B", 20, be32(64), Problem::ClusterBits(64)),
        (
            "a name beyond its limit",
            16,
            [be32(1024), be32(16)].concat(),
            Problem::BackingName { offset: 0x300, len: 1024 },
        ),
        (
            "a size beyond the limit",
            24,
            be64(1 << 60),
            Problem::VirtualSize { size: 1 << 60, max: 2 << 50 },
        ),
        ("encryption", 32, be32(3), Problem::CryptMethod(3)),
        (
            "an L1 table too small for the size",
            36,
            be32(1),
            Problem::L1Size { entries: 1, needed: 2, max: 4 << 20 },
        ),
        (
            "an L1 table too large",
            36,
            be32(u32::MAX),
            Problem::L1Size { entries: u32::MAX, needed: 2, max: 4 << 20 },
        ),
        (
            "an L1 table off its cluster",
            40,
            be64(0x30200),
            Problem::Unaligned { what: "L1 table", offset: 0x30200 },
        ),
        (
            "an L1 table over the header",
            40,
            be64(0),
            Problem::Unaligned { what: "L1 table", offset: 0 },
        ),
        (
            "an L1 table beyond the file",
            40,
            be64(1 << 40),
            Problem::BeyondFile { what: "L1 table", offset: 1 << 40, len: 16, file_len },
        ),
        (
            "a refcount table at the end of all offsets",
            48,
            be64(u64::MAX << 16),
            Problem::BeyondFile {
                what: "refcount table",
                offset: u64::MAX << 16,
                len: 65536,
                file_len,
            },
        ),
        ("no refcount table", 56, be32(0), Problem::RefcountTableSize { clusters: 0, max: 128 }),
        (
            "a huge refcount table",
            56,
            be32(129),
            Problem::RefcountTableSize { clusters: 129, max: 128 },
        ),
        ("snapshots", 60, be32(65537), Problem::TooManySnapshots { count: 65537 }),
        (
            "snapshots nowhere",
            60,
            be32(1),
            Problem::Unaligned { what: "snapshot table", offset: 0 },
        ),
        (
            "an unknown feature with a name",
            72,
            be64(1 << 5),
            Problem::UnknownIncompatible("bit 5".into()),
        ),
        ("a compression type without its bit", 104, vec![1], Problem::CompressionType(1, "clear")),
        ("a compression bit without a type", 72, be64(1 << 3), Problem::CompressionType(0, "set")),
        ("counts of 128 bits", 96, be32(7), Problem::RefcountOrder(7)),
        ("a short header", 100, be32(96), Problem::HeaderLength { len: 96, max: 65536 }),
        ("an odd header", 100, be32(108), Problem::HeaderLength { len: 108, max: 65536 }),
        ("a header beyond", 100, be32(65544), Problem::HeaderLength { len: 65544, max: 65536 }),
        (
            "an extension beyond its area",
            0x74,
            be32(u32::MAX),
            Problem::ExtensionTooLong { id: 0x6803_F857, len: u32::MAX },
        ),
    ]
}

/// Each bound of the format is checked where the header is read, with its own cause.
#[test]
fn every_false_claim_is_refused_by_name() {
    let good = image(&options());
    assert_eq!(good.len(), 0x40000);
    for (name, at, bytes, problem) in claims() {
        let mut bad = good.clone();
        // Room for a backing file name, and a file of a length that no claim happens to meet.
        bad.resize(0x50000, 0);
        if name.starts_with("a name") {
            bad[8..16].copy_from_slice(&0x300u64.to_be_bytes());
        }
        let at = at as usize;
        bad[at..at + bytes.len()].copy_from_slice(&bytes);
        let error = read(bad).expect_err(name);
        assert_eq!(error.cause::<FormatError>(), Some(&problem.into()), "{name}: {error}");
    }
}

/// A feature that is not known is called what the image calls it, and cannot smuggle control
/// characters into a terminal.
#[test]
fn unknown_features_are_named_by_the_image() {
    let mut bytes = image(&options());
    bytes[79] = 1 << 6;
    // The first record of the feature name table.
    bytes[0x78..0x7a].copy_from_slice(&[0, 6]);
    bytes[0x7a..0x87].copy_from_slice(b"time\x1b[31mwarp");
    let error = read(bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedFeature);
    assert!(error.to_string().contains(r"bit 6 ('time\x1b[31mwarp"), "{error}");
}

/// What a newer program left in the header stays there when the image is changed.
#[test]
fn what_is_unknown_is_kept() {
    let mut bytes = image(&options());
    bytes[88..96].copy_from_slice(&(1u64 << 40).to_be_bytes());
    bytes[80..88].copy_from_slice(&(1u64 << 41).to_be_bytes());
    let header = read(bytes.clone()).unwrap();
    assert_eq!(header.compatible.unknown().collect::<Vec<_>>(), [41]);
    let (at, switch) = header.encode_switch();
    let at = at as usize;
    assert_eq!(switch, bytes[at..at + switch.len()]);
}

fn any_options() -> impl Strategy<Value = CreateOptions> {
    let sizes = prop::sample::select(vec![512u64, 1 << 20, 20_000_000_512, 1 << 40]);
    let name = prop::option::of("[a-z./:]{1,60}");
    (14u32..=18, 0u32..=6, any::<(bool, bool, bool, bool)>(), sizes, name).prop_map(
        |(bits, order, (v3, extended, lazy, zstd), size, name)| CreateOptions {
            version: if v3 { Version::V3 } else { Version::V2 },
            geometry: Geometry::new(
                ClusterBits::new(bits).unwrap(),
                if v3 { RefcountOrder::new(order).unwrap() } else { RefcountOrder::DEFAULT },
                v3 && extended,
            )
            .unwrap(),
            virtual_size: VirtualSize::round_up(ByteSize::from_bytes(size)).unwrap(),
            backing: name.map(|name| BackingName {
                name: name.into_bytes(),
                format: Some(b"qcow2".to_vec()),
            }),
            compression: if v3 && zstd { CompressionType::Zstd } else { CompressionType::Zlib },
            lazy_refcounts: v3 && lazy,
            ..options()
        },
    )
}

/// In an external data file, data may be at offset 0: then the flag alone says that it is there.
#[test]
fn the_first_cluster_of_a_data_file_is_like_any() {
    let sole = ClusterRef::sole(HostOffset::ZERO);
    for extended in [false, true] {
        let geometry = Geometry::new(ClusterBits::DEFAULT, RefcountOrder::DEFAULT, extended);
        let mut header = read(image(&CreateOptions { geometry: geometry.unwrap(), ..options() }));
        let header = header.as_mut().unwrap();
        let data = L2Entry::data(sole, header.geometry);
        let inside = header.mapping(data).ok();
        assert_eq!(inside, (!extended).then_some(Mapping::Unallocated));
        header.incompatible = header.incompatible.with_if(true, Incompatible::EXTERNAL_DATA);
        assert_eq!(header.mapping(data).unwrap(), Mapping::Data(sole));
        let zero = L2Entry::of(Some(sole), Subclusters::ZERO, header.geometry);
        assert_eq!(header.mapping(zero).unwrap(), Mapping::Zero(Some(sole)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_created_is_what_is_read(options in any_options()) {
        let header = read(image(&options)).unwrap();
        prop_assert_eq!(header.version, options.version);
        prop_assert_eq!(header.geometry, options.geometry);
        prop_assert_eq!(header.virtual_size, options.virtual_size.bytes());
        prop_assert_eq!(header.backing, options.backing);
        prop_assert_eq!(header.compression, options.compression);
        let zstd = options.compression == CompressionType::Zstd;
        prop_assert_eq!(header.incompatible.contains(Incompatible::COMPRESSION), zstd);
        let names = header.extensions.iter().any(|e| matches!(e, Extension::FeatureNames(_)));
        prop_assert_eq!(names, options.version == Version::V3);
    }

    #[test]
    fn no_header_makes_us_panic(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..24),
        cut in 0usize..4096,
    ) {
        let mut bytes = image(&options());
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = read(bytes.clone());
        bytes.truncate(cut);
        let _ = read(bytes);
    }
}
