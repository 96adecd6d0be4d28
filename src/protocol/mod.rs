//! What programs see: JSON-RPC 2.0, one object a line, and the same objects for `--json`.
//!
//! The reference for those who write clients:
#![doc = include_str!("README.md")]

mod document;
mod envelope;
mod error;
mod hint;
mod json;
mod lines;
mod methods;
#[cfg(test)]
mod openrpc;
mod params;
mod progress;
mod queue;
mod reply;
mod session;
mod shape;
mod unknown;

pub use document::document;
pub(crate) use error::ErrorObject;
pub(crate) use progress::ProgressLines;
pub(crate) use reply::Reply;
#[cfg(any(test, fuzzing))]
pub use session::fuzz_tests::protocol;
pub use session::{Ended, Session};

/// The major version of the protocol.
pub const VERSION: &str = "1";

/// The versions that a client may ask for.
const SUPPORTED: &[&str] = &[VERSION];
