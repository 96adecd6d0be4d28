//! Whatever an image claims: opening, reading, writing, scanning and resizing it answers, without a
//! panic, and with no more work and memory than what it is asked for is worth.

#![no_main]

mod input;
#[path = "../../../src/qcow2/subject_tests.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests, which use more of it")]
mod subject;

// What the shared harness names from the root of its crate.
pub(crate) use vmdisk::{Result, block, host, qcow2, task, units};

use libfuzzer_sys::fuzz_target;

use self::input::Input;

fuzz_target!(|input: Input| {
    let damage: Vec<_> =
        input.damage.iter().take(20).map(|(at, word)| (u64::from(*at) * 4, *word)).collect();
    subject::survive(input.shape(), &damage, &input.steps());
});
