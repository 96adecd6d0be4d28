//! `inspect`: what an image file claims, and whether a stranger's image is safe to use. It takes no
//! lock, follows nothing, opens nothing that the image names, and reads a bounded part of the file.

mod header;
mod rules;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use header::{ExtensionReport, FeatureReport, FeatureSet, HeaderReport, TableReport};
pub use rules::{Reason, Rule, SafetyVerdict};

use self::rules::Subject;
use super::choices::Format;
use super::context::Context;
use super::wire::{self, bytes_hex, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileKind, FileStorage, resolve};
use crate::image::probe::{self, Evidence, Magic};
use crate::qcow2::Claims;
use crate::units::ByteSize;

/// An image that is looked at.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// The disk.
    pub path: PathBuf,
    /// The format that it is said to have. Default: what its name promises.
    pub format: Option<Format>,
    /// Whether to judge the image as one that a stranger made. Default: `false`.
    #[serde(default)]
    pub untrusted: bool,
    /// With `untrusted`: the largest size of the guest's disk that is safe. Default: none.
    #[serde(default, deserialize_with = "wire::size::optional")]
    #[schemars(with = "Option<wire::Size>")]
    pub max_size: Option<ByteSize>,
}

impl InspectRequest {
    /// A look at what is claimed, without a judgement.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        InspectRequest { path: path.into(), format: None, untrusted: false, max_size: None }
    }
}

/// What an image file claims. Nothing of it is trusted, and none of it was followed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct InspectReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// What the content begins as: `qcow2`, a format that is not handled by its name, else `raw`.
    pub content: String,
    /// Why that would not be believed by a verb that writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_doubt: Option<String>,
    /// The length of the file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// What a qcow2 header claims, where there is one of a version that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderReport>,
    /// Why no verb would read that header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_problem: Option<String>,
    /// Whether it is safe to use, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<SafetyVerdict>,
    /// Why it is not, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<Reason>>,
}

/// Tells what the image file claims and, where it is untrusted, whether a rule speaks against it.
/// That a header is malformed is no error.
///
/// # Errors
/// What opening and reading the file says;
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for a largest size without a judgement.
pub fn inspect(request: &InspectRequest, context: Context<'_>) -> Result<InspectReport> {
    if request.max_size.is_some() && !request.untrusted {
        let message = "a largest size is for images that are untrusted";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("max_size"));
    }
    context.cancel.check()?;
    let path = resolve(&request.path)?;
    let storage = FileStorage::open(&path, Access::Read)?;
    let info = storage.info()?;
    let magics = Magic::read_all(&storage)?;
    let magic = magics.first().copied();
    let block_device = info.kind == FileKind::BlockDevice;
    let evidence = Evidence { path: &path, block_device, magic };
    let told = request.format.map(probe::Format::from);
    let (claims, problem) = match magic {
        Some(Magic::Qcow2) => Claims::read(&storage)?,
        _ => (None, None),
    };
    let mut report = InspectReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        content: magic.map_or("raw", Magic::name).to_owned(),
        format_doubt: evidence.believe(told).err().map(|error| error.without_path().to_string()),
        file_size_bytes: info.len,
        allocated_bytes: info.allocated_bytes,
        header: claims.as_ref().map(HeaderReport::of),
        header_problem: problem.as_ref().map(ToString::to_string),
        verdict: None,
        reasons: None,
    };
    if request.untrusted {
        let subject = Subject {
            claims: claims.as_ref(),
            problem: problem.as_ref(),
            magics: &magics,
            told,
            doubt: report.format_doubt.as_deref(),
            file_len: info.len,
            max_size: request.max_size,
        };
        let reasons = subject.reasons();
        report.verdict = Some(SafetyVerdict::of(&reasons));
        report.reasons = Some(reasons);
    }
    Ok(report)
}
