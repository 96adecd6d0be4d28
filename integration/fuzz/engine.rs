//! Everything of the program but its command line, with the harness of its own tests, and nothing
//! else: what is fuzzed is all that is built.

#![allow(dead_code, unused_imports, missing_docs, reason = "used by the rest of the program")]

#[path = "../../src/block/mod.rs"]
pub mod block;
#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/fuzz_tests.rs"]
mod fuzz_tests;
#[path = "../../src/guest/mod.rs"]
pub mod guest;
#[path = "../../src/host/mod.rs"]
pub mod host;
#[path = "../../src/image/mod.rs"]
pub mod image;
#[path = "../../src/ops/mod.rs"]
pub mod ops;
#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
#[path = "../../src/qcow2/mod.rs"]
pub mod qcow2;
#[path = "../../src/raw.rs"]
pub mod raw;
#[path = "../../src/task.rs"]
pub mod task;
#[path = "../../src/units.rs"]
pub mod units;

pub use error::{Error, ErrorKind, Holder, Result};
pub use guest::fuzz_tests::payload;
pub use ops::fuzz_tests::{change, open};
pub use protocol::protocol as lines;
pub use qcow2::fuzz_damaged_tests::{check, map, read, repair};
pub use qcow2::fuzz_tests::{damage, operations};
