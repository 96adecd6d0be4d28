//! What a power cut and a failing medium can leave of a chain whose uppermost image is committed, or
//! made to stand alone. At every point it shows what it showed, with leaks at worst, and the same call
//! finishes the work.

use std::sync::Arc;

use super::subject_tests::{CASES, Case, Chain, Found, LEAKED, task};
use crate::error::{ErrorKind, Result};
use crate::host::recording::{Event, Failure, Fault, Record, RecordingStorage};
use crate::host::storage::MemoryStorage;
use crate::qcow2::crash_states_tests::{each_state, with_idle_syncs};
use crate::task::{Cancel, StopsAt};

/// What is done to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Commit,
    Flatten,
}

const VERBS: [Verb; 2] = [Verb::Commit, Verb::Flatten];

impl Verb {
    fn run<S: crate::host::storage::Storage + 'static>(self, chain: &Chain<S>) -> Result<()> {
        let cancel = Cancel::new();
        match self {
            Verb::Commit => chain.commit(true, task(&cancel)).map(drop),
            Verb::Flatten => chain.flatten(task(&cancel)),
        }
    }
}

impl Verb {
    /// How many leaked clusters stay where they are: those of images that are only read.
    fn leaves(self, case: &Case) -> u64 {
        let [_, between, base] =
            case.layers.map(|it| it.is_some_and(|it| it.found == Found::Leaks));
        let read = [between, base && self == Verb::Flatten];
        read.iter().filter(|leaks| **leaks).count() as u64 * LEAKED
    }
}

fn each() -> impl Iterator<Item = (Verb, &'static Case)> {
    VERBS.iter().flat_map(|verb| CASES.iter().map(move |case| (*verb, case)))
}

fn recording(case: &Case, files: &[Vec<u8>]) -> Chain<RecordingStorage> {
    let files = RecordingStorage::together(files.to_vec()).into_iter().map(Arc::new);
    Chain::new(case, files.collect())
}

fn in_memory(case: &Case, files: &[Vec<u8>]) -> Chain<MemoryStorage> {
    let files = files.iter().map(|bytes| Arc::new(MemoryStorage::new(bytes.clone())));
    Chain::new(case, files.collect())
}

fn bytes(chain: &Chain<RecordingStorage>) -> Vec<Vec<u8>> {
    chain.files.iter().map(|file| file.contents()).collect()
}

/// A verb on a chain, without accidents.
struct Run {
    verb: Verb,
    case: Case,
    before: Vec<Vec<u8>>,
    records: Vec<Record>,
    /// What the disk shows.
    disk: Vec<u8>,
    /// What the lowest shows before.
    base_before: Vec<u8>,
    /// What the lowest shows afterwards.
    base: Vec<u8>,
}

impl Run {
    fn of(verb: Verb, case: &Case) -> Run {
        Run::with(verb, case, 7)
    }

    fn with(verb: Verb, case: &Case, seed: u64) -> Run {
        let before = case.files(seed);
        let untouched = in_memory(case, &before);
        let (disk, base_before) = (untouched.disk("top"), untouched.disk("base"));
        let chain = recording(case, &before);
        verb.run(&chain).unwrap_or_else(|error| panic!("{verb:?} {}: {error}", case.name));
        assert_eq!(chain.leaks(), verb.leaves(case), "{verb:?} {}", case.name);
        assert!(chain.disk("top") == disk, "{verb:?} {}", case.name);
        let base = chain.disk("base");
        if verb == Verb::Commit {
            assert!(base.starts_with(&disk), "{}: all of it went down", case.name);
        }
        let records = chain.files[0].records();
        Run { verb, case: *case, before, records, disk, base_before, base }
    }

    /// The disk shows what it showed, and the same call finishes the work.
    fn judge(&self, state: &[Vec<u8>], what: &str) {
        let here = format!("{:?} {}: {what}", self.verb, self.case.name);
        let chain = in_memory(&self.case, state);
        chain.leaks();
        assert!(chain.disk("top") == self.disk, "{here}: the disk differs");
        self.judge_bitmaps(&chain, &here);
        self.verb.run(&chain).unwrap_or_else(|error| panic!("{here}, again: {error}"));
        assert_eq!(chain.leaks(), self.verb.leaves(&self.case), "{here}, again");
        self.judge_bitmaps(&chain, &here);
        assert!(chain.disk("top") == self.disk, "{here}: the disk differs, again");
        assert!(chain.disk("base") == self.base, "{here}: the lowest differs, again");
    }

    /// The bitmap of the lowest, if it was given one, knows of all that was written.
    fn judge_bitmaps(&self, chain: &Chain<MemoryStorage>, here: &str) {
        if self.case.layers[2].is_some_and(|base| base.found == Found::Bitmaps) {
            assert!(
                chain.bitmaps_hold(&self.base_before),
                "{here}: a bitmap lacks what was written"
            );
        }
    }

    /// As [`judge`](Self::judge), and nothing else; for what is expected to fail.
    fn is_bad(&self, state: &[Vec<u8>]) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.judge(state, ""))).is_err()
    }
}

#[test]
fn a_power_cut_leaves_a_disk_that_shows_the_same() {
    let all = std::env::var("VMDISK_MATRIX").is_ok_and(|all| all == "full");
    let (mut states, mut seed) = (0, 1);
    for drawn in if all { 1..41 } else { 7..11 } {
        for (verb, case) in each() {
            let run = Run::with(verb, case, drawn);
            each_state(&run.before, &run.records, &mut seed, |state| {
                run.judge(state.files, &format!("seed {drawn}, {} events", state.begun));
                states += 1;
            });
        }
    }
    println!("{states} crash states");
    assert!(states >= 8000, "{states} states are too few");
}

/// What was going to be written is dirty in the bitmap that is enabled, down to its granularity, and
/// nothing else is; the disabled one stays as it is.
#[test]
fn bitmaps_below_learn_what_was_written() {
    let case =
        CASES.iter().find(|case| case.layers[2].is_some_and(|base| base.found == Found::Bitmaps));
    let case = case.expect("such a case");
    let before = case.files(7);
    let chain = in_memory(case, &before);
    let own = chain.own_of_top();
    assert!(own.iter().any(|own| *own) && own.iter().any(|own| !*own));
    chain.commit(true, task(&Cancel::new())).unwrap();
    assert_eq!(chain.dirty_below(b"enabled"), Some(own));
    assert_eq!(chain.dirty_below(b"disabled").map(|dirty| dirty.contains(&true)), Some(false));
    assert_eq!(chain.leaks(), 0);
}

/// The control: without any one of the kinds of syncs, the same exploration finds damage.
#[test]
fn without_its_syncs_it_would_be_caught() {
    for verb in VERBS {
        let run = Run::of(verb, &CASES[0]);
        let mut bad = 0;
        each_state(&run.before, &with_idle_syncs(&run.records, |_| true), &mut 1, |state| {
            bad += usize::from(run.is_bad(state.files));
        });
        assert!(bad > 0, "{verb:?}");
    }
}

/// Whatever change fails, once or for good: the error says so, and the disk shows what it showed.
#[test]
fn a_failing_medium_is_reported_and_harmless() {
    let failures =
        [Failure::Change(ErrorKind::Io), Failure::Change(ErrorKind::NoSpace), Failure::ShortWrite];
    let mut faults = 0;
    for (verb, case) in each() {
        let run = Run::of(verb, case);
        for nth in 0..run.records.len() {
            for (failure, lasts) in failures.into_iter().flat_map(|f| [(f, false), (f, true)]) {
                let chain = recording(case, &run.before);
                chain.files[0].fail(Fault { nth, failure, lasts });
                let failed = verb.run(&chain);
                let left = bytes(&chain);
                // Room that the file system keeps is no failure everywhere.
                let advice = matches!(run.records[nth].event, Event::Punch(..));
                match failed {
                    Ok(()) => {
                        let event = &run.records[nth].event;
                        assert!(advice, "{verb:?} {} {nth}: {event:?}", case.name);
                    }
                    Err(error) => {
                        let told = error.changed() || left == run.before;
                        assert!(told, "{verb:?} {} {nth}: {error}", case.name);
                    }
                }
                run.judge(&left, &format!("fault {nth}, {failure:?}"));
                faults += 1;
            }
        }
    }
    println!("{faults} failed changes");
    assert!(faults >= 2500, "{faults} are too few");
}

/// Whatever read fails: the same.
#[test]
fn a_medium_that_cannot_be_read_is_harmless() {
    let mut faults = 0;
    for (verb, case) in each() {
        let run = Run::of(verb, case);
        let whole = recording(case, &run.before);
        verb.run(&whole).unwrap();
        let (_, reads) = whole.files[0].operations();
        for nth in (0..reads).step_by(3) {
            let chain = recording(case, &run.before);
            chain.files[0].fail(Fault { nth, failure: Failure::Read, lasts: nth % 2 == 1 });
            let Err(error) = verb.run(&chain) else { continue };
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            let left = bytes(&chain);
            assert!(error.changed() || left == run.before, "{verb:?} {} {nth}: {error}", case.name);
            run.judge(&left, &format!("read {nth}"));
            faults += 1;
        }
    }
    println!("{faults} failed reads");
    assert!(faults >= 180, "{faults} are too few");
}

/// Stopped at any step, the disk shows what it showed, and nothing is leaked.
#[test]
fn a_stop_on_request_is_harmless() {
    let mut stopped = 0;
    for (verb, case) in each() {
        let run = Run::of(verb, case);
        for steps in 0.. {
            let chain = recording(case, &run.before);
            let stop = StopsAt::new(steps);
            let done = match verb {
                Verb::Commit => chain.commit(true, stop.task()).map(drop),
                Verb::Flatten => chain.flatten(stop.task()),
            };
            let Err(error) = done else { break };
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
            let left = bytes(&chain);
            assert!(error.changed() || left == run.before, "{verb:?} {}: {error}", case.name);
            if verb == Verb::Flatten {
                let [before, after] =
                    [&run.before, &left].map(|files| in_memory(case, files).leaks());
                assert!(after <= before, "{}", case.name);
            }
            run.judge(&left, &format!("stopped at step {steps}"));
            stopped += 1;
        }
    }
    println!("{stopped} stops");
    assert!(stopped >= 60, "{stopped} are too few");
}

/// A snapshot below keeps what it has: everything that it refers to stays as it is.
#[test]
fn what_an_image_below_keeps_in_snapshots_stays() {
    let case =
        CASES.iter().find(|case| case.layers[2].is_some_and(|base| base.found == Found::Snapshot));
    let case = case.expect("such a case");
    let before = case.files(7);
    let chain = in_memory(case, &before);
    let (old, disk) = (chain.snapshot_disk("base"), chain.disk("base"));
    chain.commit(true, task(&Cancel::new())).unwrap();
    assert!(chain.snapshot_disk("base") == old && chain.disk("base") != disk);
}
