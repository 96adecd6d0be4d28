//! Bits, directories and decisions, without any other program.

use std::sync::Arc;

use proptest::prelude::*;

use super::chunks::{BitmapReader, runs_of_ones, set_bits};
use super::directory::{Bitmap, encode_directory};
use super::{
    BitmapChange, BitmapSource, BitmapsChanged, Granularity, MAX_BITMAPS, dirty_bytes, read_bitmaps,
};
use crate::error::{ErrorKind, Result};
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::check::scan;
use crate::qcow2::header::Header;
use crate::qcow2::open::Qcow2;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::task::{Cancel, Silent, Task};

pub(super) fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

/// A bitmap as anybody would see it: name, granularity, whether it is enabled, and what of the disk
/// is dirty, unless nobody saved it.
pub(crate) type Found = (Vec<u8>, u64, bool, Option<Vec<(u64, u64)>>);

/// The bitmaps that an image vouches for.
pub(crate) fn bitmaps_of(storage: &dyn Storage) -> Vec<Found> {
    let header = Header::read(storage).unwrap();
    let bitmaps = read_bitmaps(storage, &header).unwrap();
    let found = |bitmap: &Bitmap| {
        let dirty = (!bitmap.is_in_use()).then(|| dirty(storage, &header, bitmap));
        (bitmap.name.clone(), bitmap.granularity.bytes(), bitmap.is_enabled(), dirty)
    };
    bitmaps.iter().map(found).collect()
}

/// Where what is dirty begins and ends.
fn dirty(storage: &dyn Storage, header: &Header, bitmap: &Bitmap) -> Vec<(u64, u64)> {
    let mut reader = BitmapReader::new(storage, header, bitmap).unwrap();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let visit = |run: std::ops::Range<u64>| match runs.last_mut() {
        Some(last) if last.1 == run.start => last.1 = run.end,
        _ => runs.push((run.start, run.end)),
    };
    reader.each_dirty(&(0..header.virtual_size), visit).unwrap();
    let bytes = runs.iter().map(|(start, end)| end - start).sum::<u64>();
    assert_eq!(dirty_bytes(storage, header, bitmap, task(&Cancel::new())).unwrap(), bytes);
    runs
}

pub(super) fn merge(into: &'static [u8], from: &[&'static [u8]]) -> BitmapChange<'static> {
    let sources = from.iter().map(|name| BitmapSource { image: None, name }).collect();
    BitmapChange::Merge { into, sources }
}

pub(super) fn change(
    storage: &Arc<MemoryStorage>,
    change: &BitmapChange<'_>,
) -> Result<BitmapsChanged> {
    let header = Header::read(storage).unwrap();
    let mut image = Qcow2::open(Box::new(storage.clone()), header, None)?;
    image.change_bitmaps(change, task(&Cancel::new()))
}

/// Overwrites a bitmap's chunks in place with these bits, where it has data; the table gets a cluster
/// of data for each first.
fn fill(storage: &Arc<MemoryStorage>, bitmap: u32, pattern: u8) {
    // A source in an image of its own has the bits: one chunk after the other, as a merge takes them.
    let (files, header) = patterned(storage, pattern);
    let name = format!("b{bitmap}");
    let source = BitmapSource { image: Some((&*files, &header)), name: b"source" };
    let asked = BitmapChange::Merge { into: name.as_bytes(), sources: vec![source] };
    change(storage, &asked).unwrap();
}

/// An image of the same size, whose bitmap has this pattern in every byte of its first chunks.
fn patterned(storage: &Arc<MemoryStorage>, pattern: u8) -> (Arc<MemoryStorage>, Header) {
    let size = Header::read(storage).unwrap().virtual_size;
    let other = Arc::new(MemoryStorage::default());
    Shape { size, ..PLAIN }.create_in(&*other);
    let granularity = Granularity::new(9);
    change(&other, &BitmapChange::Add { name: b"source", granularity, enabled: false }).unwrap();
    let header = Header::read(&other).unwrap();
    let bitmap = read_bitmaps(&*other, &header).unwrap().remove(0);
    let end = other.len().unwrap().next_multiple_of(512);
    for chunk in 0..u64::from(bitmap.table.count) {
        let at = end + 512 * chunk;
        let word = if chunk % 3 == 2 { 1 } else { at };
        other.write_at(at, &[pattern.rotate_left(chunk as u32 % 8); 512]).unwrap();
        other.write_at(bitmap.table.offset.get() + 8 * chunk, &word.to_be_bytes()).unwrap();
    }
    (other, header)
}

/// An image with so many bitmaps more, named `b0`, `b1` and so on, with something dirty in them.
pub(super) fn with_bitmaps(image: Vec<u8>, count: u32) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new(image));
    for number in 0..count {
        let granularity = Granularity::new(9 + number % 3);
        let name = format!("b{number}");
        let name = name.as_bytes();
        change(&storage, &BitmapChange::Add { name, granularity, enabled: true }).unwrap();
        fill(&storage, number, [0x41, 0x80, 0x10][number as usize % 3]);
    }
    storage.contents()
}

/// A sound image with bitmaps.
fn image(shape: Shape, bitmaps: u32) -> Arc<MemoryStorage> {
    let storage = MemoryStorage::default();
    shape.create_in(&storage);
    Arc::new(MemoryStorage::new(with_bitmaps(storage.contents(), bitmaps)))
}

proptest! {
    /// Runs of bits are set and found as if they were set one by one.
    #[test]
    fn runs_of_bits(runs in prop::collection::vec((0u64..200, 0u64..60), 0..8)) {
        let mut bytes = vec![0; 32];
        let mut model = vec![false; 256];
        for (start, len) in runs {
            set_bits(&mut bytes, start..start + len);
            model.iter_mut().skip(start as usize).take(len as usize).for_each(|bit| *bit = true);
        }
        let mut found = vec![false; 256];
        let mut last = None;
        runs_of_ones(&bytes, |run| {
            assert!(run.start < run.end && last.is_none_or(|last| last < run.start));
            last = Some(run.end);
            run.for_each(|bit| found[bit as usize] = true);
        });
        prop_assert_eq!(found, model);
    }

    /// Whatever is done to bitmaps, in whatever order: they are as a model has them, the image stays
    /// sound, and what changes nothing writes nothing.
    #[test]
    fn bitmaps_are_as_a_model_has_them(
        bits in prop::sample::select(vec![9u32, 12]),
        size in prop::sample::select(vec![5120u64, 40 << 10, (3 << 20) + 512]),
        actions in prop::collection::vec((0u8..7, 0usize..4, 0usize..4, 9u32..26), 1..14),
    ) {
        let storage = image(Shape { cluster_bits: bits, size, ..PLAIN }, 0);
        let mut model: Vec<Found> = Vec::new();
        for (action, name, other, granularity) in actions {
            let (names, before) = ([&b"a"[..], b"b", b"c", b"d"], storage.contents());
            let (name, other) = (names[name], names[other]);
            let at = model.iter().position(|found| found.0 == name);
            let from = model.iter().position(|found| found.0 == other);
            let expected = Model { size, name, granularity }.act(action, &mut model, at, from);
            let asked = asked(action, name, other, granularity);
            let done = match action {
                // As QEMU would: bits set by somebody else.
                6 if at.is_some() => {
                    let (files, header) = patterned(&storage, 0x21);
                    let source = BitmapSource { image: Some((&*files, &header)), name: b"source" };
                    change(&storage, &BitmapChange::Merge { into: name, sources: vec![source] })
                }
                _ => change(&storage, &asked),
            };
            match (done, expected) {
                (Ok(done), Ok(changed)) => prop_assert_eq!(done.changed, changed),
                (Err(error), Err(kind)) => prop_assert_eq!(error.kind(), kind),
                (done, expected) => prop_assert!(false, "{asked:?}: {done:?}, not {expected:?}"),
            }
            if !matches!(expected, Ok(true)) {
                prop_assert!(storage.contents() == before);
            }
            prop_assert_eq!(bitmaps_of(&*storage), model.clone());
            let header = Header::read(&storage).unwrap();
            let report = scan(&*storage, &header, task(&Cancel::new())).unwrap();
            prop_assert!(report.is_clean(), "{:?}", report.findings);
        }
    }
}

fn asked<'a>(action: u8, name: &'a [u8], other: &'a [u8], granularity: u32) -> BitmapChange<'a> {
    let granularity = Granularity::new(granularity);
    match action {
        0 | 6 => BitmapChange::Add { name, granularity, enabled: true },
        1 => BitmapChange::Remove(name),
        2 => BitmapChange::Clear(name),
        3 => BitmapChange::Enable(name, true),
        4 => BitmapChange::Enable(name, false),
        _ => {
            let sources = vec![BitmapSource { image: None, name: other }];
            BitmapChange::Merge { into: name, sources }
        }
    }
}

/// What an action would do to a list of bitmaps.
struct Model<'a> {
    size: u64,
    name: &'a [u8],
    granularity: u32,
}

impl Model<'_> {
    fn act(
        &self,
        action: u8,
        model: &mut Vec<Found>,
        at: Option<usize>,
        from: Option<usize>,
    ) -> std::result::Result<bool, ErrorKind> {
        let at = match (action, at) {
            (0, Some(_)) => return Err(ErrorKind::Exists),
            (0 | 6, None) => {
                model.push((self.name.to_vec(), 1 << self.granularity, true, Some(Vec::new())));
                return Ok(true);
            }
            (_, at) => at.ok_or(ErrorKind::NotFound)?,
        };
        let old = model[at].clone();
        match action {
            1 => drop(model.remove(at)),
            2 => model[at].3 = Some(Vec::new()),
            3 => model[at].2 = true,
            4 => model[at].2 = false,
            6 => self.merge(&mut model[at], &self.pattern()),
            _ => {
                let from = model[from.ok_or(ErrorKind::NotFound)?].3.clone().unwrap();
                self.merge(&mut model[at], &from);
            }
        }
        Ok(model.get(at) != Some(&old))
    }

    /// What of the disk a [`patterned`] bitmap has as dirty.
    fn pattern(&self) -> Vec<(u64, u64)> {
        let bits = 0..self.size.div_ceil(512);
        let set = bits.filter(|bit| {
            let chunk = bit / 4096;
            chunk % 3 == 2 || 0x21u8.rotate_left(chunk as u32 % 8) >> (bit % 8) & 1 == 1
        });
        set.map(|bit| (bit * 512, (bit + 1) * 512)).collect()
    }

    fn merge(&self, target: &mut Found, from: &[(u64, u64)]) {
        let all = target.3.iter().flatten().chain(from);
        let mut granules: Vec<u64> =
            all.flat_map(|(start, end)| start / target.1..end.div_ceil(target.1)).collect();
        granules.sort_unstable();
        granules.dedup();
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for granule in granules {
            let (start, end) = (granule * target.1, ((granule + 1) * target.1).min(self.size));
            match runs.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => runs.push((start, end)),
            }
        }
        target.3 = Some(runs);
    }
}

/// No more bitmaps than the format has, and no larger directory.
#[test]
fn limits_of_the_directory() {
    let storage = image(PLAIN, 1);
    let header = Header::read(&storage).unwrap();
    let granularity = Granularity::new(16).unwrap();
    let crowd = |count: u32, name_len: usize| -> Arc<MemoryStorage> {
        let mut bitmap = read_bitmaps(&*storage, &header).unwrap().remove(0);
        let many = (0..count).map(|number| {
            bitmap.name = format!("{number:0name_len$}").into_bytes();
            Bitmap::new(&bitmap.name, granularity, true)
        });
        let directory = encode_directory(&many.collect::<Vec<_>>());
        let crowded = MemoryStorage::new(storage.contents());
        let at = crowded.len().unwrap().next_multiple_of(512);
        crowded.write_at(at, &directory).unwrap();
        let place =
            crate::qcow2::BitmapDirectory { count, size_bytes: directory.len() as u64, offset: at };
        let bytes = header.with_bitmaps(Some(place)).encode().unwrap();
        crowded.write_at(0, &bytes).unwrap();
        Arc::new(crowded)
    };
    let add = |name: &'static [u8]| BitmapChange::Add { name, granularity: None, enabled: true };
    let full = crowd(MAX_BITMAPS, 5);
    assert_eq!(bitmaps_len(&full), MAX_BITMAPS as usize);
    let error = change(&full, &add(b"more")).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::UnsupportedFeature, false), "{error}");
    assert!(error.to_string().contains("65535 bitmaps"), "{error}");
    // So many of the longest names that there is no room for one more.
    let long = crowd(1024 * 65_535 / (24 + 1024), 1023);
    let error = change(&long, &add(&[b'n'; 1023])).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::UnsupportedFeature, false), "{error}");
    assert!(error.to_string().contains("67107840"), "{error}");
}

fn bitmaps_len(storage: &Arc<MemoryStorage>) -> usize {
    read_bitmaps(&**storage, &Header::read(storage).unwrap()).unwrap().len()
}

/// Every granularity of the format, on a disk that each covers.
#[test]
fn every_granularity() {
    let storage = image(Shape { size: 5 << 20, ..PLAIN }, 0);
    for bits in 9..=31 {
        let granularity = Granularity::new(bits);
        let name = bits.to_string();
        let name = name.as_bytes();
        change(&storage, &BitmapChange::Add { name, granularity, enabled: false }).unwrap();
    }
    assert!(Granularity::new(8).is_none() && Granularity::new(32).is_none());
    let found = bitmaps_of(&*storage);
    assert!(found.iter().map(|found| found.1).eq((9..=31).map(|bits| 1u64 << bits)));
    let header = Header::read(&storage).unwrap();
    assert!(scan(&*storage, &header, task(&Cancel::new())).unwrap().is_clean());
}

/// Stopped before the switch, a change leaves the very bytes that were there.
#[test]
fn a_cancelled_change_leaves_no_trace() {
    let storage = image(Shape { size: 4 << 20, ..PLAIN }, 2);
    let before = storage.contents();
    let cancel = Cancel::new();
    cancel.trip();
    let header = Header::read(&storage).unwrap();
    let mut image = Qcow2::open(Box::new(storage.clone()), header, None).unwrap();
    let error = image.change_bitmaps(&merge(b"b0", &[b"b1"]), task(&cancel)).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Cancelled, false));
    assert!(storage.contents() == before);
}

/// The counts of a dirty image are made true first, and what would be refused is refused before.
#[test]
fn a_dirty_image_is_rebuilt_first() {
    use crate::qcow2::fixtures_tests::{made_by, uncounted};
    use crate::qcow2::subject_tests::Step;
    let (files, _) = made_by(PLAIN, &[Step::Write(100, 9000, 3)]);
    let storage = Arc::new(MemoryStorage::new(uncounted(files[0].clone())));
    let before = storage.contents();
    let error = change(&storage, &BitmapChange::Clear(b"a")).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::NotFound, false));
    assert!(storage.contents() == before);
    let add = BitmapChange::Add { name: b"a", granularity: None, enabled: true };
    let done = change(&storage, &add).unwrap();
    assert!(done.rebuilt && done.changed);
    let header = Header::read(&storage).unwrap();
    assert!(scan(&*storage, &header, task(&Cancel::new())).unwrap().is_clean());
}

/// Writes the directory anew in its place, as `edit` has it, with something behind its last entry.
fn edit_directory(
    storage: &Arc<MemoryStorage>,
    edit: impl FnOnce(&mut Vec<Bitmap>),
    behind: &[u8],
) {
    let header = Header::read(storage).unwrap();
    let mut bitmaps = read_bitmaps(&**storage, &header).unwrap();
    edit(&mut bitmaps);
    let directory = [encode_directory(&bitmaps), behind.to_vec()].concat();
    let place = header.bitmaps().unwrap();
    assert!(directory.len() as u64 <= header.geometry.cluster_size());
    storage.write_at(place.offset, &directory).unwrap();
    let count = bitmaps.len() as u32;
    let place =
        crate::qcow2::BitmapDirectory { count, size_bytes: directory.len() as u64, ..place };
    storage.write_at(0, &header.with_bitmaps(Some(place)).encode().unwrap()).unwrap();
}

fn is_clean(storage: &Arc<MemoryStorage>) -> bool {
    let header = Header::read(storage).unwrap();
    scan(&**storage, &header, task(&Cancel::new())).unwrap().is_clean()
}

/// A bitmap with extra data is used if its flag says so, and else left as it is; others are not
/// hindered, and extra data outlives every change.
#[test]
fn extra_data_is_kept() {
    const COMPATIBLE: u32 = 4;
    let storage = image(PLAIN, 3);
    edit_directory(
        &storage,
        |bitmaps| {
            bitmaps[0].extra_data = (1..=11).collect();
            bitmaps[0].flags |= COMPATIBLE;
            bitmaps[1].extra_data = vec![9; 5];
        },
        &[],
    );
    assert!(is_clean(&storage));
    let all = || read_bitmaps(&*storage, &Header::read(&storage).unwrap()).unwrap();
    let (before, foreign) = (storage.contents(), all().remove(1));
    assert!(foreign.is_foreign() && !all()[0].is_foreign() && !all()[2].is_foreign());
    for asked in [
        BitmapChange::Clear(b"b1"),
        BitmapChange::Enable(b"b1", false),
        merge(b"b1", &[b"b2"]),
        merge(b"b2", &[b"b1"]),
    ] {
        let error = change(&storage, &asked).unwrap_err();
        let kind = (error.kind(), error.changed());
        assert_eq!(kind, (ErrorKind::UnsupportedFeature, false), "{asked:?}: {error}");
        assert!(storage.contents() == before, "{asked:?}");
    }
    let bits = |table: u64| {
        let mut word = [0; 8];
        storage.read_at(table, &mut word).unwrap();
        let mut bits = vec![0; 512];
        storage.read_at(u64::from_be_bytes(word) & !1, &mut bits).unwrap();
        (word, bits)
    };
    let its_bits = bits(foreign.table.offset.get());
    for asked in [
        merge(b"b0", &[b"b2"]),
        BitmapChange::Enable(b"b0", false),
        BitmapChange::Clear(b"b0"),
        BitmapChange::Add { name: b"new", granularity: None, enabled: true },
        merge(b"new", &[b"b0", b"b2"]),
        BitmapChange::Remove(b"b2"),
    ] {
        assert!(change(&storage, &asked).unwrap().changed, "{asked:?}");
        assert!(is_clean(&storage), "{asked:?}");
        assert_eq!(all()[0].extra_data, (1..=11).collect::<Vec<u8>>(), "{asked:?}");
        assert!(all()[0].is_extra_data_compatible(), "{asked:?}");
        assert_eq!(all()[1], foreign, "{asked:?}");
        assert_eq!(bits(foreign.table.offset.get()), its_bits, "{asked:?}");
    }
    // Whoever wants it gone has it gone.
    assert!(change(&storage, &BitmapChange::Remove(b"b1")).unwrap().changed);
    assert!(is_clean(&storage));
    assert_eq!(
        all().iter().map(|bitmap| &bitmap.name[..]).collect::<Vec<_>>(),
        [&b"b0"[..], b"new"]
    );
}

/// The directory has the size of its entries: whoever reads it and whoever checks it agree.
#[test]
fn a_directory_ends_with_its_last_entry() {
    let storage = image(PLAIN, 2);
    edit_directory(&storage, |_| {}, &[0; 24]);
    let header = Header::read(&storage).unwrap();
    assert_eq!(read_bitmaps(&*storage, &header).unwrap_err().kind(), ErrorKind::Corrupt);
    let report = scan(&*storage, &header, task(&Cancel::new())).unwrap();
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{:?}", report.findings);
    let before = storage.contents();
    let error = change(&storage, &BitmapChange::Remove(b"b0")).unwrap_err();
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Corrupt, false), "{error}");
    assert!(storage.contents() == before);
}

/// No claim beyond the file decides how much memory is taken: not the directory's, nor a name's.
#[test]
fn claims_beyond_the_file() {
    let storage = image(PLAIN, 1);
    let header = Header::read(&storage).unwrap();
    let place = header.bitmaps().unwrap();
    // A name and extra data of almost 64 MiB.
    storage.write_at(place.offset + 20, &0x3ff_0000_u32.to_be_bytes()).unwrap();
    let place = crate::qcow2::BitmapDirectory { size_bytes: 1024 * 65_535, ..place };
    storage.write_at(0, &header.with_bitmaps(Some(place)).encode().unwrap()).unwrap();
    let header = Header::read(&storage).unwrap();
    let error = read_bitmaps(&*storage, &header).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("beyond the file"), "{error}");
}
