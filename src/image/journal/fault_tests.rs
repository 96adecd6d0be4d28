//! A medium that fails while a raw disk is changed, or while that is completed, once or for good:
//! the error has its kind and says whether anything was changed, and the disk is the old one or
//! becomes the new one.

use super::place::Place;
use super::subject_tests::{Case, Subject, size};
use crate::block::{BlockDevice, Patch, PatchContent};
use crate::error::{Error, ErrorKind};
use crate::host::recording::{Failure, Fault};
use crate::image::change::{Change, change_raw};
use crate::task::{Cancel, Silent, Task};

fn faults() -> impl Iterator<Item = Fault> {
    let failures = [
        Failure::Change(ErrorKind::Io),
        Failure::Change(ErrorKind::NoSpace),
        Failure::ShortWrite,
        Failure::Read,
    ];
    let each = failures.into_iter().flat_map(|failure| [(failure, false), (failure, true)]);
    each.map(|(failure, lasts)| Fault { nth: 0, failure, lasts })
}

fn has_kind_of(error: &Error, fault: Fault) {
    let kind = match fault.failure {
        Failure::Change(kind) => kind,
        Failure::ShortWrite => ErrorKind::NoSpace,
        Failure::Read => ErrorKind::Io,
    };
    assert_eq!(error.kind(), kind, "{fault:?}: {error}");
}

impl Case {
    /// What the error says of the disk is so.
    fn failed(&self, subject: &Subject, disk: &mut crate::raw::Raw, error: &Error, fault: Fault) {
        has_kind_of(error, fault);
        let text = format!("{} {fault:?}: {error}", self.name);
        if !error.changed() {
            assert!(subject.disk.contents() == self.old && !subject.has_journal(), "{text}");
            assert_eq!(disk.size(), self.old.len() as u64);
            if !fault.lasts {
                self.run(subject, disk).unwrap();
                assert!(subject.disk.contents() == self.changed(), "{text}");
            }
            return;
        }
        let before = subject.files();
        let later = disk.write_at(0, b"x").unwrap_err();
        assert_eq!((later.kind(), later.changed()), (error.kind(), false), "{text}");
        assert!(self.run(subject, disk).is_err() && subject.files() == before, "{text}");
        assert!(text.contains("the-journal") || subject.disk.contents() == self.old, "{text}");
    }

    /// Opened again on a medium that works, it is whole. Returns whether it is the new one.
    fn is_whole(&self, subject: &Subject) -> bool {
        let again = Subject::new(&subject.files());
        let settled = again.settle().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert!(!again.has_journal());
        let is_new = again.disk.contents() == self.changed();
        assert!(is_new || again.disk.contents() == self.old, "{}", self.name);
        assert!(is_new || settled.is_none_or(|settled| !settled.completed), "{}", self.name);
        is_new
    }
}

#[test]
fn a_change_that_fails_says_what_is_there() {
    let (mut failed, mut unchanged) = (0, 0);
    for case in Case::all() {
        for fault in faults() {
            for nth in 0.. {
                let fault = Fault { nth, ..fault };
                let subject = Subject::of(case.old.clone());
                let mut disk = subject.open();
                subject.disk.fail(fault);
                let Err(error) = case.run(&subject, &mut disk) else {
                    let (changes, reads) = subject.disk.operations();
                    let asked = if fault.failure == Failure::Read { reads } else { changes };
                    assert!(asked <= nth, "{fault:?} was not told");
                    assert!(subject.disk.contents() == case.changed() && !subject.has_journal());
                    break;
                };
                failed += 1;
                unchanged += usize::from(!error.changed());
                case.failed(&subject, &mut disk, &error, fault);
                case.is_whole(&subject);
            }
        }
    }
    println!("{failed} faults, {unchanged} of which changed nothing");
    assert!(failed >= 500 && unchanged >= 200);
}

/// No room for what is added, at once or after the journal: the disk and its folder are as before.
#[test]
fn without_room_nothing_is_changed() {
    let case = Case::all().into_iter().find(|case| case.name.contains("zeros written")).unwrap();
    // The sync before everything; the journal's three changes; its name, and the folder; the length.
    for nth in 1..7 {
        let subject = Subject::of(case.old.clone());
        let mut disk = subject.open();
        let failure = Failure::Change(ErrorKind::NoSpace);
        subject.disk.fail(Fault { nth, failure, lasts: false });
        let error = case.run(&subject, &mut disk).unwrap_err();
        assert_eq!((error.kind(), error.changed()), (ErrorKind::NoSpace, false), "{nth}: {error}");
        assert!(subject.disk.contents() == case.old && !subject.has_journal());
        disk.write_at(0, &case.old[..1]).unwrap();
    }
}

#[test]
fn a_completion_that_fails_is_completed_by_the_next() {
    let (mut failed, mut taken_back) = (0, 0);
    for case in Case::all() {
        let writes = case.stages.iter().filter(|stage| !stage.is_empty()).count();
        for stages in 0..writes {
            let files = case.half_way(stages);
            for fault in faults() {
                for nth in 0.. {
                    let fault = Fault { nth, ..fault };
                    let subject = Subject::new(&files);
                    subject.disk.fail(fault);
                    match subject.settle() {
                        Err(error) => {
                            failed += 1;
                            has_kind_of(&error, fault);
                            assert!(error.changed() || subject.files() == files);
                            case.is_whole(&subject);
                        }
                        Ok(settled) if !settled.unwrap().completed => {
                            taken_back += 1;
                            assert!(subject.disk.contents() == case.old);
                        }
                        Ok(_) => {
                            assert!(subject.disk.contents() == case.changed());
                            break;
                        }
                    }
                }
            }
        }
    }
    println!("{failed} faults, {taken_back} taken back");
    assert!(failed >= 300 && taken_back > 0);
}

/// Before anything is changed: what meets, what becomes smaller, and what has no place for a
/// journal.
#[test]
fn what_cannot_be_done_is_refused_first() {
    let case = Case::all().pop().unwrap();
    let bytes = |offset| Patch { offset, content: PatchContent::Bytes(&[7; 600]) };
    let refused = |stages: &[&[Patch<'static>]], new_len, has_place: bool, kind| {
        let subject = Subject::of(case.old.clone());
        let mut disk = subject.open();
        let stages = stages.iter().map(|stage| stage.to_vec()).collect();
        let change = Change { stages, ..Change::of_size(size(new_len)) };
        let place = has_place.then_some(&subject.place as &dyn Place);
        let cancel = Cancel::new();
        let error = change_raw(&mut disk, place, &change, Task::new(&Silent, &cancel));
        let error = error.expect_err("what cannot be");
        assert_eq!((error.kind(), error.changed()), (kind, false), "{error}");
        assert!(subject.disk.contents() == case.old && !subject.has_journal());
        disk.write_at(0, b"used on").unwrap();
    };
    refused(&[&[bytes(0)], &[bytes(599)]], case.new_len, true, ErrorKind::BadRequest);
    refused(&[&[bytes(case.new_len - 599)]], case.new_len, true, ErrorKind::BadRequest);
    refused(&[&[bytes(0)]], case.old.len() as u64 - 512, true, ErrorKind::BadRequest);
    refused(&[&[bytes(0)]], case.new_len, false, ErrorKind::UnsupportedFeature);
}
