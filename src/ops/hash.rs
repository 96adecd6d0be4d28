//! `hash`: what the guest of a disk sees, in 32 bytes.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::source::Source;
use super::wire::{bytes_hex, lossy};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::image::{self, ContentHash};

/// A disk.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The id or the name of an internal snapshot, whose disk is hashed instead. Default: none.
    pub snapshot: Option<String>,
}

impl HashRequest {
    /// The hash of what is at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        HashRequest { path: path.into(), format: None, snapshot: None }
    }
}

/// The hash of a disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HashReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// How it is hashed: the name of the definition.
    pub algorithm: String,
    /// The hash, in hexadecimal.
    pub hash: String,
}

/// Hashes what the guest of a disk sees. The definition is with [`ContentHash`].
///
/// # Errors
/// What opening and reading the disk says; [`Cancelled`](crate::ErrorKind::Cancelled).
pub fn hash(request: &HashRequest, context: Context<'_>) -> Result<HashReport> {
    let disk = Source::open(&request.path, request.format, request.snapshot.as_deref(), context)?;
    let format = disk.format();
    let disk = disk.assemble(context)?;
    let hash = image::hash(&disk, context.task())?;
    Ok(HashReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        format,
        virtual_size_bytes: disk.size(),
        algorithm: ContentHash::ALGORITHM.to_owned(),
        hash: hash.to_string(),
    })
}
