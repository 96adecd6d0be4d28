//! A file has many names; the caller knows the one that the request has.

use std::path::Path;

use crate::error::Error;
use crate::host::resolve_target;

/// The same error about the file as the caller names it, where one of these names leads to it. What
/// only an image names keeps the name that it was found by.
pub(crate) fn as_named<P: AsRef<Path>>(error: Error, names: impl IntoIterator<Item = P>) -> Error {
    let Some(path) = error.path().map(Path::to_owned) else { return error };
    let leads_there = |name: &P| resolve_target(name.as_ref()).is_ok_and(|found| found == path);
    match names.into_iter().find(leads_there) {
        Some(name) => error.with_path(name.as_ref()),
        None => error,
    }
}
