//! What a power cut can leave of the files of an image, from the record of what was done to them:
//! of each file everything up to its last sync, and of what came after that any part. A sync of
//! one file says nothing about another.

use std::collections::HashSet;
use std::sync::Arc;

use super::shape_tests::in_memory;
use crate::host::recording::{Event, Record};
use crate::host::storage::{MemoryStorage, Storage};

/// Up to so many writes that no sync has confirmed, every combination of them is tried.
const EXHAUSTIVE: usize = 8;
/// So many combinations are drawn where there are more.
const DRAWN: usize = 96;
const SECTOR: usize = 512;

/// What no sync has confirmed, and its number in the record.
type Pending = (usize, Record);

/// What is left of all that is pending.
struct Remains {
    records: Vec<Record>,
    /// So many of the record's events had begun at least.
    begun: usize,
}

/// Numbers that are the same in every run.
pub(crate) fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 16
}

/// The same for equal bytes; two files are hardly ever alike in it.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash =
        words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_be_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| mix(hash, byte.into()))
}

pub(super) fn fingerprint_of(files: &[Vec<u8>]) -> u64 {
    files.iter().fold(0u64, |hash, bytes| hash.rotate_left(7) ^ fingerprint(bytes))
}

/// What can be left of `pending`. `lens` are the lengths that the files have without it: a write
/// behind the end may leave the length alone.
fn remains(pending: &[Pending], mut lens: Vec<u64>, seed: &mut u64) -> Vec<Remains> {
    let mut all = subsets(pending, seed);
    let end = pending.last().map_or(0, |(number, _)| number + 1);
    for (n, (number, record)) in pending.iter().enumerate() {
        let of = |pending: &[Pending]| -> Vec<Record> {
            pending.iter().map(|(_, record)| record.clone()).collect()
        };
        let mut leave = |part: Vec<Event>| {
            let part = part.into_iter().map(|event| Record { file: record.file, event });
            let mut records = of(&pending[..n]);
            records.extend(part);
            all.push(Remains { records: records.clone(), begun: number + 1 });
            records.extend(of(&pending[n + 1..]));
            all.push(Remains { records, begun: end });
        };
        let len = &mut lens[record.file];
        match &record.event {
            Event::Write(offset, data) => {
                torn(*offset, data, seed).into_iter().for_each(&mut leave);
                let end = offset + data.len() as u64;
                if end > *len {
                    leave(vec![Event::SetLen(end)]);
                    *len = end;
                }
            }
            Event::SetLen(to) => *len = *to,
            Event::Punch(..) | Event::Sync => {}
        }
    }
    all
}

/// Which of it reached the medium: any, where there is little; else each prefix, each one alone,
/// each one missing and some at random.
fn subsets(pending: &[Pending], seed: &mut u64) -> Vec<Remains> {
    let pick = |keep: &dyn Fn(usize) -> bool| {
        let kept = pending.iter().enumerate().filter(|(n, _)| keep(*n)).map(|(_, kept)| kept);
        let begun = kept.clone().last().map_or(0, |(number, _)| number + 1);
        Remains { records: kept.map(|(_, record)| record.clone()).collect(), begun }
    };
    if pending.len() <= EXHAUSTIVE {
        return (0..1usize << pending.len()).map(|bits| pick(&|n| bits >> n & 1 == 1)).collect();
    }
    let mut all = Vec::new();
    for n in 0..=pending.len() {
        all.extend([pick(&|k| k < n), pick(&|k| k == n), pick(&|k| k != n)]);
    }
    for _ in 0..DRAWN {
        let bits: Vec<bool> = pending.iter().map(|_| next(seed) % 2 == 1).collect();
        all.push(pick(&|n| bits[n]));
    }
    all
}

/// What can be left of one write: sectors up to some boundary, those behind it, or any of them.
fn torn(offset: u64, data: &[u8], seed: &mut u64) -> Vec<Vec<Event>> {
    let first = SECTOR - offset as usize % SECTOR;
    let all: Vec<usize> = (first..data.len()).step_by(SECTOR).collect();
    let Some(last) = all.last() else { return Vec::new() };
    let part = |from: usize, to: usize| Event::Write(offset + from as u64, data[from..to].to_vec());
    let mut cuts = vec![first, *last, all[next(seed) as usize % all.len()]];
    cuts.sort_unstable();
    cuts.dedup();
    let mut states: Vec<Vec<Event>> =
        cuts.iter().flat_map(|&cut| [vec![part(0, cut)], vec![part(cut, data.len())]]).collect();
    if all.len() > 1 {
        let starts: Vec<usize> = [0].into_iter().chain(all).collect();
        let ends = starts[1..].iter().copied().chain([data.len()]);
        let sectors = starts.iter().zip(ends).filter(|_| next(seed) % 2 == 1);
        states.push(sectors.map(|(&from, to)| part(from, to)).collect());
    }
    states
}

/// One state of the files, and when it came to be.
pub(crate) struct CrashState<'a> {
    pub(crate) files: &'a [Vec<u8>],
    /// So many events of the record are on the medium, as far as the syncs say.
    pub(crate) durable: usize,
    /// So many had begun when the power went, at least.
    pub(crate) begun: usize,
}

/// Shows every state of the files that `records` can leave of `before` to `visit`.
pub(crate) fn each_state(
    before: &[Vec<u8>],
    records: &[Record],
    seed: &mut u64,
    mut visit: impl FnMut(&CrashState<'_>),
) {
    let (medium, whole) = (in_memory(before), in_memory(before));
    let mut pending: Vec<Pending> = Vec::new();
    let mut start = 0;
    let epochs = records.split_inclusive(|record| record.event == Event::Sync);
    // The last is behind everything.
    for epoch in epochs.chain([&[][..]]) {
        let synced = epoch.last().filter(|record| record.event == Event::Sync);
        let writes = &epoch[..epoch.len() - usize::from(synced.is_some())];
        pending.extend((start..).zip(writes.iter().map(|record| in_sectors(record, &whole))));
        let base: Vec<Vec<u8>> = medium.iter().map(|file| file.contents()).collect();
        let lens = base.iter().map(|bytes| bytes.len() as u64).collect();
        let mut seen = HashSet::new();
        for remains in remains(&pending, lens, seed) {
            let files = after(&base, &remains.records);
            let begun = remains.begun.max(start);
            if seen.insert((fingerprint_of(&files), begun)) {
                visit(&CrashState { files: &files, durable: start, begun });
            }
        }
        start += epoch.len();
        let is_synced = |(_, record): &mut Pending| synced.is_some_and(|s| s.file == record.file);
        for (_, record) in pending.extract_if(.., is_synced) {
            record.event.apply(&*medium[record.file]).unwrap();
        }
    }
}

/// The same, done to `files`, in the whole sectors that a medium knows: a sector that is written
/// in pieces has, with a later piece, the earlier ones too.
fn in_sectors(record: &Record, files: &[Arc<MemoryStorage>]) -> Record {
    let storage = &*files[record.file];
    record.event.apply(storage).unwrap();
    let Event::Write(offset, data) = &record.event else { return record.clone() };
    let start = offset - offset % SECTOR as u64;
    let end = (offset + data.len() as u64).next_multiple_of(SECTOR as u64);
    let mut sectors = vec![0; (end - start) as usize];
    let len = storage.read_at(start, &mut sectors).unwrap();
    sectors.truncate(len);
    Record { event: Event::Write(start, sectors), ..*record }
}

/// The record as it would be if a file's syncs did nothing; which ones, `lies` says by their
/// numbers in the record.
pub(crate) fn with_idle_syncs(records: &[Record], lies: impl Fn(usize) -> bool) -> Vec<Record> {
    let mut records = records.to_vec();
    for (n, record) in records.iter_mut().enumerate() {
        if record.event == Event::Sync && lies(n) {
            // That of a file which nobody writes to.
            record.file = usize::MAX;
        }
    }
    records
}

/// The files that `records` make of `before` when nothing goes wrong.
pub(super) fn after(before: &[Vec<u8>], records: &[Record]) -> Vec<Vec<u8>> {
    let files = in_memory(before);
    for record in records.iter().filter(|record| record.event != Event::Sync) {
        record.event.apply(&*files[record.file]).unwrap();
    }
    files.iter().map(|file| file.contents()).collect()
}
