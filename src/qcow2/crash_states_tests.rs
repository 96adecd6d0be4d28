//! What a power cut can leave of a file, from the record of what was done to it: everything up to
//! a sync, and of what came after it, until the next one, any part.

use std::collections::HashSet;

use crate::host::recording::Event;
use crate::host::storage::{MemoryStorage, Storage};

/// Up to so many writes between two syncs, every combination of them is tried.
const EXHAUSTIVE: usize = 8;
/// So many combinations are drawn where there are more.
const DRAWN: usize = 96;
const SECTOR: usize = 512;

/// What is left of one stretch between two syncs.
pub(super) struct Remains {
    pub(super) events: Vec<Event>,
    /// How many of the stretch's events had begun at least.
    pub(super) begun: usize,
}

/// Numbers that are the same in every run.
pub(super) fn next(seed: &mut u64) -> u64 {
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

/// What can be left of `events`, of which none is a sync. `reach` is the length that the file has
/// when they begin: a write behind it may leave the length alone.
pub(super) fn remains(events: &[Event], reach: u64, seed: &mut u64) -> Vec<Remains> {
    let mut all = subsets(events, seed);
    let mut len = reach;
    for (n, event) in events.iter().enumerate() {
        let others = |after: bool| {
            let others = events.iter().enumerate().filter(move |(k, _)| *k < n || after && *k > n);
            others.map(|(_, event)| event.clone())
        };
        let mut leave = |part: Vec<Event>| {
            let before: Vec<_> = others(false).chain(part.iter().cloned()).collect();
            all.push(Remains { events: before, begun: n + 1 });
            let around = others(false).chain(part).chain(events[n + 1..].iter().cloned());
            all.push(Remains { events: around.collect(), begun: events.len() });
        };
        match event {
            Event::Write(offset, data) => {
                torn(*offset, data, seed).into_iter().for_each(&mut leave);
                let end = offset + data.len() as u64;
                if end > len {
                    leave(vec![Event::SetLen(end)]);
                    len = end;
                }
            }
            Event::SetLen(to) => len = *to,
            Event::Punch(..) | Event::Sync => {}
        }
    }
    all
}

/// Which events reached the medium: any, where they are few; else each prefix, each one alone,
/// each one missing and some at random.
fn subsets(events: &[Event], seed: &mut u64) -> Vec<Remains> {
    let pick = |keep: &dyn Fn(usize) -> bool| {
        let kept = events.iter().enumerate().filter(|(n, _)| keep(*n));
        let begun = kept.clone().last().map_or(0, |(n, _)| n + 1);
        Remains { events: kept.map(|(_, event)| event.clone()).collect(), begun }
    };
    if events.len() <= EXHAUSTIVE {
        return (0..1usize << events.len()).map(|bits| pick(&|n| bits >> n & 1 == 1)).collect();
    }
    let mut all = Vec::new();
    for n in 0..=events.len() {
        all.extend([pick(&|k| k < n), pick(&|k| k == n), pick(&|k| k != n)]);
    }
    for _ in 0..DRAWN {
        let bits: Vec<bool> = events.iter().map(|_| next(seed) % 2 == 1).collect();
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

/// One state of the file, and when it came to be.
pub(super) struct CrashState<'a> {
    pub(super) bytes: &'a [u8],
    /// So many events of the record are on the medium.
    pub(super) durable: usize,
    /// So many had begun when the power went, at least.
    pub(super) begun: usize,
}

/// Shows every state of a file that `events` can leave of `before` to `visit`.
pub(super) fn each_state(
    before: &[u8],
    events: &[Event],
    seed: &mut u64,
    mut visit: impl FnMut(&CrashState<'_>),
) {
    let durable = MemoryStorage::new(before.to_vec());
    let mut start = 0;
    for epoch in events.split_inclusive(|event| *event == Event::Sync) {
        let base = durable.contents();
        let writes = in_sectors(epoch.strip_suffix(&[Event::Sync]).unwrap_or(epoch), &durable);
        let mut seen = HashSet::new();
        for remains in remains(&writes, base.len() as u64, seed) {
            let state = MemoryStorage::new(base.clone());
            remains.events.iter().for_each(|event| event.apply(&state).unwrap());
            let bytes = state.contents();
            let begun = start + remains.begun;
            if seen.insert((fingerprint(&bytes), begun)) {
                visit(&CrashState { bytes: &bytes, durable: start, begun });
            }
        }
        start += epoch.len();
    }
}

/// The same, done to `storage`, in the whole sectors that a medium knows: a sector that is written
/// in pieces has, with a later piece, the earlier ones too.
fn in_sectors(events: &[Event], storage: &MemoryStorage) -> Vec<Event> {
    let whole = |event: &Event| {
        event.apply(storage).unwrap();
        let Event::Write(offset, data) = event else { return event.clone() };
        let start = offset - offset % SECTOR as u64;
        let end = (offset + data.len() as u64).next_multiple_of(SECTOR as u64);
        let mut sectors = vec![0; (end - start) as usize];
        let len = storage.read_at(start, &mut sectors).unwrap();
        sectors.truncate(len);
        Event::Write(start, sectors)
    };
    events.iter().map(whole).collect()
}

/// The record as it would be if nothing had ever waited for the medium.
pub(super) fn without_syncs(events: &[Event]) -> Vec<Event> {
    events.iter().filter(|event| **event != Event::Sync).cloned().collect()
}

/// What `events` make of `before` when nothing goes wrong.
pub(super) fn replayed(before: &[u8], events: &[Event]) -> Vec<u8> {
    let storage = MemoryStorage::new(before.to_vec());
    events.iter().for_each(|event| event.apply(&storage).unwrap());
    storage.contents()
}
