//! Images that the engine does not make itself: with an internal snapshot, with packed clusters,
//! with an external data file, and with a file so long that counting what is added needs a larger
//! refcount table.

use flate2::{Compress, Compression, FlushCompress};

use super::check::scan;
use super::entry::{ClusterRef, L1Entry, L2Entry, Mapping};
use super::extension::{BitmapDirectory, Extension};
use super::feature::{Autoclear, Incompatible};
use super::geometry::{ClusterCount, HostCluster, HostOffset};
use super::header::Header;
use super::refblock::RefcountBlock;
use super::shape_tests::{PLAIN, Shape, contents, in_memory};
use super::snapshot::read_snapshots;
use super::subject_tests::{Step, Subject};
use super::table::{L2Table, encode_words, read_l1, read_refcount_table};
use crate::host::storage::{MemoryStorage, Storage, read_exact_at, read_padded_at};
use crate::task::{Cancel, Silent, Task};
use std::sync::Arc;

/// An image that is being worked on by hand.
struct Bench {
    storage: Arc<MemoryStorage>,
    header: Header,
}

impl Bench {
    fn over(bytes: Vec<u8>) -> Bench {
        let storage = Arc::new(MemoryStorage::new(bytes));
        let header = Header::read(&*storage).unwrap();
        Bench { storage, header }
    }

    /// Changes the count of a cluster, which has a refcount block.
    fn count(&self, cluster: HostCluster, change: i64) {
        let geometry = self.header.geometry;
        let table = read_refcount_table(&*self.storage, &self.header).unwrap();
        let entry = table[geometry.refblock_index(cluster) as usize];
        let at = entry.decode(geometry).unwrap().expect("a refcount block").get();
        let mut bytes = vec![0; geometry.cluster_len()];
        read_exact_at(&*self.storage, at, &mut bytes).unwrap();
        let mut block = RefcountBlock::from_bytes(bytes, geometry);
        let index = geometry.index_in_refblock(cluster);
        block.set(index, block.get(index).checked_add_signed(change).unwrap());
        self.storage.write_at(at, block.bytes()).unwrap();
    }

    fn count_range(&self, offset: u64, len: u64, change: i64) {
        let geometry = self.header.geometry;
        let first = geometry.host_cluster(HostOffset::new(offset));
        let last = geometry.host_cluster(HostOffset::new(offset + len - 1));
        (first.get()..=last.get()).for_each(|n| self.count(HostCluster::new(n), change));
    }

    /// Puts bytes behind everything, from a cluster's beginning on, and counts them.
    fn append(&self, bytes: &[u8]) -> u64 {
        let geometry = self.header.geometry;
        let end = geometry.host_cluster_after(self.storage.len().unwrap());
        let at = geometry.host_offset(end).get();
        self.storage.write_at(at, bytes).unwrap();
        self.count_range(at, bytes.len() as u64, 1);
        at
    }

    /// Shows every entry of the active L2 tables to `change`, and keeps what it makes of them.
    fn each_entry(&self, mut change: impl FnMut(u64, L2Entry) -> L2Entry) {
        let geometry = self.header.geometry;
        for (n, entry) in (0..).zip(read_l1(&*self.storage, &self.header).unwrap()) {
            let Some(at) = entry.decode(geometry).unwrap() else { continue };
            let mut table = L2Table::read_padded(&*self.storage, at.offset, geometry).unwrap();
            let first = geometry.first_cluster_of_table(n);
            for index in 0..table.entries().count() as u64 {
                let guest = geometry.guest_offset(first + ClusterCount::new(index)).get();
                table.set(index, change(guest, table.get(index)));
            }
            self.storage.write_at(at.offset.get(), table.bytes()).unwrap();
        }
    }
}

/// Whether a snapshot or a bitmap can be put behind everything that is in the file: no refcount
/// block is added for it.
pub(super) fn has_room(bytes: Vec<u8>) -> bool {
    let bench = Bench::over(bytes);
    let geometry = bench.header.geometry;
    let table = read_refcount_table(&*bench.storage, &bench.header).unwrap();
    let last = geometry.host_cluster_after(bench.storage.len().unwrap()) + ClusterCount::new(8);
    let entry = table.get(geometry.refblock_index(last) as usize);
    entry.is_some_and(|entry| entry.decode(geometry).unwrap().is_some())
}

/// Data is counted once more and is nobody's alone, as a snapshot is begun.
pub(crate) fn counted_twice(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let geometry = bench.header.geometry;
    let cluster = geometry.cluster_size();
    bench.each_entry(|_, entry| {
        match entry.decode(geometry).unwrap() {
            Mapping::Compressed(range) => bench.count_range(range.offset.get(), range.len, 1),
            mapping => {
                if let Some(host) = mapping.host_cluster() {
                    bench.count_range(host.offset.get(), cluster, 1);
                }
            }
        }
        entry.with_copied(false)
    });
    bench.storage.contents()
}

/// Takes a snapshot, as QEMU does: the L1 table is copied, and everything that it leads to is
/// counted once more and is nobody's alone.
pub(crate) fn with_snapshot(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(counted_twice(bytes));
    let l1: Vec<L1Entry> = read_l1(&*bench.storage, &bench.header).unwrap();
    let l1: Vec<L1Entry> = l1.into_iter().map(|entry| shared(&bench, entry)).collect();
    let words = encode_words(l1.iter().map(|entry| entry.word()));
    bench.storage.write_at(bench.header.l1.offset.get(), &words).unwrap();
    let table = snapshot_table(bench.append(&words), &bench.header);
    let at = bench.append(&table);
    let switch: Vec<u8> = [&1u32.to_be_bytes()[..], &at.to_be_bytes()].concat();
    bench.storage.write_at(60, &switch).unwrap();
    bench.storage.contents()
}

/// Clusters behind everything that are counted and that nothing refers to.
pub(crate) fn leaking(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let cluster = bench.header.geometry.cluster_len();
    for n in 0..3 {
        bench.append(&vec![0xa0 + n; 2 * cluster]);
    }
    bench.storage.contents()
}

/// Sets the COPIED flags of the entries in the L1 tables of snapshots, where QEMU leaves them and nobody
/// looks at them.
pub(super) fn flagged(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    for snapshot in read_snapshots(&*bench.storage, &bench.header).unwrap() {
        for n in 0..u64::from(snapshot.l1.count) {
            let (at, mut word) = (snapshot.l1.offset.get() + n * 8, [0; 8]);
            read_exact_at(&*bench.storage, at, &mut word).unwrap();
            if word != [0; 8] {
                bench.storage.write_at(at, &[word[0] | 0x80]).unwrap();
            }
        }
    }
    bench.storage.contents()
}

/// An L2 table of the disk is counted once more than it is used.
pub(super) fn table_counted_twice(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let geometry = bench.header.geometry;
    let l1 = read_l1(&*bench.storage, &bench.header).unwrap();
    let table = l1.iter().find_map(|entry| entry.decode(geometry).unwrap()).unwrap();
    bench.count(geometry.host_cluster(table.offset), 1);
    bench.storage.contents()
}

/// So many snapshots of a disk without tables, as short as entries can be.
pub(super) fn with_many_snapshots(bytes: Vec<u8>, count: u32) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let mut table = Vec::new();
    for n in 0..count {
        table.resize(table.len().next_multiple_of(8), 0);
        let id = format!("{n:05}");
        table.extend([0; 12]);
        table.extend([0, 5, 0, 1]);
        table.extend([0; 20]);
        table.extend([16u32.to_be_bytes(), [0; 4], [0; 4]].concat());
        table.extend(bench.header.virtual_size.to_be_bytes());
        table.extend(id.as_bytes());
        table.push(b'x');
    }
    let at = bench.append(&table);
    let switch: Vec<u8> = [&count.to_be_bytes()[..], &at.to_be_bytes()].concat();
    bench.storage.write_at(60, &switch).unwrap();
    bench.storage.contents()
}

/// The entry of an L2 table that two L1 tables refer to from now on.
fn shared(bench: &Bench, entry: L1Entry) -> L1Entry {
    let geometry = bench.header.geometry;
    let Some(table) = entry.decode(geometry).unwrap() else { return entry };
    bench.count_range(table.offset.get(), geometry.cluster_size(), 1);
    L1Entry::encode(ClusterRef { copied: false, ..table })
}

/// The table of one snapshot, whose L1 table is at `l1`.
fn snapshot_table(l1: u64, header: &Header) -> Vec<u8> {
    let mut entry = l1.to_be_bytes().to_vec();
    entry.extend(header.l1.count.to_be_bytes());
    entry.extend([0, 1, 0, 5]); // The lengths of id and name.
    entry.extend([0; 20]); // The time, the clock and the machine's state.
    entry.extend(24u32.to_be_bytes());
    entry.extend([0; 8]);
    entry.extend(header.virtual_size.to_be_bytes());
    entry.extend(u64::MAX.to_be_bytes());
    entry.extend(b"1first");
    entry
}

/// Packs every second guest cluster that has data; several share a host cluster, and some lie in
/// two of them.
pub(crate) fn packed(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let geometry = bench.header.geometry;
    let cluster = geometry.cluster_size();
    let (mut stream, mut places, mut given_up) = (Vec::new(), Vec::new(), Vec::new());
    bench.each_entry(|guest, entry| {
        if let Mapping::Data(host) = entry.decode(geometry).unwrap()
            && (guest / cluster).is_multiple_of(2)
        {
            let mut data = vec![0; geometry.cluster_len()];
            read_padded_at(&*bench.storage, host.offset.get(), &mut data).unwrap();
            let packed = deflate(&data);
            places.push((guest, stream.len() as u64, packed.len() as u64));
            stream.extend(packed);
            given_up.push(host.offset.get());
        }
        entry
    });
    assert!(!places.is_empty(), "there is data to be packed");
    given_up.into_iter().for_each(|at| bench.count_range(at, cluster, -1));
    // Counted by the references to each cluster, not by the clusters.
    let at = bench.append(&stream);
    bench.count_range(at, stream.len() as u64, -1);
    for (_, start, len) in &places {
        let descriptor = L2Entry::compressed(HostOffset::new(at + start), *len, geometry);
        let mapping = descriptor.unwrap().decode(geometry);
        let Ok(Mapping::Compressed(range)) = mapping else { panic!("packed") };
        bench.count_range(range.offset.get(), range.len, 1);
    }
    // The last sector that a descriptor names is in the file.
    let end = geometry.host_cluster_after(bench.storage.len().unwrap());
    bench.storage.set_len(geometry.host_offset(end).get()).unwrap();
    bench.each_entry(|guest, entry| match places.iter().find(|place| place.0 == guest) {
        Some((_, start, len)) => {
            L2Entry::compressed(HostOffset::new(at + start), *len, geometry).unwrap()
        }
        None => entry,
    });
    bench.storage.contents()
}

/// Raw deflate with the window that QEMU writes, of 12 bits.
fn deflate(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * data.len() + 64);
    let mut stream = Compress::new_with_window_bits(Compression::default(), false, 12);
    stream.compress_vec(data, &mut out, FlushCompress::Finish).unwrap();
    out
}

/// Gives an image a bitmap of one cluster, which it vouches for.
pub(crate) fn with_bitmap(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let cluster = bench.header.geometry.cluster_len();
    let data = bench.append(&vec![0x55; cluster]);
    let table = bench.append(&data.to_be_bytes());
    // One entry in the table, no flags; a bitmap of dirty blocks of 64 KiB, and its name.
    let numbers = [&1u32.to_be_bytes()[..], &[0; 4], &[1, 16, 0, 1], &[0; 4]].concat();
    let directory = [&table.to_be_bytes()[..], &numbers, b"b\0\0\0\0\0\0\0"].concat();
    let offset = bench.append(&directory);
    let size_bytes = directory.len() as u64;
    let mut header = bench.header.clone();
    header.extensions.push(Extension::Bitmaps(BitmapDirectory { count: 1, size_bytes, offset }));
    header.autoclear = header.autoclear.with_if(true, Autoclear::BITMAPS);
    bench.storage.write_at(0, &header.encode().unwrap()).unwrap();
    // The last cluster is in the file.
    let end = header.geometry.host_cluster_after(bench.storage.len().unwrap());
    bench.storage.set_len(header.geometry.host_offset(end).get()).unwrap();
    bench.storage.contents()
}

/// Has an image that holds no data yet keep it in a file of its own, which may be the disk itself:
/// then every entry refers to its data.
pub(super) fn with_data_file(bytes: Vec<u8>, raw: bool) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let mut header = bench.header.clone();
    header.incompatible = header.incompatible.with_if(true, Incompatible::EXTERNAL_DATA);
    header.autoclear = header.autoclear.with_if(raw, Autoclear::RAW_EXTERNAL_DATA);
    header.extensions.push(Extension::ExternalData(b"data".to_vec()));
    bench.storage.write_at(0, &header.encode().unwrap()).unwrap();
    bench.each_entry(|guest, entry| match raw && guest < header.virtual_size {
        true => L2Entry::data(ClusterRef::sole(HostOffset::new(guest)), header.geometry),
        false => entry,
    });
    bench.storage.contents()
}

/// Dirty, with no count and no COPIED flag.
pub(super) fn uncounted(bytes: Vec<u8>) -> Vec<u8> {
    let bench = Bench::over(bytes);
    let mut header = bench.header.clone();
    header.incompatible = header.incompatible.with_if(true, Incompatible::DIRTY);
    bench.storage.write_at(0, &header.encode().unwrap()).unwrap();
    bench.each_entry(|_, entry| entry.with_copied(false));
    let table = vec![0; header.refcount_table.count as usize * header.geometry.cluster_len()];
    bench.storage.write_at(header.refcount_table.offset.get(), &table).unwrap();
    bench.storage.contents()
}

/// A file that goes on, with nothing in it, to `len`.
pub(super) fn lengthened(bytes: Vec<u8>, len: u64) -> Vec<u8> {
    let bench = Bench::over(bytes);
    bench.storage.set_len(len).unwrap();
    bench.storage.contents()
}

/// What each snapshot's disk reads as.
pub(super) fn snapshot_disks(shape: &Shape, files: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let files = in_memory(files);
    let header = Header::read(&*files[0]).unwrap();
    let snapshots = read_snapshots(&*files[0], &header).unwrap();
    let disk = |snapshot: super::snapshot::Snapshot| {
        let virtual_size = snapshot.disk_size_bytes.unwrap();
        let header = Header { l1: snapshot.l1, virtual_size, ..header.clone() };
        contents(&shape.open_as(&files, header, false).unwrap()).unwrap()
    };
    snapshots.into_iter().map(disk).collect()
}

/// The files of an image that is closed, after these steps; and what it shows.
pub(super) fn made_by(shape: Shape, steps: &[Step]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut subject = Subject::new(shape);
    steps.iter().for_each(|step| subject.step(*step));
    subject.close().unwrap();
    (subject.bytes(), subject.model)
}

#[test]
fn what_is_made_by_hand_is_sound() {
    let steps = [Step::Write(100, 9000, 3), Step::Write(20_000, 5000, 9), Step::Zero(512, 600)];
    for cluster_bits in [9, 12, 16] {
        let shape = Shape { cluster_bits, size: 200 << 10, ..PLAIN };
        let (files, model) = made_by(shape, &steps);
        let bytes = files[0].clone();
        let packed = packed(bytes.clone());
        let images = [
            (lengthened(bytes.clone(), 1 << 20), 0),
            (with_snapshot(bytes.clone()), 1),
            (packed.clone(), 0),
            (with_snapshot(packed), 1),
            (with_bitmap(bytes), 0),
        ];
        for (bytes, snapshots) in images {
            assert_eq!(
                snapshot_disks(&shape, std::slice::from_ref(&bytes)),
                vec![model.clone(); snapshots]
            );
            let files = in_memory(&[bytes]);
            let header = Header::read(&*files[0]).unwrap();
            let report = scan(&*files[0], &header, Task::new(&Silent, &Cancel::new())).unwrap();
            assert!(report.is_clean() && report.notices == 0, "{:?}", report.findings);
            assert!(contents(&shape.open(&files, false).unwrap()).unwrap() == model);
        }
    }
}
