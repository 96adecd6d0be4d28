//! Which journals are believed, and which are not.

use proptest::prelude::*;

use super::format::{Journal, Span};
use super::place::Place;
use super::settle::believe;
use super::subject_tests::{CONTENT, Case, DISK, FOLDER, Subject, pattern};
use crate::error::ErrorKind;
use crate::raw::RawAllocation;
use crate::task::{Cancel, Silent, Task};

/// Nothing is written, and everything is as it was.
fn is_refused(files: &[Vec<u8>], why: &str) -> crate::Error {
    let subject = Subject::new(files);
    let error = subject.settle().expect_err(why);
    assert_eq!((error.kind(), error.changed()), (ErrorKind::JournalStale, false), "{why}: {error}");
    assert!(subject.files() == files && subject.disk.done() == 0, "{why}");
    error
}

#[test]
fn a_disk_that_was_used_meanwhile_is_left_alone() {
    for case in Case::all().into_iter().filter(|case| case.stages.len() > 1) {
        let writes = case.stages.iter().filter(|stage| !stage.is_empty()).count();
        for files in (0..=writes - 1).map(|stages| case.half_way(stages)) {
            for (at, bytes) in case.stages.iter().flatten() {
                let last = bytes.len() - 1;
                for at in [0, last / 2, last].map(|n| *at as usize + n) {
                    let mut files = files.clone();
                    files[DISK][at] ^= 0x55;
                    let error = is_refused(&files, case.name);
                    let offset = error.offset().expect("where") as usize;
                    assert!(offset <= at && at < offset + 512, "{offset} of {at}");
                    assert!(error.to_string().contains("the-journal"), "{error}");
                }
            }
            for len in [case.old.len() - 1, case.new_len as usize + 512] {
                let mut files = files.clone();
                files[DISK].resize(len, 0);
                let error = is_refused(&files, case.name);
                assert!(error.to_string().contains(&format!("{len} bytes")), "{error}");
            }
            // What the journal does not speak of may change.
            let mut files = files;
            files[DISK][4000] ^= 0x55;
            let subject = Subject::new(&files);
            assert!(subject.settle().unwrap().unwrap().completed);
            assert_eq!(subject.disk.contents()[4000], files[DISK][4000]);
        }
    }
}

#[test]
fn a_journal_that_is_not_whole_is_kept() {
    let files = Case::all().pop().unwrap().half_way(1);
    let mut cut = files.clone();
    cut[CONTENT].pop();
    assert!(is_refused(&cut, "cut").to_string().contains("not whole"));
    let mut flipped = files.clone();
    flipped[CONTENT][700] ^= 1;
    assert!(is_refused(&flipped, "flipped").to_string().contains("not whole"));
    let garbage = vec![files[DISK].clone(), pattern(100, 1), files[FOLDER].clone()];
    assert!(is_refused(&garbage, "garbage").to_string().contains("no journal"));
    is_refused(&[files[DISK].clone(), Vec::new(), files[FOLDER].clone()], "empty");
}

/// Patches that do not meet, in their stages.
fn patches(len: usize) -> impl Strategy<Value = Vec<Vec<(u64, Vec<u8>)>>> {
    let patch = (0..len, prop_oneof![1usize..700, 1usize..100_000], prop::option::of(0usize..200));
    (prop::collection::vec(patch, 1..8), 1usize..4).prop_map(move |(mut found, stages)| {
        found.sort();
        let (mut all, mut end) = (vec![Vec::new(); stages], 0);
        for (n, (at, bytes, seed)) in found.into_iter().enumerate() {
            let bytes = bytes.min(len - at);
            if at >= end {
                end = at + bytes;
                let new = seed.map_or(vec![0; bytes], |seed| pattern(bytes, seed));
                all[n % stages].push((at as u64, new));
            }
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever is changed: it is the new disk at the end, and of any sectors of it that are on the
    /// medium already, completing makes the new disk.
    #[test]
    fn any_change_is_completed(
        (old_len, new_len, stages) in (1usize..200_000, 0usize..200_000).prop_flat_map(|(old, more)| {
            let new = (old + more).next_multiple_of(512);
            (Just(old), Just(new), patches(new))
        }),
        holes in prop::collection::vec((0usize..200_000, 0usize..90_000), 0..4),
        chosen in any::<u64>(),
        grown in 0usize..=512,
    ) {
        let mut old = pattern(old_len, 5);
        for (at, len) in holes {
            let at = at.min(old_len);
            old[at..(at + len).min(old_len)].fill(0);
        }
        let allocation = RawAllocation::Reserve;
        let case = Case { name: "any", old, new_len: new_len as u64, allocation, stages };
        let (_, records) = case.record();
        let new = case.changed();
        // As after a power cut, were there no order: any sectors, and any length in between.
        let len = old_len + (new_len - old_len) * grown / 512;
        let len = if grown == 0 { len } else { len.next_multiple_of(512) };
        let mut disk = case.old.clone();
        disk.resize(len, 0);
        let mut seed = chosen;
        for (at, bytes) in case.stages.iter().flatten() {
            let (start, end) = (*at as usize, (*at as usize + bytes.len()).min(len));
            let mut at = start;
            while at < end {
                let next = (at / 512 * 512 + 512).min(end);
                if crate::qcow2::crash_states_tests::next(&mut seed) % 2 == 1 {
                    disk[at..next].copy_from_slice(&new[at..next]);
                }
                at = next;
            }
        }
        let mut journal = Vec::new();
        for record in records.iter().filter(|record| record.file == CONTENT) {
            if let crate::host::recording::Event::Write(_, bytes) = &record.event {
                journal = bytes.clone();
            }
        }
        prop_assume!(!journal.is_empty());
        let subject = Subject::new(&[disk, journal, vec![1]]);
        prop_assert!(subject.settle().unwrap().unwrap().completed);
        prop_assert!(subject.disk.contents() == new);
        prop_assert!(!subject.has_journal());
    }
}

/// A stranger's journal of a few bytes that speaks of 4 EiB costs no more than what the disk holds.
#[test]
fn what_a_journal_claims_costs_nothing() {
    let span = Span { offset: 4096, len: 1 << 62, old: None, new: None };
    let journal = Journal {
        old_len: 4096,
        new_len: 4096 + (1 << 62),
        allocation: RawAllocation::Sparse,
        stages: vec![vec![span]],
    };
    let subject = Subject::of(pattern(4096, 3));
    subject.place.publish(&journal).unwrap();
    let begun = std::time::Instant::now();
    let bytes = subject.place.load().unwrap().unwrap();
    let task_ends = Cancel::new();
    let task = Task::new(&Silent, &task_ends);
    assert!(believe(&bytes, &*subject.disk, &subject.place, task).unwrap().1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    let too_long = Journal { new_len: u64::MAX, ..journal };
    subject.place.remove().unwrap();
    subject.place.publish(&too_long).unwrap();
    assert_eq!(subject.settle().unwrap_err().kind(), ErrorKind::JournalStale);
}
