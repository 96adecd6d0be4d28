//! What programs see: the form that errors take as JSON.

mod error;

pub use error::{ErrorObject, code};
