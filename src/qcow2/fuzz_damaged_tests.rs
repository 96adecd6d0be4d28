//! Runs of bytes as an image that is damaged where its format has a field or a table, and what is
//! promised of whatever looks at it: scans, repairs, reads and maps.

use std::sync::{Arc, OnceLock};

use super::check::{Finding, ScanReport, scan};
use super::damage::Damage;
use super::header::{CompressionType, Header, Version};
use super::metered_tests::Metered;
use super::open::Qcow2;
use super::options::Preallocation;
use super::repair::{RepairMode, RepairPlan};
use super::salvage::{Below, Salvager};
use super::shape_tests::{Data, PLAIN, Shape, in_memory};
use super::survive_tests::{Beside, Meter, victim};
use crate::block::salvage::{LossReason, Rescue, Salvage};
use crate::block::{BlockDevice, Extent, ExtentKind};
use crate::error::{ErrorKind, Result};
use crate::fuzz_tests::Input;
#[cfg(test)]
use crate::fuzz_tests::again;
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};

/// So often is an image damaged at most.
const MOST: usize = 24;
/// The longest file, in bytes.
const MAX_FILE: u64 = 2 << 20;
/// So much of a disk is read at once, in bytes.
const WINDOW: u64 = 128 << 10;
/// So many extents are looked at.
const MOST_EXTENTS: usize = 1 << 12;

/// Places and lengths of the header's fields, in bytes, as the format has them.
const FIELDS: &[(u64, usize)] = &[
    (0, 4),
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 1),
    (112, 4),
    (116, 4),
];

/// An image that was damaged, or bytes that never were one; and what it was like.
#[derive(Debug, Clone)]
pub(crate) struct Hurt {
    shape: Shape,
    /// Its own file, and its data file if it has one.
    files: Vec<Vec<u8>>,
}

/// Sound images of every kind, with something of everything.
fn sound() -> &'static [Hurt] {
    static SOUND: OnceLock<Vec<Hurt>> = OnceLock::new();
    SOUND.get_or_init(|| {
        let everything = Beside { snapshot: true, bitmap: true };
        let nothing = Beside { snapshot: false, bitmap: false };
        let zstd = CompressionType::Zstd;
        [
            (PLAIN, everything),
            (PLAIN, nothing),
            (Shape { version: Version::V2, ..PLAIN }, Beside { bitmap: false, ..everything }),
            (Shape { extended: true, cluster_bits: 14, size: 300 << 10, ..PLAIN }, nothing),
            (Shape { order: 0, ..PLAIN }, nothing),
            (Shape { order: 6, lazy: true, ..PLAIN }, everything),
            (Shape { below: Some(30 << 10), ..PLAIN }, nothing),
            (Shape { data: Data::Apart, ..PLAIN }, nothing),
            (Shape { data: Data::Raw, ..PLAIN }, nothing),
            (Shape { compression: zstd, cluster_bits: 12, ..PLAIN }, everything),
            (Shape { preallocation: Preallocation::Metadata, cluster_bits: 10, ..PLAIN }, nothing),
            (Shape { cluster_bits: 16, size: 200 << 10, ..PLAIN }, nothing),
        ]
        .map(|(shape, beside)| {
            let shape = shape.allowed();
            Hurt { shape, files: victim(shape, beside) }
        })
        .into()
    })
}

impl Hurt {
    /// Where the first byte is 255, what follows is the file.
    pub(crate) fn read(bytes: &[u8]) -> Hurt {
        let mut input = Input(bytes);
        let first = input.byte();
        if first == u8::MAX {
            let mut file = input.0.to_vec();
            file.resize(file.len().next_multiple_of(1 << 12), 0);
            return Hurt { shape: PLAIN, files: vec![file] };
        }
        let mut hurt = sound()[usize::from(first) % sound().len()].clone();
        let storage = MemoryStorage::new(std::mem::take(&mut hurt.files[0]));
        for _ in 0..MOST {
            if input.is_empty() {
                break;
            }
            input.hurt(&storage);
        }
        hurt.files[0] = storage.contents();
        hurt
    }

    /// What is in the image's own file.
    pub(crate) fn file(&self) -> &[u8] {
        &self.files[0]
    }

    fn open(&self) -> Option<(Qcow2, Vec<Arc<MemoryStorage>>)> {
        let files = in_memory(&self.files);
        let image = known(self.shape.open(&files, false))?;
        Some((image, files))
    }

    fn salvager(&self) -> Option<Salvager> {
        let storage =
            |file: &Vec<u8>| Box::new(MemoryStorage::new(file.clone())) as Box<dyn Storage>;
        let header = known(Header::read_past_damage(&MemoryStorage::new(self.files[0].clone())))?;
        let below = self.shape.below.map_or(Below::Nothing, |_| Below::Missing);
        known(Salvager::new(storage(&self.files[0]), self.files.get(1).map(storage), header, below))
    }
}

impl Input<'_> {
    /// Does some damage: mostly to a field of the header, to an entry, or as a kind of damage does.
    fn hurt(&mut self, storage: &MemoryStorage) {
        let len = storage.len().unwrap();
        let kind = self.byte();
        match kind % 8 {
            0 | 1 => {
                let (at, width) = self.pick(FIELDS);
                let value = self.value(len).to_be_bytes();
                self.put(storage, at, &value[8 - width..]);
            }
            2 => {
                let at = self.short() * 8;
                let value = self.value(len);
                self.put(storage, at, &value.to_be_bytes());
            }
            3 => {
                let at = self.short();
                let mut byte = [0];
                let _ = storage.read_at(at, &mut byte);
                self.put(storage, at, &[byte[0] ^ 1 << (kind >> 3 & 7)]);
            }
            4 => {
                let (at, times) = (self.short() * 8, usize::from(self.byte()));
                let value = self.value(len);
                self.put(storage, at, &value.to_be_bytes().repeat(times));
            }
            5 => {
                let (damage, seed) = (self.pick(Damage::ALL), self.short());
                let Ok(header) = Header::read(storage) else { return };
                let wounds = damage.plan(storage, &header, seed).unwrap_or_default();
                wounds.iter().try_for_each(|wound| wound.inflict(storage)).unwrap();
            }
            6 => storage.set_len((self.short() * 64).min(MAX_FILE)).unwrap(),
            _ => {
                let (at, count) = (self.short(), self.byte());
                let bytes = self.bytes(count.into());
                self.put(storage, at, bytes);
            }
        }
    }

    /// Changes what is there; the file does not grow.
    fn put(&self, storage: &MemoryStorage, at: u64, bytes: &[u8]) {
        let room = storage.len().unwrap().saturating_sub(at).min(bytes.len() as u64);
        storage.write_at(at, &bytes[..room as usize]).unwrap();
    }

    /// What means something as offset, flag, count or size, or anything.
    fn value(&mut self, file_len: u64) -> u64 {
        let kind = self.byte();
        let little = u64::from(kind >> 3);
        match kind % 8 {
            0 => little,
            1 => 1 << (self.byte() % 64),
            2 => self.short(),
            3 => self.short() << 9 | little << 59,
            4 => 1 << 63 | self.short() << 9,
            5 => u64::MAX - little,
            6 => file_len.wrapping_add(little).wrapping_sub(16),
            _ => self.word(),
        }
    }
}

/// What came of it, where it is something or an error that an image can bring about.
#[track_caller]
fn known<T>(outcome: Result<T>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            let kinds = [ErrorKind::Corrupt, ErrorKind::UnsupportedFeature, ErrorKind::BadRequest];
            let missing = [ErrorKind::FormatMismatch, ErrorKind::BadSize, ErrorKind::Dirty];
            let kind = error.kind();
            assert!(kinds.contains(&kind) || missing.contains(&kind), "{kind}: {error}");
            None
        }
    }
}

fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}

fn scanned(storage: &dyn Storage, header: &Header) -> Option<ScanReport> {
    known(scan(storage, header, task(&Cancel::new())))
}

/// A scan says the same each time, of an image that it leaves alone, with no more work than the
/// file is long; where it finds nothing wrong, the image can be mapped from end to end.
pub fn check(bytes: &[u8]) {
    let hurt = Hurt::read(bytes);
    let (files, account) = Metered::files(&hurt.files);
    let Some(header) = known(Header::read(&*files[0])) else { return };
    let mut meter = Meter::new(&files, account, hurt.shape);
    let first = meter.watch("scan", 0, || scanned(&*files[0], &header));
    let second = scanned(&*files[0], &header);
    let Some((first, second)) = first.zip(second) else { return };
    assert_eq!(first.findings, second.findings);
    let totals = |report: &ScanReport| (report.leaks, report.corruptions, report.notices);
    assert_eq!(totals(&first), totals(&second));
    let found = first.findings.len() as u64;
    assert!(found <= first.leaks + first.corruptions + first.notices, "{first:?}");
    let mut after = vec![0; hurt.file().len()];
    assert_eq!(files[0].read_at(0, &mut after).unwrap(), hurt.file().len());
    assert!(after == hurt.file(), "looking changes nothing");
    if first.findings.iter().any(Finding::is_damage) || !first.is_clean() {
        return;
    }
    let Some((image, _)) = hurt.open() else { return };
    let end = image.size();
    for extent in image.extents(0..end).take(MOST_EXTENTS) {
        assert!(extent.is_ok(), "nothing is wrong, but {extent:?}");
    }
}

/// A repair leaves a sound image, in which everything that could be read reads as before but what
/// it names as lost, or it changes nothing; it finds nothing more to do, and is taken back.
pub fn repair(bytes: &[u8]) {
    let hurt = Hurt::read(bytes);
    for mode in [RepairMode::Leaks, RepairMode::All] {
        let storage = MemoryStorage::new(hurt.file().to_vec());
        let Some(header) = known(Header::read(&storage)) else { return };
        let unchanged = || storage.contents() == hurt.file();
        let cancel = Cancel::new();
        let plan = known(RepairPlan::new(&storage, &header, mode, task(&cancel)));
        assert!(unchanged(), "planning changes nothing");
        let Some(plan) = plan else { continue };
        let record = plan.undo_record(&storage).unwrap();
        plan.apply(&storage, task(&cancel)).unwrap();
        if plan.is_empty() {
            assert!(unchanged(), "an empty plan changes nothing");
        }
        let mended = Header::read(&storage).unwrap();
        let found = scanned(&storage, &mended).unwrap();
        assert!(found.leaks <= plan.before.leaks.max(1) || mode == RepairMode::All);
        if mode == RepairMode::All && plan.unmended.is_empty() {
            assert!(found.is_clean(), "{:?}", found.findings);
            let again = RepairPlan::new(&storage, &mended, mode, task(&cancel)).unwrap();
            assert!(again.is_empty() && again.lost.is_empty(), "{:?}", again.changes);
        } else if !plan.unmended.is_empty() {
            assert!(unchanged(), "what cannot be mended is left alone");
        }
        let mut after = hurt.clone();
        after.files[0] = storage.contents();
        if let Some(at) = changed_silently(&hurt, &after, &plan) {
            panic!("{mode:?}: the sector at {at}; lost {:?}", plan.lost);
        }
        record.undo(&storage, task(&cancel)).unwrap();
        assert!(unchanged(), "it is taken back");
    }
}

/// The sector that reads otherwise than before, though the plan does not name it as lost.
fn changed_silently(before: &Hurt, after: &Hurt, plan: &RepairPlan) -> Option<u64> {
    let (before, _) = before.open()?;
    let (after, _) = after.open().expect("what was mended opens as it did");
    assert_eq!(before.size(), after.size());
    let lost = |at: u64| {
        let lost = plan.lost.iter().filter(|lost| !lost.kept);
        let mut ranges = lost.filter_map(|lost| Some((lost.guest?.get(), lost.bytes)));
        ranges.any(|(guest, bytes)| (guest..guest.saturating_add(bytes)).contains(&at))
    };
    let read = |image: &Qcow2, at: u64| {
        let mut sector = vec![0; 512.min(image.size() - at) as usize];
        image.read_at(at, &mut sector).ok().map(|()| sector)
    };
    let sectors = (0..before.size().min(WINDOW)).step_by(512);
    let mut readable = sectors.filter_map(|at| Some((at, read(&before, at)?)));
    readable.find(|(at, was)| !lost(*at) && read(&after, *at).as_ref() != Some(was)).map(|it| it.0)
}

/// The parts of a disk that are looked at: its beginning, its end, and something between.
fn windows(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = [0, size / 3, size.saturating_sub(WINDOW / 2)];
    starts.into_iter().map(move |at| (at, WINDOW.min(size - at))).filter(|(_, len)| *len > 0)
}

/// What can be read reads the same again; what a salvage gives is what is read.
pub fn read(bytes: &[u8]) {
    let hurt = Hurt::read(bytes);
    let Some((image, files)) = hurt.open() else { return };
    for (at, len) in windows(image.size()) {
        let once = || {
            let mut found = vec![1; len as usize];
            known(image.read_at(at, &mut found)).map(|()| found)
        };
        let found = once();
        assert!(found == once(), "{len} bytes at {at} read twice");
        let Some(found) = found else { continue };
        let Some(mut salvager) = hurt.salvager() else { continue };
        assert_eq!(salvager.size(), image.size());
        let mut rescued = Rescued { from: at, disk: vec![0; len as usize], lost: Vec::new() };
        if known(salvager.salvage(at..at + len, &mut rescued)).is_none() {
            continue;
        }
        for (from, to) in rescued.lost {
            let range = (from - at) as usize..(to - at) as usize;
            rescued.disk[range.clone()].copy_from_slice(&found[range]);
        }
        let differs = rescued.disk.iter().zip(&found).position(|(given, read)| given != read);
        assert_eq!(differs, None, "what is given from {at} on is not what is read");
    }
    let after: Vec<_> = files.iter().map(|file| file.contents()).collect();
    assert!(after == hurt.files, "reading changes nothing");
}

/// What a salvage gives of a part of a disk.
struct Rescued {
    from: u64,
    disk: Vec<u8>,
    lost: Vec<(u64, u64)>,
}

impl Rescue for Rescued {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.disk[(offset - self.from) as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn lost(&mut self, offset: u64, len: u64, _: LossReason) {
        self.lost.push((offset, offset + len));
    }

    fn reached(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Extents tile the disk, each behind the one before, to its end; and what they say of the bytes
/// there is what is read.
pub fn map(bytes: &[u8]) {
    let hurt = Hurt::read(bytes);
    let Some((image, _)) = hurt.open() else { return };
    let size = image.size();
    let (mut at, mut extents) = (0, image.extents(0..size));
    for extent in extents.by_ref().take(MOST_EXTENTS) {
        let Some(extent) = known(extent) else { return };
        assert_eq!(extent.offset, at, "{extent:?}");
        assert!(extent.len > 0 && extent.len <= size - at, "{extent:?} of {size}");
        at += extent.len;
        hurt.shows(&image, extent);
    }
    assert_eq!(extents.next().is_some(), at < size, "it ends at {at} of {size}");
    for (at, len) in windows(size) {
        let lens = image.extents(at..at + len).map(|extent| known(extent).map(|it| it.len));
        if let Some(sum) = lens.sum::<Option<u64>>() {
            assert_eq!(sum, len, "the extents from {at}");
        }
    }
}

impl Hurt {
    /// The beginning of the run reads as it says.
    fn shows(&self, image: &Qcow2, extent: Extent) {
        let mut found = vec![1; extent.len.min(512) as usize];
        let Some(()) = known(image.read_at(extent.offset, &mut found)) else { return };
        let zeros = found.iter().all(|byte| *byte == 0);
        match extent.kind {
            ExtentKind::Zero => assert!(zeros, "{extent:?}"),
            ExtentKind::Unallocated => assert!(zeros || self.shape.below.is_some(), "{extent:?}"),
            ExtentKind::Compressed => {}
            ExtentKind::Data { host_offset } => {
                let file = &self.files[usize::from(self.files.len() > 1)];
                let at = usize::try_from(host_offset).unwrap().min(file.len());
                let there = &file[at..(at + found.len()).min(file.len())];
                assert!(found.starts_with(there), "{extent:?}");
            }
        }
    }
}

/// Every kind of damage to every kind of image.
#[cfg(test)]
fn every_damage() -> impl Iterator<Item = Vec<u8>> {
    let images = 0..sound().len() as u8;
    images
        .flat_map(|image| (0..Damage::ALL.len() as u8).map(move |kind| vec![image, 5, kind, 0, 7]))
}

#[test]
fn sound_images_are_sound() {
    for (image, hurt) in (0..).zip(sound()) {
        let storage = MemoryStorage::new(hurt.file().to_vec());
        let found = scanned(&storage, &Header::read(&storage).unwrap()).unwrap();
        assert!(found.is_clean(), "{:?}: {:?}", hurt.shape, found.findings);
        assert!(Hurt::read(&[image]).files == hurt.files);
        [check, repair, read, map].iter().for_each(|target| target(&[image]));
    }
}

#[test]
fn scans_keep_their_promises() {
    every_damage().for_each(|run| check(&run));
    again(include_str!("../../tests/data/fuzz/check.txt"), check);
}

#[test]
fn repairs_keep_their_promises() {
    every_damage().for_each(|run| repair(&run));
    again(include_str!("../../tests/data/fuzz/repair.txt"), repair);
}

#[test]
fn reads_keep_their_promises() {
    every_damage().for_each(|run| read(&run));
    again(include_str!("../../tests/data/fuzz/read.txt"), read);
}

#[test]
fn maps_keep_their_promises() {
    every_damage().for_each(|run| map(&run));
    again(include_str!("../../tests/data/fuzz/map.txt"), map);
}
