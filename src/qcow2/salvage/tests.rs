//! Whatever is damaged: what is given is what was written, or what whoever reads the damaged image
//! sees; the rest is named as lost, and nothing takes longer than the file is large.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::block::BlockDevice;
use crate::host::storage::{Allocation, MemoryStorage};
use crate::qcow2::CompressionType;
use crate::qcow2::damage::Damage;
use crate::qcow2::shape_tests::{Data, PLAIN, Shape};
use crate::qcow2::subject_tests::{Step, Subject};
use crate::qcow2::wounds_tests::{apply, damage, files, image, shape, words};
use crate::raw::Raw;

/// A file on a medium that does not give back some of it.
struct BadSectors(MemoryStorage, Vec<Range<u64>>);

impl Storage for BadSectors {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let end = offset + buf.len() as u64;
        match self.1.iter().any(|bad| bad.start < end && offset < bad.end) {
            true => Err(Error::new(ErrorKind::Io, "cannot read")),
            false => self.0.read_at(offset, buf),
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }

    fn set_len(&self, _: u64) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }

    fn allocate(&self, _: u64, _: u64, _: Allocation) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }

    fn punch_hole(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }

    fn zero_range(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }

    fn sync(&self) -> Result<()> {
        unreachable!("a salvage writes nothing")
    }
}

/// What was given and what is lost; with `keep`, the bytes too.
#[derive(Default)]
struct Rescued {
    keep: bool,
    disk: Vec<u8>,
    given: u64,
    lost: Vec<(Range<u64>, LossReason)>,
    reached: u64,
}

impl Rescue for Rescued {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.given += data.len() as u64;
        if self.keep {
            self.disk[offset as usize..][..data.len()].copy_from_slice(data);
        }
        Ok(())
    }

    fn lost(&mut self, offset: u64, len: u64, reason: LossReason) {
        let end = self.lost.last().map_or(0, |(lost, _)| lost.end);
        assert!(offset >= end && len > 0, "{offset} after {end}");
        match self.lost.last_mut() {
            Some((lost, last)) if lost.end == offset && *last == reason => lost.end += len,
            _ => self.lost.push((offset..offset + len, reason)),
        }
    }

    fn reached(&mut self, offset: u64) -> Result<()> {
        assert!(offset >= self.reached, "{offset} after {}", self.reached);
        self.reached = offset;
        Ok(())
    }
}

impl Rescued {
    fn is_lost(&self, at: u64) -> bool {
        self.lost.iter().any(|(lost, _)| lost.contains(&at))
    }

    /// Whether these bytes of the disk are those, and zeros where they are lost.
    fn agrees(&self, at: usize, found: &[u8], those: &[u8]) -> bool {
        let those = those.iter().copied().map(Some).chain(std::iter::repeat(None));
        (at as u64..).zip(found).zip(those).all(|((at, found), as_read)| {
            if self.is_lost(at) { *found == 0 } else { as_read == Some(*found) }
        })
    }

    fn reasons(&self) -> Vec<LossReason> {
        let mut reasons: Vec<_> = self.lost.iter().map(|(_, reason)| *reason).collect();
        reasons.dedup();
        reasons
    }
}

fn salvager(shape: Shape, files: &[Vec<u8>], bad: &[Range<u64>]) -> Result<Salvager> {
    let header = Header::read_past_damage(&MemoryStorage::new(files[0].clone()))?;
    let below = match shape.below {
        None => Below::Nothing,
        Some(_) => {
            let below = MemoryStorage::new(shape.below());
            Below::Disk(Box::new(Raw::open(Box::new(below)).unwrap()))
        }
    };
    let boxed = |file: &Vec<u8>| {
        Box::new(BadSectors(MemoryStorage::new(file.clone()), bad.to_vec())) as Box<dyn Storage>
    };
    Salvager::new(boxed(&files[0]), files.get(1).map(boxed), header, below)
}

fn salvage(shape: Shape, files: &[Vec<u8>], bad: &[Range<u64>]) -> Rescued {
    let mut salvager = salvager(shape, files, bad).unwrap();
    let size = salvager.size();
    let disk = vec![0; size as usize];
    let mut rescued = Rescued { keep: true, disk, ..Rescued::default() };
    salvager.salvage(0..size, &mut rescued).unwrap();
    rescued
}

/// What each sector reads for whoever reads the image as usual.
fn as_usual(shape: Shape, file: &[u8]) -> Vec<Option<Vec<u8>>> {
    let storage = Arc::new(MemoryStorage::new(file.to_vec()));
    let Ok(image) = shape.open(&[storage], false) else { return Vec::new() };
    let sector = |at: u64| {
        let mut found = vec![0; 512.min(image.size() - at) as usize];
        image.read_at(at, &mut found).ok().map(|()| found)
    };
    (0..image.size()).step_by(512).map(sector).collect()
}

/// Sectors that are not lost and neither what was written nor what others see in the damaged
/// image, or in the same with its last cluster whole: a cluster that a cut goes through is there up
/// to the cut, and whose it is, is what the entries say.
fn made_up(shape: Shape, file: &[u8], written: &[u8], rescued: &Rescued) -> Vec<Range<usize>> {
    let mut whole = file.to_vec();
    whole.resize(file.len().next_multiple_of(1 << shape.cluster_bits), 0);
    let seen = [as_usual(shape, file), as_usual(shape, &whole)];
    let sectors = rescued.disk.chunks(512).enumerate();
    let made_up = sectors.filter(|(number, found)| {
        let at = number * 512;
        let seen = seen.iter().filter_map(|seen| seen.get(*number)?.as_deref());
        let mut believable = seen.chain([&written[at..]]);
        !believable.any(|as_read| rescued.agrees(at, found, as_read))
    });
    made_up.map(|(number, found)| number * 512..number * 512 + found.len()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_given_was_written_or_is_there(
        shape in shape(),
        damages in prop::collection::vec(damage(), 1..5),
        cut in prop::option::weighted(0.2, any::<u16>()),
        bad in prop::option::weighted(0.2, any::<u16>()),
    ) {
        let (mut bytes, written) = image(shape);
        let words = words(&bytes);
        damages.into_iter().for_each(|damage| apply(&mut bytes, &words, damage));
        if let Some(cut) = cut {
            bytes.truncate(bytes.len() - usize::from(cut) % (bytes.len() / 2));
        }
        let bad: Vec<_> = bad
            .map(|bad| u64::from(bad) % bytes.len() as u64 / 512 * 512)
            .map(|bad| bad..bad + 512)
            .into_iter()
            .collect();
        let rescued = salvage(shape, &[bytes.clone()], &bad);
        let made_up = made_up(shape, &bytes, &written, &rescued);
        // Where counts do not tell, a file that was cut might have ended in its last cluster.
        let in_last = if cut.is_some() { (1usize << shape.cluster_bits).div_ceil(512) } else { 0 };
        prop_assert!(made_up.len() <= in_last, "{} sectors", made_up.len());
        let mut bytes = made_up.into_iter().flatten().map(|at| (rescued.disk[at], written[at]));
        prop_assert!(bytes.all(|(found, written)| found == 0 || found == written));
    }

    /// An image that is only cut short, or partly unreadable, gives nothing that was not written.
    #[test]
    fn nothing_is_made_up(
        shape in shape(),
        keep in 4096usize..200_000,
        bad in prop::option::of(0u64..400),
    ) {
        let (mut bytes, written) = image(shape);
        bytes.truncate(keep.max(1 << shape.cluster_bits));
        let bad: Vec<_> = bad.map(|bad| bad * 512..bad * 512 + 512).into_iter().collect();
        let rescued = salvage(shape, &[bytes], &bad);
        let wrong = (0..).zip(&rescued.disk).zip(&written);
        let wrong = wrong.filter(|((at, found), written)| {
            if rescued.is_lost(*at) { **found != 0 } else { found != written }
        });
        let wrong: Vec<_> = wrong.map(|((_, found), _)| *found).collect();
        // Where nothing was behind the cluster that the cut is in, it might have ended there.
        prop_assert!(wrong.len() < 1 << shape.cluster_bits, "{} bytes", wrong.len());
        prop_assert!(wrong.iter().all(|&found| found == 0));
    }

    #[test]
    fn nothing_of_a_sound_image_is_lost(shape in shape(), apart in 0u8..3) {
        let data = [Data::Inside, Data::Apart, Data::Raw][usize::from(apart)];
        let shape = Shape { data, ..shape }.allowed();
        let (files, written) = files(shape);
        let rescued = salvage(shape, &files, &[]);
        prop_assert!(rescued.lost.is_empty(), "{:?}", rescued.lost);
        prop_assert!(rescued.disk == written);
    }
}

/// An image with data at its beginning, its header, and where its first L2 table is.
fn written(shape: Shape, len: usize) -> (Vec<u8>, Header, u64) {
    let mut subject = Subject::new(shape);
    subject.step(Step::Write(0, len, 1));
    subject.close().unwrap();
    let bytes = subject.bytes().swap_remove(0);
    let header = Header::read(&MemoryStorage::new(bytes.clone())).unwrap();
    let entry = L1Entry::from_word(word_at(&bytes, header.l1.offset.get()));
    (bytes, header, entry.offset_bits().get())
}

/// Eighty clusters of 512 bytes, all with data.
fn plain() -> (Vec<u8>, Header, u64) {
    written(PLAIN, 40 << 10)
}

fn word_at(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap())
}

fn patch(bytes: &mut [u8], at: u64, with: &[u8]) {
    bytes[at as usize..][..with.len()].copy_from_slice(with);
}

#[test]
fn what_the_medium_keeps_costs_what_it_stands_for() {
    let (bytes, header, table) = plain();
    let all = [bytes];
    let lost = |bad: Range<u64>| salvage(PLAIN, &all, &[bad]);
    // The L1 table: everything. The L2 table: what it maps. Data: that sector of any medium.
    let l1 = header.l1.offset.get();
    let rescued = lost(l1..l1 + 1);
    assert_eq!(rescued.reasons(), [LossReason::Unreadable]);
    assert!((0..40 << 10).step_by(512).all(|at| rescued.is_lost(at)));
    let rescued = lost(table..table + 1);
    assert_eq!(rescued.lost[0], (0..32 << 10, LossReason::Unreadable));
    assert!(!rescued.is_lost(39 << 10), "{:?}", rescued.lost);
    let first = L2Entry { word: word_at(&all[0], table), bitmap: 0 }.offset_bits().get();
    let rescued = lost(first..first + 1);
    assert_eq!(rescued.reasons(), [LossReason::Unreadable]);
    assert!(rescued.lost.iter().map(|(lost, _)| lost.end - lost.start).sum::<u64>() <= 4096);
}

#[test]
fn a_table_that_is_cut_off_or_too_short_costs_what_is_behind() {
    let (bytes, header, _) = plain();
    // The second entry of the L1 table is the last that is there.
    let l1 = header.l1.offset.get() as usize;
    let mut short = bytes.clone();
    patch(&mut short, 36, &1u32.to_be_bytes());
    let rescued = salvage(PLAIN, &[short], &[]);
    assert_eq!(rescued.lost, [(32 << 10..40 << 10, LossReason::Malformed)]);
    assert!(Header::read(&MemoryStorage::new(bytes[..l1 + 8].to_vec())).is_ok());
    let rescued = salvage(PLAIN, &[bytes[..l1 + 8].to_vec()], &[]);
    assert_eq!(rescued.reasons(), [LossReason::BeyondFile]);
    assert!(rescued.is_lost(0) && rescued.is_lost(39 << 10));
}

#[test]
fn what_is_claimed_twice_is_given_twice_and_no_more_than_a_file_holds() {
    let (mut bytes, _, table) = plain();
    let first = word_at(&bytes, table).to_be_bytes();
    patch(&mut bytes, table + 8, &first);
    let rescued = salvage(PLAIN, &[bytes], &[]);
    assert!(rescued.lost.is_empty());
    assert_eq!(rescued.disk[..512], rescued.disk[512..1024]);

    // Half a gigabyte claimed by a file of 400 KiB.
    let large = Shape { cluster_bits: 16, size: 512 << 20, ..PLAIN };
    let (mut bytes, _, table) = written(large, 1 << 16);
    let entry = word_at(&bytes, table).to_be_bytes();
    patch(&mut bytes, table, &entry.repeat(1 << 13));
    let file_len = bytes.len() as u64;
    let mut salvager = salvager(large, &[bytes], &[]).unwrap();
    let mut rescued = Rescued::default();
    salvager.salvage(0..512 << 20, &mut rescued).unwrap();
    assert_eq!(rescued.reasons(), [LossReason::Overclaimed]);
    assert!(rescued.given >= 2 * file_len && rescued.given <= 2 * file_len + (1 << 20));
}

#[test]
fn a_table_that_is_claimed_by_all_takes_no_time() {
    // 2^22 entries that lead to one table, which lead to one cluster: 2^52 bytes a cluster.
    let shape = Shape { cluster_bits: 21, size: 1 << 20, ..PLAIN };
    let (mut bytes, header, _) = written(shape, 1 << 20);
    let entry = word_at(&bytes, header.l1.offset.get()).to_be_bytes();
    let l1 = bytes.len() as u64;
    bytes.extend(entry.repeat(1 << 22));
    patch(&mut bytes, 24, &(1u64 << 61).to_be_bytes());
    patch(&mut bytes, 36, &(1u32 << 22).to_be_bytes());
    patch(&mut bytes, 40, &l1.to_be_bytes());
    let mut salvager = salvager(shape, &[bytes], &[]).unwrap();
    let (mut rescued, start) = (Rescued::default(), Instant::now());
    salvager.salvage(0..1 << 61, &mut rescued).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(rescued.reasons().contains(&LossReason::Overclaimed));
}

#[test]
fn what_was_not_opened_below_is_lost_and_nothing_else() {
    let shape = Shape { below: Some(30 << 10), ..PLAIN };
    let (bytes, written) = image(shape);
    let header = Header::read(&MemoryStorage::new(bytes.clone())).unwrap();
    let storage = Box::new(MemoryStorage::new(bytes));
    let mut salvager = Salvager::new(storage, None, header, Below::Missing).unwrap();
    let disk = vec![0; 40 << 10];
    let mut rescued = Rescued { keep: true, disk, ..Rescued::default() };
    salvager.salvage(0..40 << 10, &mut rescued).unwrap();
    assert_eq!(rescued.reasons(), [LossReason::Backing]);
    for (at, (found, written)) in rescued.disk.iter().zip(&written).enumerate() {
        assert!(rescued.is_lost(at as u64) || found == written, "{at}");
    }
    // The first 9000 bytes were written, rounded out to clusters.
    assert!((0..9216).all(|at| !rescued.is_lost(at)) && rescued.is_lost(9216));
}

#[test]
fn what_does_not_unpack_is_lost() {
    for compression in [CompressionType::Zlib, CompressionType::Zstd] {
        let shape = Shape { compression, ..PLAIN };
        let (bytes, written) = image(shape);
        let header = Header::read(&MemoryStorage::new(bytes.clone())).unwrap();
        let broken = (0..50).map(|seed| {
            let storage = MemoryStorage::new(bytes.clone());
            let wounds = Damage::Compressed.plan(&storage, &header, seed).unwrap();
            wounds.iter().try_for_each(|wound| wound.inflict(&storage)).unwrap();
            storage.contents()
        });
        let lost = broken.filter(|bytes| {
            let rescued = salvage(shape, std::slice::from_ref(bytes), &[]);
            let made_up = made_up(shape, bytes, &written, &rescued);
            assert!(made_up.is_empty(), "{} sectors", made_up.len());
            rescued.reasons().contains(&LossReason::Compressed)
        });
        assert!(lost.count() > 3);
    }
}
