//! Small chains in memory for the tests beside: three disks that were written at random, one above
//! the other, and what the uppermost shows.

use std::sync::Arc;

use super::*;
use crate::block::{DeviceOptions, ExtentKind};
use crate::host::storage::{MemoryStorage, Storage};
use crate::image::opened::Disk;
use crate::qcow2::check::scan;
use crate::qcow2::crash_states_tests::next;
use crate::qcow2::fixtures_tests::{leaking, packed, with_bitmap, with_snapshot};
use crate::qcow2::geometry::{ClusterBits, Geometry, RefcountOrder};
use crate::qcow2::{
    Backing, BitmapChange, CompressionType, CreateOptions, Granularity, Header, HeaderForm,
    L1Capacity, Parts, Preallocation, Qcow2, Version, bitmaps_of, create, read_snapshots,
};
use crate::raw::Raw;
use crate::task::{Cancel, Silent};

const KIB: u64 = 1024;
const SECTOR: usize = 512;
/// How many clusters are leaked in an image that has some.
pub(super) const LEAKED: u64 = 6;

/// One image of a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    pub(super) cluster_bits: u32,
    pub(super) order: u32,
    pub(super) extended: bool,
    pub(super) version: Version,
    pub(super) lazy: bool,
    pub(super) raw: bool,
    pub(super) size: u64,
    pub(super) found: Found,
    /// So many things were done to it.
    pub(super) steps: u64,
}

/// What else is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Plain,
    Packed,
    Snapshot,
    Bitmap,
    /// One that is enabled and one that is not.
    Bitmaps,
    /// Clusters that are counted and that nothing refers to.
    Leaks,
}

pub(super) const PLAIN: Layer = Layer {
    cluster_bits: 9,
    order: 4,
    extended: false,
    version: Version::V3,
    lazy: false,
    raw: false,
    size: 24 * KIB,
    found: Found::Plain,
    steps: 6,
};

/// A chain, the uppermost image first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) layers: [Option<Layer>; 3],
}

pub(super) const EXTENDED: Layer =
    Layer { cluster_bits: 14, extended: true, size: 96 * KIB, ..PLAIN };

pub(super) const CASES: &[Case] = &[
    Case { name: "plain", layers: [Some(PLAIN), None, Some(PLAIN)] },
    Case { name: "three", layers: [Some(PLAIN), Some(PLAIN), Some(PLAIN)] },
    Case {
        name: "raw below, smaller",
        layers: [Some(PLAIN), None, Some(Layer { raw: true, size: 9 * KIB, ..PLAIN })],
    },
    Case {
        name: "a shorter one between",
        layers: [
            Some(Layer { size: 30 * KIB, ..PLAIN }),
            Some(Layer { size: 11 * KIB, cluster_bits: 10, ..PLAIN }),
            Some(Layer { size: 20 * KIB, ..PLAIN }),
        ],
    },
    Case {
        name: "subclusters above",
        layers: [Some(EXTENDED), None, Some(Layer { size: 80 * KIB, ..PLAIN })],
    },
    Case {
        name: "subclusters below, raw at the bottom",
        layers: [
            Some(Layer { cluster_bits: 12, size: 70 * KIB, ..PLAIN }),
            Some(EXTENDED),
            Some(Layer { raw: true, size: 65 * KIB, ..PLAIN }),
        ],
    },
    Case {
        name: "packed, one-bit counts",
        layers: [
            Some(Layer { found: Found::Packed, cluster_bits: 10, ..PLAIN }),
            None,
            Some(Layer { order: 0, cluster_bits: 11, ..PLAIN }),
        ],
    },
    Case {
        name: "version 2, snapshots below",
        layers: [
            Some(Layer { version: Version::V2, ..PLAIN }),
            None,
            Some(Layer { found: Found::Snapshot, ..PLAIN }),
        ],
    },
    Case {
        name: "bitmaps below",
        layers: [Some(PLAIN), None, Some(Layer { found: Found::Bitmaps, ..PLAIN })],
    },
    Case {
        name: "leaks in both",
        layers: [
            Some(Layer { found: Found::Leaks, ..PLAIN }),
            None,
            Some(Layer { found: Found::Leaks, ..PLAIN }),
        ],
    },
    Case {
        name: "a bitmap above, wide counts, lazy below",
        layers: [
            Some(Layer { found: Found::Bitmap, order: 6, ..PLAIN }),
            None,
            Some(Layer { lazy: true, ..PLAIN }),
        ],
    },
];

const NAMES: [&str; 3] = ["top", "mid", "base"];

pub(super) fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

/// Writable, with room for a few tables alone.
fn options(writable: bool) -> DeviceOptions {
    let cache = crate::block::CacheConfig { table_bytes: 0, refcount_bytes: 0 };
    DeviceOptions { writable, cache, ..DeviceOptions::default() }
}

fn is_qcow2(file: &dyn Storage) -> Result<bool> {
    let mut magic = [0; 4];
    Ok(file.read_at(0, &mut magic)? == 4 && &magic == b"QFI\xfb")
}

/// An image in this file, above `below`.
pub(super) fn open(
    name: &str,
    file: Arc<dyn Storage>,
    below: Option<Image>,
    writable: bool,
) -> Result<Image> {
    let disk = if is_qcow2(&*file)? {
        let header = Header::read(&*file)?;
        let backing = below.map(|below| Box::new(below) as Backing);
        let parts = Parts { storage: Box::new(file), data_file: None, backing };
        let cancel = Cancel::new();
        let image = Qcow2::open_with(parts, header, &options(writable), task(&cancel))?;
        Disk::Qcow2(Box::new(image))
    } else {
        Disk::Raw(Raw::open_with(Box::new(file), &options(writable))?)
    };
    let path = name.into();
    Ok(Image { path, data_path: None, backing_path: None, writable, journal: None, disk })
}

/// Files of a chain, and which of them is which: the uppermost first.
#[derive(Clone)]
pub(super) struct Chain<S> {
    pub(super) files: Vec<Arc<S>>,
    names: Vec<&'static str>,
}

impl<S: Storage + 'static> Chain<S> {
    pub(super) fn new(case: &Case, files: Vec<Arc<S>>) -> Self {
        let names = case.layers.iter().zip(NAMES).filter_map(|(layer, name)| layer.map(|_| name));
        Chain { files, names: names.collect() }
    }

    fn file(&self, name: &str) -> Arc<S> {
        let place = self.names.iter().position(|known| *known == name);
        self.files[place.expect("a file of the chain")].clone()
    }

    /// The image with this name, above what it names itself.
    pub(super) fn open(&self, name: &str, writable: bool) -> Result<Image> {
        let file = self.file(name);
        let header = is_qcow2(&*file)?.then(|| Header::read(&*file)).transpose()?;
        let backing = header.and_then(|header| header.backing);
        let below = backing.map(|below| {
            let below = String::from_utf8(below.name).expect("a name");
            self.open(&below, false)
        });
        open(name, file, below.transpose()?, writable)
    }

    /// Commits the uppermost into the lowest, and empties it.
    pub(super) fn commit(&self, then_empty: bool, task: Task<'_>) -> Result<Committed> {
        let top = open("top", self.file("top"), None, false)?;
        let mut between = Vec::new();
        if top.header().and_then(|header| header.backing.as_ref()).is_some_and(|b| b.name == b"mid")
        {
            between.push(open("mid", self.file("mid"), None, false)?);
        }
        let name = BackingName { name: b"base".to_vec(), format: None };
        let then = match then_empty {
            true => Then::Empty((!between.is_empty()).then_some(&name)),
            false => Then::Keep,
        };
        let base = self.open("base", true)?;
        let (_, done) = Commit { top, between, base }.run(then, task)?;
        Ok(done)
    }

    pub(super) fn flatten(&self, task: Task<'_>) -> Result<()> {
        let mut top = self.open("top", true)?;
        if top.header().is_some_and(|header| header.backing.is_some()) {
            top.rebase(None, None, task)?;
        }
        top.close()
    }

    /// What the disk of this name shows.
    pub(super) fn disk(&self, name: &str) -> Vec<u8> {
        let image = self.open(name, false).expect("an image");
        let mut bytes = vec![1; image.size() as usize];
        image.read_at(0, &mut bytes).expect("a readable disk");
        bytes
    }

    /// What the snapshot of this image shows, which has nothing below it.
    pub(super) fn snapshot_disk(&self, name: &str) -> Vec<u8> {
        let file = self.file(name);
        let header = Header::read(&*file).unwrap();
        let snapshot = read_snapshots(&*file, &header).unwrap().remove(0);
        let virtual_size = snapshot.disk_size_bytes.unwrap();
        let header = Header { l1: snapshot.l1, virtual_size, ..header };
        let image = Qcow2::open(Box::new(file), header, None).unwrap();
        let mut bytes = vec![1; virtual_size as usize];
        image.read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// Which sectors of the disk a bitmap of the lowest image has as dirty; nothing where it has no
    /// such bitmap, or does not vouch for it.
    pub(super) fn dirty_below(&self, name: &[u8]) -> Option<Vec<bool>> {
        let (_, _, _, dirty) =
            bitmaps_of(&*self.file("base")).into_iter().find(|(found, ..)| found == name)?;
        let mut sectors = vec![false; self.disk("base").len() / SECTOR];
        for (start, end) in dirty? {
            sectors[start as usize / SECTOR..end as usize / SECTOR].fill(true);
        }
        Some(sectors)
    }

    /// Whether the bitmap of the lowest image that is enabled has all as dirty that is not as `before`.
    pub(super) fn bitmaps_hold(&self, before: &[u8]) -> bool {
        let Some(dirty) = self.dirty_below(b"enabled") else { return false };
        let (now, before) = (self.disk("base"), before.chunks(SECTOR));
        let mut sectors = now.chunks(SECTOR).zip(before).zip(dirty);
        sectors.all(|((now, before), dirty)| dirty || now == before)
    }

    /// Which sectors the uppermost image has something of its own for.
    pub(super) fn own_of_top(&self) -> Vec<bool> {
        let top = open("top", self.file("top"), None, false).unwrap();
        let sectors = (0..top.size()).step_by(SECTOR);
        let extent = |at| top.extent(at, at + SECTOR as u64).unwrap();
        sectors.map(|at| extent(at).kind != ExtentKind::Unallocated).collect()
    }

    /// Nothing is wrong with any of them, and bitmaps are vouched for; returns the leaked clusters.
    pub(super) fn leaks(&self) -> u64 {
        let qcow2 = |file: &&Arc<S>| Header::read(&***file).is_ok();
        let leaks = self.files.iter().filter(qcow2).map(|file| {
            let header = Header::read(&**file).unwrap();
            assert_eq!(header.lost_bitmaps(), 0);
            let found = scan(&**file, &header, task(&Cancel::new())).unwrap();
            let dirty = header.incompatible.contains(crate::qcow2::Incompatible::DIRTY);
            assert!(found.corruptions == 0 || dirty, "{:?}", found.findings);
            found.leaks + found.counted_beyond_file
        });
        leaks.sum()
    }
}

/// Bitmaps in which each sector has a bit.
fn with_bitmaps(bytes: Vec<u8>) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new(bytes));
    let header = Header::read(&*storage).unwrap();
    let mut image = Qcow2::open(Box::new(storage.clone()), header, None).unwrap();
    for (name, enabled) in [(&b"enabled"[..], true), (b"disabled", false)] {
        let add = BitmapChange::Add { name, granularity: Granularity::new(9), enabled };
        image.change_bitmaps(&add, task(&Cancel::new())).unwrap();
    }
    drop(image);
    storage.contents()
}

impl Case {
    /// The files, written at random.
    pub(super) fn files(&self, mut seed: u64) -> Vec<Vec<u8>> {
        let mut made: Vec<Vec<u8>> = Vec::new();
        let present: Vec<usize> = (0..3).filter(|n| self.layers[*n].is_some()).collect();
        for (place, &number) in present.iter().enumerate().rev() {
            let layer = self.layers[number].unwrap();
            let below = present.get(place + 1).map(|&below| NAMES[below]);
            made.insert(0, layer.create(below));
            let present: Vec<_> = present[place..].iter().map(|&n| NAMES[n]).collect();
            let files = made.iter().map(|file| Arc::new(MemoryStorage::new(file.clone())));
            let chain = Chain { files: files.collect(), names: present };
            let image = chain.open(NAMES[number], true).unwrap();
            (0..layer.steps).for_each(|_| layer.step(&image, &mut seed));
            if layer.found == Found::Packed {
                image
                    .write_at(0, &vec![7; (2 << layer.cluster_bits).min(layer.size) as usize])
                    .unwrap();
            }
            image.close().unwrap();
            made[0] = layer.with_found(chain.files[0].contents());
            if layer.found == Found::Snapshot {
                // What comes behind it no longer lies in clusters of its own.
                let chain = Chain {
                    files: made.iter().map(|f| Arc::new(MemoryStorage::new(f.clone()))).collect(),
                    names: chain.names,
                };
                let image = chain.open(NAMES[number], true).unwrap();
                (0..2).for_each(|_| layer.step(&image, &mut seed));
                image.close().unwrap();
                made[0] = chain.files[0].contents();
            }
        }
        made
    }
}

impl Layer {
    fn create(&self, below: Option<&str>) -> Vec<u8> {
        let storage = MemoryStorage::default();
        if self.raw {
            storage.set_len(self.size).unwrap();
            return storage.contents();
        }
        let bits = ClusterBits::new(self.cluster_bits).unwrap();
        let order = RefcountOrder::new(self.order).unwrap();
        let options = CreateOptions {
            version: self.version,
            geometry: Geometry::new(bits, order, self.extended).unwrap(),
            virtual_size: VirtualSize::round_up(ByteSize::from_bytes(self.size)).unwrap(),
            backing: below
                .map(|below| BackingName { name: below.as_bytes().to_vec(), format: None }),
            compression: CompressionType::Zlib,
            lazy_refcounts: self.lazy,
            dirty: false,
            header_form: HeaderForm::Qemu,
            l1_capacity: L1Capacity::AsNeeded,
            preallocation: Preallocation::Off,
        };
        create(&storage, &options, &[], task(&Cancel::new())).unwrap();
        storage.contents()
    }

    fn with_found(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self.found {
            Found::Plain => bytes,
            Found::Packed => packed(bytes),
            Found::Snapshot => with_snapshot(bytes),
            Found::Bitmap => with_bitmap(bytes),
            Found::Bitmaps => with_bitmaps(bytes),
            Found::Leaks => leaking(bytes),
        }
    }

    /// Does something to an image of this kind.
    pub(super) fn step(&self, image: &Image, seed: &mut u64) {
        let size = image.size();
        let unit = if self.extended { 512 } else { 1 << self.cluster_bits };
        let at = next(seed) % size;
        let len = (1 + next(seed) % (5 * unit)).min(size - at);
        let whole = (at / unit * unit, ((len / unit + 1) * unit).min(size - at / unit * unit));
        match next(seed) % 7 {
            3 if !self.raw => {
                let cluster = 1 << self.cluster_bits;
                let start = at / cluster * cluster;
                let len = cluster.min(size - start);
                image.write_compressed(start, &vec![next(seed) as u8; len as usize]).unwrap();
            }
            0 => image.write_zeroes(whole.0, whole.1).unwrap(),
            1 => image.discard(whole.0, whole.1).unwrap(),
            2 => image.write_at(whole.0, &vec![0; whole.1 as usize]).unwrap(),
            _ => {
                let value = next(seed) as u8;
                let bytes: Vec<_> = (0..len).map(|n| value.wrapping_add(n as u8) | 1).collect();
                image.write_at(at, &bytes).unwrap();
            }
        }
    }
}
