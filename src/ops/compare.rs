//! `compare`: whether the guests of two disks see the same.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::source::Source;
use super::wire::{bytes_hex, choice, lossy};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::image::{self, Comparison};

/// Two disks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareRequest {
    /// One disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The id or the name of an internal snapshot of it, whose disk is compared instead. Default:
    /// none.
    pub snapshot: Option<String>,
    /// The other disk.
    pub other: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub other_format: Option<Format>,
    /// The id or the name of an internal snapshot of it, whose disk is compared instead. Default:
    /// none.
    pub other_snapshot: Option<String>,
    /// Whether the disks must also have one size, and have data, zeros and nothing, and what is
    /// compressed, in the same places, as a map tells. Else what one has behind the end of the other
    /// must be zeros. Default: `false`.
    #[serde(default)]
    pub strict: bool,
}

impl CompareRequest {
    /// Whether `path` and `other` read the same.
    pub fn new(path: impl Into<PathBuf>, other: impl Into<PathBuf>) -> Self {
        CompareRequest {
            path: path.into(),
            format: None,
            snapshot: None,
            other: other.into(),
            other_format: None,
            other_snapshot: None,
            strict: false,
        }
    }
}

choice! {
    /// In what two disks differ.
    Difference {
        /// In a byte.
        Content = "content",
        /// In their size, if that matters.
        Size = "size",
        /// In what is allocated: one has data, zeros or nothing where the other has something else, or
        /// compressed data where the other has it plain, if that matters.
        Allocation = "allocation",
    }
}

/// A disk that was compared.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ComparedDisk {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
}

/// What two disks are to each other.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CompareReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The other disk.
    pub other: ComparedDisk,
    /// Whether they are the same.
    pub identical: bool,
    /// In what they differ, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// Where they differ first, in bytes from the beginning; the end of the smaller one where that is
    /// all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset_bytes: Option<u64>,
}

/// Compares two disks. That they differ is no error.
///
/// # Errors
/// What opening and reading both says; [`Cancelled`](crate::ErrorKind::Cancelled).
pub fn compare(request: &CompareRequest, context: Context<'_>) -> Result<CompareReport> {
    let sources = || -> Result<_> {
        let ours = (&request.path, request.format, request.snapshot.as_deref());
        let theirs = (&request.other, request.other_format, request.other_snapshot.as_deref());
        let [ours, theirs] =
            [ours, theirs].map(|(path, told, name)| Source::open(path, told, name, context));
        Ok((ours?, theirs?))
    };
    let (ours, theirs) = sources()?;
    let formats = (ours.format(), theirs.format());
    let (ours, theirs) = (ours.assemble(context)?, theirs.assemble(context)?);
    let mut found = difference(&ours, &theirs, request.strict, context)?;
    if request.strict && found.is_none() {
        let (ours, theirs) = sources()?;
        let (ours, theirs) = (ours.into_map(context)?, theirs.into_map(context)?);
        let at = image::compare_allocation(&ours, &theirs, context.task())?;
        found = at.map(|at| (Difference::Allocation, at));
    }
    Ok(CompareReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        format: formats.0,
        virtual_size_bytes: ours.size(),
        other: ComparedDisk {
            path: lossy(&request.other),
            path_bytes_hex: bytes_hex(&request.other),
            format: formats.1,
            virtual_size_bytes: theirs.size(),
        },
        identical: found.is_none(),
        difference: found.map(|(difference, _)| difference),
        guest_offset_bytes: found.map(|(_, offset)| offset),
    })
}

/// The first difference of size or contents that matters, and where it is.
fn difference(
    ours: &dyn BlockDevice,
    theirs: &dyn BlockDevice,
    strict: bool,
    context: Context<'_>,
) -> Result<Option<(Difference, u64)>> {
    if strict && ours.size() != theirs.size() {
        return Ok(Some((Difference::Size, ours.size().min(theirs.size()))));
    }
    Ok(match image::compare(ours, theirs, context.task())? {
        Comparison::Differ { offset } => Some((Difference::Content, offset)),
        Comparison::Same => None,
    })
}
