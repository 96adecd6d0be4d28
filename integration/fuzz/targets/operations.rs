//! Whatever is done to an image, it shows what a run of bytes in memory shows that had the same
//! done to it, and nothing about it is wrong or leaked once it is closed.

#![no_main]

mod input;
#[path = "../../../src/qcow2/subject_tests.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests, which use more of it")]
mod subject;

// What the shared harness names from the root of its crate.
pub(crate) use vmdisk::{Result, block, host, qcow2, task, units};

use libfuzzer_sys::fuzz_target;

use self::input::Input;
use self::subject::{Step, Subject};

fuzz_target!(|input: Input| {
    let mut subject = Subject::new(input.shape());
    for step in input.steps() {
        if matches!(step, Step::Reopen | Step::Resize(_)) {
            subject.close().expect("the end");
            subject.is_sound();
            subject.open().expect("an image");
        }
        subject.step(step);
        assert!(subject.contents() == subject.model, "{step:?}");
    }
    subject.close().expect("the end");
    subject.is_sound();
});
