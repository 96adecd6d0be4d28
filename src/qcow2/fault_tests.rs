//! A medium that fails: at every change and every read of every scenario, once or for good, with
//! an error or in the middle of a write.

use super::header::Version;
use super::scenario_tests::{Found, Moment, Run, Scenario, leaks, require_one_of};
use super::shape_tests::{Data, PLAIN, Shape, contents};
use super::subject_tests::{Step, Subject};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind};
use crate::host::recording::{Event, Failure, Fault};

const FAILURES: [(Failure, ErrorKind); 3] = [
    (Failure::Change(ErrorKind::Io), ErrorKind::Io),
    (Failure::Change(ErrorKind::NoSpace), ErrorKind::NoSpace),
    (Failure::ShortWrite, ErrorKind::NoSpace),
];

/// One of everything, on images of every kind.
fn scenarios() -> impl Iterator<Item = Scenario> {
    let overlay = Some(30 << 10);
    let four_k = Shape { cluster_bits: 12, size: 160 << 10, ..PLAIN };
    let extended = Shape { cluster_bits: 14, extended: true, size: 224 << 10, ..PLAIN };
    let kinds = [
        (PLAIN, Found::Closed),
        (Shape { below: overlay, ..PLAIN }, Found::Closed),
        (Shape { order: 6, lazy: true, size: 80 << 10, ..PLAIN }, Found::Unclosed),
        (Shape { order: 6, size: 80 << 10, ..PLAIN }, Found::Closed),
        (Shape { version: Version::V2, below: overlay, ..four_k }, Found::Packed),
        (Shape { order: 0, lazy: true, ..four_k }, Found::Closed),
        (PLAIN, Found::PackedSnapshot),
        (Shape { below: overlay, ..extended }, Found::Snapshot),
        (Shape { order: 3, ..extended }, Found::Closed),
        (Shape { data: Data::Apart, below: overlay, ..PLAIN }, Found::Closed),
        (Shape { data: Data::Raw, lazy: true, ..PLAIN }, Found::Unclosed),
    ];
    kinds.into_iter().map(|(shape, found)| {
        let cluster = 1u64 << shape.cluster_bits;
        let before = vec![
            Step::Write(0, 6 * cluster as usize, 11),
            Step::Zero(8 * cluster, cluster),
            Step::Flush,
            Step::Write(12 * cluster + 100, 2 * cluster as usize, 5),
        ];
        let taken = |step| if found.takes(shape, step) { step } else { Step::Reopen };
        let steps = vec![
            Step::Write(cluster / 2 + 50, 2 * cluster as usize, 7),
            Step::Zero(4 * cluster + 100, 5 * cluster),
            Step::Flush,
            Step::Discard(0, 3 * cluster),
            Step::Write(10 * cluster, shape.size as usize / 2, 9),
            taken(Step::Resize(shape.size * 2)),
            Step::Write(cluster + 10, cluster as usize, 8),
            taken(Step::Pack(130, 3, 8)),
            Step::Discard(0, 5 * cluster),
            taken(Step::ResizeInUse(shape.size / 2 + 512)),
            Step::Write(3 * cluster, 400, 6),
            Step::Reopen,
        ];
        Scenario { shape, before, found, steps }
    })
}

/// The scenario's image with its first fault ahead; the model is not kept.
fn subject(scenario: &Scenario, run: &Run) -> Subject {
    Subject::over(scenario.shape, run.before.clone(), Vec::new())
}

/// Does what the scenario says until something fails: the error, and the number of the moment that
/// was not reached.
fn until_it_fails(subject: &mut Subject, scenario: &Scenario) -> Option<(Error, usize)> {
    if let Err(error) = subject.open() {
        return Some((error, 1));
    }
    scenario
        .steps
        .iter()
        .enumerate()
        .find_map(|(n, step)| subject.apply(*step).err().map(|error| (error, n + 2)))
}

/// An image that could not be written is not written any more, even if the medium would take it
/// again; it can be read, and what it shows is what was written or what was there before.
fn check_latched(subject: &Subject, run: &Run) {
    let Some(image) = &subject.image else { return };
    let events = subject.files[0].done();
    let disk = contents(image).unwrap();
    require_one_of(&disk, until_the_last(subject, run)).unwrap();
    for at in [0, image.size() / 2, image.size() - 512] {
        let error = image.write_at(at, &[0xee; 512]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace), "{error}");
    }
    let flushed = image.flush();
    assert_eq!(subject.files[0].done(), events, "nothing is written: {flushed:?}");
    assert!(contents(image).unwrap() == disk, "what was refused does not show");
}

/// What the disk may be as where the last change that was asked for failed: not always the first,
/// for room that is not given back is no failure.
fn until_the_last<'a>(subject: &Subject, run: &'a Run) -> &'a [Moment] {
    let (changes, _) = subject.files[0].operations();
    run.window(changes - 1, changes)
}

#[test]
fn a_change_that_fails_is_the_last() {
    let mut faults = 0;
    for scenario in scenarios() {
        let run = Run::of(&scenario);
        for nth in 0..run.events.len() {
            for ((failure, kind), lasts) in
                FAILURES.into_iter().flat_map(|f| [(f, false), (f, true)])
            {
                let mut subject = subject(&scenario, &run);
                let fault = Fault { nth, failure, lasts };
                subject.files[0].fail(fault);
                let failed = until_it_fails(&mut subject, &scenario);
                let advice = matches!(run.events[nth].event, Event::Punch(..)) && !lasts;
                if advice && failed.is_none() {
                    // A raw disk shows it.
                    if scenario.shape.data != Data::Raw {
                        let end = run.moments.len() - 1;
                        run.judge(&subject.bytes(), &run.moments[end..])
                            .unwrap_or_else(|why| panic!("{scenario:?} {fault:?}: {why}"));
                    }
                    continue;
                }
                let (error, _) = failed.unwrap_or_else(|| panic!("{scenario:?} {fault:?}"));
                assert_eq!(error.kind(), kind, "{scenario:?} {fault:?}: {error}");
                check_latched(&subject, &run);
                run.judge(&subject.bytes(), until_the_last(&subject, &run))
                    .unwrap_or_else(|why| panic!("{scenario:?} {fault:?}: {why}"));
                faults += 1;
            }
        }
    }
    println!("{faults} failed changes");
    assert!(faults >= 5500, "{faults} are too few");
}

/// A read that fails is reported and changes nothing: the same again, and all is as if it had not
/// happened, with nothing leaked. Only what was never flushed is lost where the image could not be
/// closed.
#[test]
fn a_read_that_fails_can_be_tried_again() {
    let mut faults = 0;
    for scenario in scenarios() {
        let run = Run::of(&scenario);
        let mut whole = subject(&scenario, &run);
        assert!(until_it_fails(&mut whole, &scenario).is_none());
        let (_, reads) = whole.files[0].operations();
        for nth in 0..reads {
            let mut subject = subject(&scenario, &run);
            subject.files[0].fail(Fault { nth, failure: Failure::Read, lasts: false });
            let end = with_one_retry(&mut subject, &scenario, &run);
            let went_on = end.start() == end.end();
            let window = &run.moments[end];
            run.judge(&subject.bytes(), window)
                .unwrap_or_else(|why| panic!("{scenario:?} read {nth}: {why}"));
            let leaked = leaks(&subject.bytes());
            assert!(!went_on || leaked == 0, "{scenario:?} read {nth}: {leaked} leaked");
            check_unreadable(nth, &scenario, &run);
            faults += 2;
        }
    }
    println!("{faults} failed reads");
    assert!(faults >= 870, "{faults} are too few");
}

/// A medium that is not read any more after so many reads: what is on it is sound.
fn check_unreadable(nth: usize, scenario: &Scenario, run: &Run) {
    let mut subject = subject(scenario, run);
    subject.files[0].fail(Fault { nth, failure: Failure::Read, lasts: true });
    let (error, failed) = until_it_fails(&mut subject, scenario).unwrap();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let closed = subject.close();
    let window = &run.moments[run.last_flush_before(failed)..=failed];
    run.judge(&subject.bytes(), window)
        .unwrap_or_else(|why| panic!("{scenario:?} from read {nth} on, {closed:?}: {why}"));
}

/// Does what the scenario says, and what fails a second time. Returns the moments that the disk
/// may be as.
fn with_one_retry(
    subject: &mut Subject,
    scenario: &Scenario,
    run: &Run,
) -> std::ops::RangeInclusive<usize> {
    if subject.open().is_err() {
        subject.open().unwrap();
    }
    for (n, step) in scenario.steps.iter().enumerate() {
        let Err(error) = subject.apply(*step) else { continue };
        assert_eq!(error.kind(), ErrorKind::Io, "{step:?}: {error}");
        if subject.image.is_some() {
            subject.apply(*step).unwrap();
            continue;
        }
        // Closed halfway: it goes on with what is on the medium.
        return run.last_flush_before(n + 2)..=n + 2;
    }
    let last = run.moments.len() - 1;
    last..=last
}
