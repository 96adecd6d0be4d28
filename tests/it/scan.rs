//! The scan of a qcow2 image against `qemu-img check`: the same totals, sound or damaged.

use vmdisk::host::{Access, FileStorage};
use vmdisk::qcow2::Header;
use vmdisk::qcow2::check::{ScanReport, Severity, scan};
use vmdisk::task::{Cancel, Silent, Task};

use crate::draw::{Draw, each, whole_matrix};
use crate::fixtures::IMAGES;
use crate::support::Env;

pub(crate) fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

pub(crate) fn open(env: &Env, access: Access) -> (FileStorage, Header) {
    let storage = env.storage("d.qcow2", access);
    let header = Header::read(&storage).expect("a header");
    (storage, header)
}

pub(crate) fn scanned(env: &Env) -> ScanReport {
    let (storage, header) = open(env, Access::Read);
    scan(&storage, &header, task(&Cancel::new())).expect("a scan")
}

/// What `qemu-img check` counts.
#[derive(Debug)]
struct Theirs {
    leaks: u64,
    corruptions: u64,
    errors: u64,
    end: u64,
    allocated: u64,
    compressed: u64,
}

fn theirs(env: &Env) -> Theirs {
    let run = env.run("qemu-img", ["check", "-f", "qcow2", "--output=json", "d.qcow2"]);
    let json = run.json();
    let number = |name: &str| json[name].as_u64().unwrap_or_default();
    Theirs {
        leaks: number("leaks"),
        corruptions: number("corruptions"),
        errors: number("check-errors"),
        end: number("image-end-offset"),
        allocated: number("allocated-clusters"),
        compressed: number("compressed-clusters"),
    }
}

/// Whatever QEMU's tools make, the scan comes to the totals that `qemu-img check` does.
#[test]
fn totals_are_those_of_qemu() {
    each(IMAGES, |(name, make)| {
        let env = Env::new();
        make(&env);
        let (ours, theirs) = (scanned(&env), theirs(&env));
        let found = &ours.findings;
        assert_eq!(ours.leaks, theirs.leaks, "{name}: {found:?}");
        assert_eq!(ours.corruptions, theirs.corruptions, "{name}: {found:?}");
        assert_eq!((ours.notices, theirs.errors), (0, 0), "{name}: {found:?}");
        assert_eq!(ours.end_of_use.get(), theirs.end, "{name}");
        assert_eq!(ours.allocated_clusters, theirs.allocated, "{name}");
        assert_eq!(ours.census.compressed.count, theirs.compressed, "{name}");
        let dirty = name.contains("killed") || name.contains("nobody vouches");
        assert_eq!(ours.is_clean(), !dirty, "{name}");
    });
}

/// Where the words are that a test damages.
pub(crate) struct Layout {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cluster: u64,
    pub(crate) bits: u64,
    /// Active entries that are not zero: where they are.
    pub(crate) l1: Vec<u64>,
    pub(crate) l2: Vec<u64>,
    pub(crate) refcount_table: u64,
    /// The first refcount block.
    pub(crate) block: u64,
}

pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(crate) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

impl Layout {
    pub(crate) fn of(env: &Env) -> Layout {
        let bytes = std::fs::read(env.path("d.qcow2")).expect("the image");
        let half = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let v3 = half(4) == 3;
        let mut layout = Layout {
            cluster: 1 << half(20),
            bits: if v3 { 1 << half(96) } else { 16 },
            l1: Vec::new(),
            l2: Vec::new(),
            refcount_table: 0,
            block: 0,
            bytes: bytes.clone(),
        };
        layout.refcount_table = layout.word(48);
        layout.block = layout.word(layout.refcount_table);
        let step = if v3 && bytes[79] & 0x10 != 0 { 16 } else { 8 };
        let used = |entries: Vec<u64>| -> Vec<u64> {
            entries.into_iter().filter(|&at| layout.word(at) != 0).collect()
        };
        let first = layout.word(40);
        let l1 = used((0..u64::from(half(36))).map(|n| first + n * 8).collect());
        let tables = l1.iter().map(|&at| layout.word(at) & OFFSET);
        let entries = (0..layout.cluster / step).map(|n| n * step);
        let l2 = tables.flat_map(|table| entries.clone().map(move |n| table + n)).collect();
        (layout.l2, layout.l1) = (used(l2), l1);
        layout
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        let word = self.bytes.get(at as usize..at as usize + 8);
        word.map_or(0, |word| u64::from_be_bytes(word.try_into().expect("8 bytes")))
    }

    /// Bytes of the first block that count clusters of the file.
    pub(crate) fn counts(&self) -> u64 {
        let clusters = (self.bytes.len() as u64).div_ceil(self.cluster);
        (clusters * self.bits).div_ceil(8).min(self.cluster)
    }
}

/// One damaged place: where, and what is written there.
type Damage = (u64, Vec<u8>);

fn word(at: u64, word: u64) -> Damage {
    (at, word.to_be_bytes().to_vec())
}

/// Damages an image, if it has what is to be damaged.
type Damages = fn(&Layout, &mut Draw) -> Option<Damage>;

/// Ways to damage an image, and whether the leaks that follow are the same for QEMU.
const DAMAGES: &[(&str, Damages, bool)] = &[
    ("a count", |l, d| Some((l.block + d.below(l.counts()), vec![d.next() as u8])), true),
    (
        "a free cluster",
        |l, d| {
            let cluster = d.below(l.counts() * 8 / l.bits);
            let at = l.block + cluster * l.bits / 8;
            Some((at, vec![0; l.bits.div_ceil(8) as usize]))
        },
        true,
    ),
    (
        "a COPIED flag of the L1 table",
        |l, d| {
            let at = *some(&l.l1, d)?;
            Some(word(at, l.word(at) ^ COPIED))
        },
        true,
    ),
    (
        "a COPIED flag of an L2 table",
        |l, d| {
            let at = *some(&l.l2, d)?;
            Some(word(at, l.word(at) ^ COPIED))
        },
        true,
    ),
    ("a lost L2 table", |l, d| Some(word(*some(&l.l1, d)?, 0)), true),
    ("a lost cluster", |l, d| Some(word(*some(&l.l2, d)?, 0)), true),
    ("an entry twice", |l, d| Some(word(*some(&l.l2, d)?, l.word(*some(&l.l2, d)?))), true),
    ("an entry beyond the file", |l, d| Some(word(*some(&l.l2, d)?, COPIED | 1 << 45)), true),
    (
        "an entry that leads to metadata",
        |l, d| {
            let to = d.pick(&[0, l.word(40), l.word(48), l.block]) & OFFSET;
            Some(word(*some(&l.l2, d)?, COPIED | to))
        },
        true,
    ),
    (
        "reserved bits",
        |l, d| {
            let at = *some(&l.l2, d).filter(|&&at| l.word(at) & COMPRESSED == 0)?;
            Some(word(at, l.word(at) | d.pick(&[1 << 56, 1 << 61, 2, 0x100])))
        },
        true,
    ),
    (
        "reserved bits of an L1 entry",
        |l, d| {
            let at = *some(&l.l1, d)?;
            Some(word(at, l.word(at) | 1 << 57))
        },
        true,
    ),
    (
        "an unaligned entry",
        |l, d| {
            let at = *some(&l.l2, d).filter(|&&at| l.word(at) & COMPRESSED == 0)?;
            (l.cluster > 512).then(|| word(at, l.word(at) ^ 512))
        },
        true,
    ),
    ("a refcount block beyond the file", |l, _| Some(word(l.refcount_table, 1 << 45)), true),
    (
        "an unaligned refcount block",
        |l, _| (l.cluster > 512).then(|| word(l.refcount_table, l.block + 512)),
        true,
    ),
    ("no refcount block", |l, _| Some(word(l.refcount_table, 0)), true),
    // QEMU believes a block whatever else it is; here the first entry alone is believed, and no
    // words of another table are taken for counts.
    ("one refcount block twice", |l, _| Some(word(l.refcount_table + 8, l.block)), false),
    ("a refcount block in the L1 table", |l, _| Some(word(l.refcount_table, l.word(40))), false),
];

fn some<'a>(all: &'a [u64], draw: &mut Draw) -> Option<&'a u64> {
    (!all.is_empty()).then(|| &all[draw.below(all.len() as u64) as usize])
}

/// Whatever is damaged, both call the image sound, leaking or corrupt alike, and count the same
/// leaks. Corruptions are not compared one by one: QEMU meets damage below a shared table once for
/// every snapshot, and metadata that meets something is corruption here whatever the counts say.
#[test]
fn damage_is_judged_as_qemu_judges_it() {
    let mut draw = Draw::seeded(5);
    let rounds = if whole_matrix() { 12 } else { 1 };
    let cases: Vec<_> = IMAGES.iter().map(|image| (*image, draw.fork().next())).collect();
    each(&cases, |((name, make), seed)| {
        let (env, mut draw) = (Env::new(), Draw::from_seed(*seed));
        make(&env);
        let layout = Layout::of(&env);
        for (what, damage, same_leaks) in
            DAMAGES.iter().flat_map(|damage| std::iter::repeat_n(damage, rounds))
        {
            let Some((at, bytes)) = damage(&layout, &mut draw) else { continue };
            env.patch("d.qcow2", at, &bytes);
            let (ours, theirs) = (scanned(&env), theirs(&env));
            let at = at as usize;
            env.patch("d.qcow2", at as u64, &layout.bytes[at..at + bytes.len()]);
            let about = || format!("{name}, {what} at {at:#x}: {theirs:?} {:?}", ours.findings);
            let class = match (theirs.corruptions + theirs.errors, theirs.leaks) {
                (0, 0) => None,
                (0, _) => Some(Severity::Leak),
                _ => Some(Severity::Corruption),
            };
            let worst = ours.worst().filter(|worst| *worst > Severity::Notice);
            assert_eq!(worst, class, "{}", about());
            if *same_leaks {
                assert_eq!(ours.leaks, theirs.leaks, "{}", about());
            }
        }
    });
}

/// The encryption header is in use, and so is what is encrypted.
#[test]
fn encrypted_images_are_scanned_like_any() {
    let env = Env::new();
    let secret = ["--object", "secret,id=s,data=abc"];
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let args = ["create", "-q", "-f", "qcow2"].into_iter().chain(secret);
    env.run("qemu-img", args.chain(["-o", options, "d.qcow2", "2M"])).exits(0);
    let about = "driver=qcow2,file.filename=d.qcow2,encrypt.key-secret=s";
    let args = secret.into_iter().chain(["--image-opts", "-c", "write 0 300k", about]);
    env.run("qemu-io", args).exits(0);
    let ours = scanned(&env);
    assert!(ours.is_clean(), "{:?}", ours.findings);
    let args = ["check", "--output=json"].into_iter().chain(secret).chain(["--image-opts", about]);
    let theirs = env.run("qemu-img", args).exits(0).json();
    assert_eq!(theirs["image-end-offset"], ours.end_of_use.get());
    assert_eq!(theirs["allocated-clusters"], ours.allocated_clusters);
}
