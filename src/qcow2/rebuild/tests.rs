//! The counts of an image that is in use are made true, whatever the medium does.

use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind};
use crate::host::recording::{Failure, Fault};
use crate::host::storage::Storage;
use crate::qcow2::header::Header;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::subject_tests::{Step, Subject};
use crate::task::{Cancel, Silent, Task};

fn rebuild(subject: &mut Subject) -> Result<(), Error> {
    let image = subject.image.as_mut().expect("an open image");
    image.rebuild_refcounts(Task::new(&Silent, &Cancel::new()))
}

/// An open image that has lost its refcount blocks, so that it needs new ones, and a new table.
fn without_blocks() -> Subject {
    let mut subject = Subject::new(Shape { order: 6, ..PLAIN });
    subject.step(Step::Write(0, 30_000, 3));
    subject.step(Step::Reopen);
    let file = &subject.files[0];
    let table = Header::read(&**file).unwrap().refcount_table.offset.get();
    file.write_at(table, &[0; 512]).unwrap();
    subject
}

#[test]
fn what_was_not_flushed_is_not_lost() {
    let mut subject = Subject::new(PLAIN);
    subject.step(Step::Write(100, 20_000, 1));
    subject.step(Step::Flush);
    subject.step(Step::Discard(0, 4 << 10));
    subject.step(Step::Write(25_000, 9_000, 2));
    rebuild(&mut subject).unwrap();
    assert!(subject.contents() == subject.model);
    subject.step(Step::Write(700, 3_000, 3));
    subject.step(Step::Reopen);
    assert!(subject.contents() == subject.model);
    subject.close().unwrap();
    subject.is_sound();
}

/// Once anything was changed, what the image has in memory may be wrong about where its counts are:
/// it is not written any more, also where only a read failed. Before that it goes on.
#[test]
fn a_rebuild_that_failed_is_tried_again_or_the_last_change() {
    let mut whole = without_blocks();
    let (_, before) = whole.files[0].operations();
    rebuild(&mut whole).unwrap();
    whole.close().unwrap();
    whole.is_sound();
    let (mut promised, mut latched) = (0, 0);
    for nth in before..whole.files[0].operations().1 {
        let mut subject = without_blocks();
        subject.files[0].fail(Fault { nth, failure: Failure::Read, lasts: false });
        let Err(error) = rebuild(&mut subject) else { continue };
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        if error.changed() {
            latched += 1;
            let later = subject.image().write_at(0, b"x").unwrap_err();
            assert!(later.to_string().contains("cannot be read"), "{later}");
            let again = rebuild(&mut subject).unwrap_err();
            assert_eq!((again.kind(), again.changed()), (ErrorKind::Io, false), "{again}");
            assert!(subject.contents() == subject.model, "{nth}");
            continue;
        }
        promised += 1;
        rebuild(&mut subject).unwrap();
        subject.step(Step::Write(700, 3_000, 3));
        assert!(subject.contents() == subject.model, "{nth}");
        subject.close().unwrap();
        subject.is_sound();
    }
    assert!(promised >= 3 && latched >= 3, "{promised} {latched}");
}
