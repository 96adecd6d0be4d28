//! `damage`: hurting an image on purpose, for whoever tries what a driver does about it. It is no
//! verb of the protocol.

use std::path::PathBuf;

use serde::Serialize;

use super::context::Context;
use super::existing::Existing;
use super::wire::lossy;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
pub use crate::qcow2::damage::Damage;
use crate::qcow2::damage::Wound;

/// An image that is to be damaged.
#[derive(Debug, Clone)]
pub struct DamageRequest {
    /// The image.
    pub path: PathBuf,
    /// How.
    pub damage: Damage,
    /// Which of the places that can be damaged like this.
    pub seed: u64,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct DamageReport {
    /// The image.
    pub path: String,
    /// How it was damaged.
    pub damage: &'static str,
    /// Which of the places was chosen.
    pub seed: u64,
    /// Where, in bytes from the beginning of the file; nothing where the image has no place for
    /// such damage.
    pub offsets_bytes: Vec<u64>,
    /// Where the file ends now, in bytes.
    pub file_size_bytes: u64,
}

/// Damages an image as a seed says.
///
/// # Errors
/// What opening and locking say; [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a disk
/// that is not qcow2.
pub fn damage(request: &DamageRequest, context: Context<'_>) -> Result<DamageReport> {
    let existing = Existing::open_to_change(&request.path, None, context)?;
    let storage = existing.storage();
    let Some(header) = existing.header() else {
        let message = "a raw disk has no metadata that could be damaged";
        return Err(Error::new(ErrorKind::UnsupportedFeature, message).at_path(&request.path));
    };
    let wounds = request.damage.plan(storage, header, request.seed)?;
    wounds.iter().try_for_each(|wound| wound.inflict(storage)).map_err(Error::after_changes)?;
    Ok(DamageReport {
        path: lossy(&request.path),
        damage: request.damage.name(),
        seed: request.seed,
        offsets_bytes: wounds.iter().map(offset).collect(),
        file_size_bytes: storage.len()?,
    })
}

const fn offset(wound: &Wound) -> u64 {
    match wound {
        Wound::Bytes { offset, .. } => *offset,
        Wound::Cut { new_len, .. } => *new_len,
    }
}
