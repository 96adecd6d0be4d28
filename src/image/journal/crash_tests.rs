//! What a power cut can leave of a raw disk, its journal and their folder while the disk is changed
//! or that is completed: whatever it is, the next writer makes the new disk of it, or it is the old
//! one without a journal.

use std::panic::catch_unwind;

use super::subject_tests::{CONTENT, Case, DISK, FOLDER, Subject};
use crate::host::recording::{Event, Record};
use crate::qcow2::crash_states_tests::{CrashState, each_state, with_idle_syncs};

/// Of so many states with a journal, the completion of one is interrupted in every way as well.
const NESTED: usize = 25;

impl Case {
    /// Nothing of a later stage is there before all of the earlier ones is.
    fn stages_hold(&self, disk: &[u8]) {
        let byte = |at: usize| disk.get(at).copied().unwrap_or(0);
        let old = |at: usize| self.old.get(at).copied().unwrap_or(0);
        let whole = |stage: &Vec<(u64, Vec<u8>)>| {
            let spans = stage.iter().flat_map(|(at, bytes)| (*at as usize..).zip(bytes));
            spans.into_iter().all(|(at, new)| byte(at) == *new)
        };
        let begun = |stage: &Vec<(u64, Vec<u8>)>| {
            let spans =
                stage.iter().flat_map(|(at, bytes)| *at as usize..*at as usize + bytes.len());
            spans.into_iter().any(|at| byte(at) != old(at))
        };
        for (n, _) in self.stages.iter().enumerate().filter(|(_, stage)| begun(stage)) {
            assert!(self.stages[..n].iter().all(whole), "{}: stage {n} is early", self.name);
            assert!(disk.len() as u64 == self.new_len, "{}: {} bytes", self.name, disk.len());
        }
    }

    /// Returns what completing it does, where there is something to complete.
    fn judge(&self, files: &[Vec<u8>], published: bool) -> Vec<Record> {
        let subject = Subject::new(files);
        let disk = subject.disk.contents();
        if !subject.has_journal() {
            let is_old = !published && disk == self.old;
            assert!(is_old || disk == self.changed(), "{}: neither old nor new", self.name);
            assert_eq!(subject.settle().unwrap(), None);
            return Vec::new();
        }
        self.stages_hold(&disk);
        let settled = subject.settle().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let settled = settled.expect("a journal");
        assert_eq!((settled.old_size, settled.completed), (self.old.len() as u64, true));
        assert!(subject.disk.contents() == self.changed(), "{}: not the new disk", self.name);
        assert!(!subject.has_journal());
        let records = subject.disk.records();
        assert_eq!(subject.settle().unwrap(), None);
        assert_eq!(subject.disk.done(), records.len(), "{}", self.name);
        records
    }

    fn explore(
        &self,
        seed: u64,
        before: &[Vec<u8>],
        records: &[Record],
        mut visit: impl FnMut(&CrashState<'_>, bool),
    ) {
        let name =
            |record: &Record| record.file == FOLDER && record.event == Event::Write(0, vec![1]);
        // Once the folder is synced behind it.
        let published = records.iter().position(name).map_or(0, |at| at + 2);
        each_state(before, records, &mut seed.clone(), |state| {
            visit(state, state.durable >= published)
        });
    }
}

#[test]
fn a_power_cut_leaves_the_old_disk_or_what_becomes_the_new_one() {
    let (mut states, mut nested, mut journals) = (0, 0, 0);
    for (case, seed) in
        Case::all().into_iter().flat_map(|case| (1..4).map(move |n| (case.clone(), n)))
    {
        let (before, records) = case.record();
        case.explore(seed, &before, &records, |state, published| {
            states += 1;
            let completion = case.judge(state.files, published);
            if completion.is_empty() {
                return;
            }
            journals += 1;
            if journals % NESTED == 0 {
                case.explore(seed, state.files, &completion, |state, _| {
                    nested += 1;
                    case.judge(state.files, true);
                });
            }
        });
    }
    println!("{states} crash states, {journals} with a journal, {nested} of completions");
    assert!(states >= 2500 && journals >= 2000 && nested >= 8000, "{states} {journals} {nested}");
}

/// The control: each sync is there for something, and without it the exploration finds damage.
#[test]
fn without_its_syncs_a_change_would_be_caught() {
    for case in Case::all().into_iter().filter(|case| case.stages.len() > 2) {
        let (before, records) = case.record();
        let caught = |lies: &dyn Fn(usize) -> bool| {
            let mut caught = 0;
            case.explore(1, &before, &with_idle_syncs(&records, lies), |state, published| {
                let judge = || case.judge(state.files, published);
                caught += usize::from(catch_unwind(std::panic::AssertUnwindSafe(judge)).is_err());
            });
            caught
        };
        assert!(caught(&|_| true) > 0, "{}: all of them", case.name);
        let syncs: Vec<_> =
            records.iter().enumerate().filter(|(_, r)| r.event == Event::Sync).collect();
        let of = |file: usize| syncs.iter().filter(move |(_, r)| r.file == file).map(|(n, _)| *n);
        let journal: Vec<_> = of(CONTENT).chain(of(FOLDER).take(1)).collect();
        let stages = of(DISK).skip(2);
        for sync in journal.into_iter().chain(stages) {
            assert!(caught(&|n| n == sync) > 0, "{}: sync {sync} of {syncs:?}", case.name);
        }
    }
}
