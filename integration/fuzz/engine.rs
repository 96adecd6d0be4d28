//! The format engine and what it stands on, with the harness of its own tests, and nothing else of
//! the program: what is fuzzed is all that is built.

#![allow(dead_code, unused_imports, missing_docs, reason = "used by the rest of the program")]

#[path = "../../src/block/mod.rs"]
pub mod block;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/host/mod.rs"]
pub mod host;
#[path = "../../src/qcow2/mod.rs"]
pub mod qcow2;
#[path = "../../src/task.rs"]
pub mod task;
#[path = "../../src/units.rs"]
pub mod units;

pub use error::{Error, ErrorKind, Holder, Result};
pub use qcow2::fuzz_tests::{damage, operations};
