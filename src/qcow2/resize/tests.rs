//! An image that is resized while it is open is used on, whatever the medium does.

use proptest::prelude::*;

use crate::block::{BlockDevice, Patch, PatchContent};
use crate::error::{Error, ErrorKind};
use crate::host::recording::{Failure, Fault};
use crate::qcow2::shape_tests::{PLAIN, Shape, contents, virtual_size};
use crate::qcow2::subject_tests::{Step, Subject};
use crate::qcow2::wounds_tests::{files, shape};
use crate::qcow2::{Preallocation, ResizeOptions, Resized};
use crate::task::{Cancel, Silent, Task};

const SIZES: [u64; 4] = [3 << 20, 512, 200 << 10, 30 << 10];

fn shapes() -> [Shape; 4] {
    let overlay = Shape { below: Some(30 << 10), ..PLAIN };
    let lazy = Shape { lazy: true, order: 3, ..PLAIN };
    let extended = Shape { cluster_bits: 14, extended: true, below: Some(30 << 10), ..PLAIN };
    [PLAIN, overlay, lazy, extended]
}

/// Images with something in memory that was not flushed.
fn subjects() -> impl Iterator<Item = Subject> {
    shapes().into_iter().map(|shape| {
        let mut subject = Subject::new(shape);
        subject.step(Step::Write(100, 20_000, 1));
        subject.step(Step::Flush);
        subject.step(Step::Discard(0, 2 << shape.cluster_bits));
        subject.step(Step::Write(25_000, 9_000, 2));
        subject
    })
}

fn resize(subject: &mut Subject, size: u64) -> Result<Resized, Error> {
    let options = ResizeOptions { virtual_size: virtual_size(size), preallocation: None };
    let image = subject.image.as_mut().expect("an open image");
    image.resize(&options, Task::new(&Silent, &Cancel::new()))
}

/// The disk has its new size at once, what it had and zeros behind that, and can be written as
/// before; nothing of it is wrong when it is closed.
#[test]
fn an_open_image_is_used_on_with_its_new_size() {
    for mut subject in subjects() {
        for size in SIZES {
            resize(&mut subject, size).unwrap();
            subject.model.resize(size as usize, 0);
            assert_eq!(subject.image().size(), size);
            assert!(subject.contents() == subject.model, "{:?} of {size}", subject.shape);
            subject.step(Step::Write(size - 300, 300, 7));
            subject.step(Step::Write(size / 2, 3_000, 8));
            subject.step(Step::Zero(size / 3, 700));
            assert!(subject.image().write_at(size - 1, &[1; 2]).is_err());
            assert!(subject.contents() == subject.model, "{:?} of {size}", subject.shape);
        }
        subject.step(Step::Reopen);
        assert!(subject.contents() == subject.model, "{:?}", subject.shape);
        subject.close().unwrap();
        subject.is_sound();
    }
}

fn patch() -> impl Strategy<Value = (u64, u64, Option<u8>)> {
    (0u64..250 << 10, prop_oneof![1u64..700, 1u64..40_000], prop::option::of(1u8..=255))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Size and guest data become what they are to be, whatever the image is like; again, nothing
    /// is left to be done.
    #[test]
    fn data_changes_with_the_size(
        shape in shape(),
        grown in prop_oneof![Just(0u64), 1u64..200_000],
        found in prop::collection::vec(patch(), 1..8),
        preallocation in prop::sample::select(&[None, Some(Preallocation::Metadata), Some(Preallocation::Tables), Some(Preallocation::Full)][..]),
    ) {
        let (files, mut model) = files(shape);
        let mut subject = Subject::over(shape, files, model.clone());
        subject.open().unwrap();
        let size = virtual_size(model.len() as u64 + grown);
        model.resize(size.bytes() as usize, 0);
        let (mut patches, mut end) = (Vec::new(), 0);
        let mut found = found;
        found.sort();
        // The longest patch, behind the most that is skipped.
        let bytes = [1u8, 2, 3, 4, 5].repeat(9000);
        for (offset, len, value) in found {
            let len = len.min((model.len() as u64).saturating_sub(offset));
            if offset < end || len == 0 { continue }
            end = offset + len;
            let content = match value {
                None => PatchContent::Zeros(len),
                Some(skip) => PatchContent::Bytes(&bytes[skip as usize..][..len as usize]),
            };
            let patch = Patch { offset, content };
            patch.put_over(0, &mut model);
            patches.push(patch);
        }
        subject.model = model;
        let cancel = Cancel::new();
        let options = ResizeOptions { virtual_size: size, preallocation };
        for _ in 0..2 {
            let image = subject.image.as_mut().unwrap();
            image.resize_with(&options, &patches, Task::new(&Silent, &cancel)).unwrap();
            prop_assert!(subject.contents() == subject.model);
        }
        subject.step(Step::Reopen);
        prop_assert!(subject.contents() == subject.model);
        subject.close().unwrap();
        subject.is_sound();
    }
}

/// An image that is in use is not written any more and says why. Reading goes on, with the old size
/// or the new one, and it has one of them when it is opened again.
fn is_the_last(subject: &mut Subject, size: u64, why: &str) {
    let later = subject.image().write_at(0, b"x").unwrap_err();
    assert!(later.to_string().contains(why), "{later}");
    let now = contents(subject.image()).unwrap();
    let common = now.len().min(subject.model.len());
    assert!(now[..common] == subject.model[..common], "{size}");
    let before = subject.bytes();
    let again = resize(subject, size).unwrap_err();
    assert_eq!((again.kind(), again.changed()), (later.kind(), false), "{again}");
    assert!(subject.bytes() == before, "{size}");
    drop(subject.image.take());
    subject.open().unwrap();
    let now = subject.image().size();
    assert!(now == size || now == subject.model.len() as u64, "{now}");
    subject.model.resize(now as usize, 0);
}

/// Wherever the medium fails once, the disk has its old size or its new one. Where the error
/// promises that nothing was changed, it is used on; else it is not written any more, says why,
/// and is sound when it is opened again.
#[test]
fn an_image_that_could_not_be_resized_is_as_it_was() {
    let (mut promised, mut latched) = (0, 0);
    for size in SIZES {
        for number in 0..shapes().len() {
            let flushed = || {
                let mut subject = subjects().nth(number).expect("a shape");
                subject.step(Step::Flush);
                let (done, _) = subject.files[0].operations();
                (subject, done)
            };
            let (mut whole, before) = flushed();
            resize(&mut whole, size).unwrap();
            for nth in 0..whole.files[0].operations().0 - before {
                let (mut subject, done) = flushed();
                let failure = Failure::Change(ErrorKind::NoSpace);
                subject.files[0].fail(Fault { nth: done + nth, failure, lasts: false });
                let Err(error) = resize(&mut subject, size) else { continue };
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                if error.changed() {
                    latched += 1;
                    is_the_last(&mut subject, size, "the medium fails");
                } else {
                    promised += 1;
                }
                assert!(contents(subject.image()).unwrap() == subject.model, "{nth} of {size}");
                subject.step(Step::Write(10, 400, 9));
                subject.step(Step::Reopen);
                assert!(subject.contents() == subject.model, "{nth} of {size}");
            }
        }
    }
    assert!(promised >= 8 && latched >= 100, "{promised} {latched}");
}

/// Wherever the medium cannot be read once, while what was written before is still under way or
/// later: the image is used on, and resized when it is tried again, or it is not written any more.
#[test]
fn a_resize_that_could_not_read_is_tried_again_or_the_last_change() {
    let (mut promised, mut latched) = (0, 0);
    for (size, number) in
        SIZES.into_iter().flat_map(|size| (0..shapes().len()).map(move |number| (size, number)))
    {
        let mut whole = subjects().nth(number).expect("a shape");
        let (_, before) = whole.files[0].operations();
        resize(&mut whole, size).unwrap();
        for nth in before..whole.files[0].operations().1 {
            let mut subject = subjects().nth(number).expect("a shape");
            subject.files[0].fail(Fault { nth, failure: Failure::Read, lasts: false });
            let Err(error) = resize(&mut subject, size) else { continue };
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            if error.changed() {
                latched += 1;
                is_the_last(&mut subject, size, "cannot be read");
            } else {
                promised += 1;
                resize(&mut subject, size).unwrap();
                subject.model.resize(size as usize, 0);
            }
            assert!(contents(subject.image()).unwrap() == subject.model, "{nth} of {size}");
            subject.step(Step::Write(10, 400, 9));
            subject.step(Step::Reopen);
            assert!(subject.contents() == subject.model, "{nth} of {size}");
        }
    }
    assert!(promised >= 50 && latched >= 10, "{promised} {latched}");
}

/// What failed before is no change of the resize that is refused for it.
#[test]
fn an_image_that_failed_is_not_resized() {
    for mut subject in subjects() {
        let failure = Failure::Change(ErrorKind::NoSpace);
        let (nth, _) = subject.files[0].operations();
        subject.files[0].fail(Fault { nth, failure, lasts: false });
        assert!(subject.image().flush().unwrap_err().changed());
        let before = subject.bytes();
        let error = resize(&mut subject, 200 << 10).unwrap_err();
        assert_eq!((error.kind(), error.changed()), (ErrorKind::NoSpace, false), "{error}");
        assert!(subject.bytes() == before);
    }
}
