//! `chain`: which images a disk consists of, as far down as they can be opened, and which images
//! depend on it. Nothing is written.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::choices::Format;
use super::context::Context;
use super::guest::look_at;
use super::wire::{bytes_hex, choice, lossy, stored_text};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileId, FileStorage, resolve};
use crate::image::chain::{Link, Opening};
use crate::image::gate::Named;
use crate::image::{Dependent, Dependents, find_dependents, own_bytes};

/// So many dependents are told, at most.
const MOST_TOLD: usize = 10_000;

/// A disk whose chain is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// A folder in which, however deep, images are looked for that depend on the disk. Default:
    /// nowhere.
    pub dependents: Option<PathBuf>,
}

/// What a disk consists of.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChainReport {
    /// Where the disk is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether somebody writes to the disk right now: what is told may be out of date already.
    pub in_use: bool,
    /// Whether every image that is named was opened.
    pub complete: bool,
    /// The images, the disk itself first.
    pub images: Vec<ChainImage>,
    /// What depends on the disk, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependents: Option<DependentsReport>,
}

/// An image of a chain.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChainImage {
    /// How many images are above it.
    pub depth: u64,
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Its format.
    pub format: Format,
    /// The size of its guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// How much of the disk it stores data for by itself, in bytes of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// How much of the disk it makes zeros by itself, in bytes of the disk; what was laid out and
    /// never written counts too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_bytes: Option<u64>,
    /// Why it cannot be told how much it has of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemReport>,
    /// What it names as its backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<NamedFileReport>,
    /// What it names as its external data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<NamedFileReport>,
}

/// A file that an image names.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct NamedFileReport {
    /// Its name as stored.
    pub stored: String,
    /// Its format as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Where that leads, if it was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// The length of the file, in bytes, of a data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size_bytes: Option<u64>,
    /// What of it is allocated on the host, in bytes, of a data file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
    /// Why it was not followed, or could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemReport>,
}

/// Something that is in the way.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ProblemReport {
    /// The kind of error that it would be.
    pub kind: String,
    /// What it is.
    pub message: String,
}

choice! {
    /// What an image names another file for.
    NamedFor {
        /// Its backing file.
        BackingFile = "backing_file",
        /// Its external data file.
        DataFile = "data_file",
    }
}

/// What depends on a disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DependentsReport {
    /// The folder that was searched.
    pub folder: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder_bytes_hex: Option<String>,
    /// How many files were looked at.
    pub files: u64,
    /// Whether all of them could be: else there may be more that depends on the disk.
    pub complete: bool,
    /// The images that depend on it, directly or by way of one another, the nearest first.
    pub found: Vec<DependentReport>,
    /// How many more there are.
    pub found_left_out: u64,
    /// Images that name what is below them in a way that is not followed (`json:`, `nbd:` and the
    /// like): the first of them.
    pub not_followed: Vec<String>,
    /// How many more there are.
    pub not_followed_left_out: u64,
    /// How many files and folders could not be looked at.
    pub unread: u64,
    /// Why not, of the first of them.
    pub problems: Vec<ProblemReport>,
    /// Whether the folder has more files than are looked at.
    pub has_more: bool,
}

/// An image that depends on a disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DependentReport {
    /// How many steps it is away: 1 for an image that names the disk itself.
    pub depth: u64,
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// What it names the file below it for.
    pub named_for: NamedFor,
    /// The file that it names.
    pub below: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below_bytes_hex: Option<String>,
}

impl From<&Error> for ProblemReport {
    fn from(error: &Error) -> Self {
        ProblemReport { kind: error.kind().name().to_owned(), message: error.to_string() }
    }
}

/// Tells which images a disk consists of. What is missing, refused or damaged below it is told, and
/// no error.
///
/// # Errors
/// Of the disk itself: [`FormatMismatch`](ErrorKind::FormatMismatch) and what opening it says;
/// [`Cancelled`](ErrorKind::Cancelled); of the search, what listing the folder says.
pub fn chain(request: &ChainRequest, context: Context<'_>) -> Result<ChainReport> {
    let (top, in_use) = look_at(&request.path, request.format, context)?;
    let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
    let (below, broken) = opening.below_as_far(&top, &[]);
    let complete = broken.is_none();
    let links: Vec<Link> = std::iter::once(top).chain(below).collect();
    let files = links.iter().map(|link| link.storage.id()).collect::<Result<Vec<_>>>()?;
    let paths: Vec<PathBuf> = links.iter().map(|link| link.path.clone()).collect();
    let mut images = Vec::new();
    for (depth, link) in links.into_iter().enumerate() {
        let mut image = describe(depth, &link)?;
        if let Some(backing) = &mut image.backing_file {
            match paths.get(depth + 1) {
                Some(path) => backing.lead_to(path),
                None => backing.problem = broken.as_ref().map(ProblemReport::from),
            }
        }
        tell_own(&mut image, link, &opening, &files)?;
        images.push(image);
    }
    let dependents = request.dependents.as_deref();
    Ok(ChainReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        in_use,
        complete,
        images,
        dependents: dependents.map(|folder| search(&request.path, folder, context)).transpose()?,
    })
}

fn describe(depth: usize, link: &Link) -> Result<ChainImage> {
    let info = link.storage.info()?;
    let header = link.header.as_ref();
    let backing = header.and_then(|header| header.backing.as_ref());
    let backing = backing.map(|backing| {
        let format = backing.format.as_deref().map(stored_text);
        NamedFileReport { format, ..NamedFileReport::of(&backing.name) }
    });
    Ok(ChainImage {
        depth: depth as u64,
        path: lossy(&link.path),
        path_bytes_hex: bytes_hex(&link.path),
        format: link.format.into(),
        virtual_size_bytes: header.map_or(info.len, |header| header.virtual_size),
        file_size_bytes: info.len,
        allocated_bytes: info.allocated_bytes,
        data_bytes: None,
        zero_bytes: None,
        problem: None,
        backing_file: backing,
        data_file: header.and_then(|header| header.data_file()).map(NamedFileReport::of),
    })
}

/// Says how much an image has of its own, or why nobody knows.
fn tell_own(
    image: &mut ChainImage,
    link: Link,
    opening: &Opening<'_>,
    files: &[FileId],
) -> Result<()> {
    if let (Some(data_file), Some(header)) = (&mut image.data_file, &link.header)
        && let Some(name) = header.data_file()
    {
        let found = opening.trust.admit(&link.path, Named::DataFile, name).and_then(|path| {
            let info = FileStorage::open(&path, Access::Read)?.info()?;
            Ok((path, info))
        });
        match found {
            Ok((path, info)) => {
                data_file.lead_to(&path);
                data_file.file_size_bytes = Some(info.len);
                data_file.allocated_bytes = Some(info.allocated_bytes);
            }
            Err(error) => data_file.problem = Some(ProblemReport::from(&error)),
        }
    }
    match own_bytes(opening, link, files) {
        Ok(own) => {
            image.data_bytes = Some(own.data);
            image.zero_bytes = Some(own.zeros);
        }
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        Err(error) => image.problem = Some(ProblemReport::from(&error)),
    }
    Ok(())
}

impl NamedFileReport {
    fn of(name: &[u8]) -> Self {
        NamedFileReport {
            stored: stored_text(name),
            format: None,
            path: None,
            path_bytes_hex: None,
            file_size_bytes: None,
            allocated_bytes: None,
            problem: None,
        }
    }

    fn lead_to(&mut self, path: &Path) {
        (self.path, self.path_bytes_hex) = (Some(lossy(path)), bytes_hex(path));
    }
}

fn search(path: &Path, folder: &Path, context: Context<'_>) -> Result<DependentsReport> {
    let Dependents { found, files, unread, why_unread, not_followed, has_more, .. } =
        find_dependents(path, folder, context.cancel)?;
    let left_out = |len: usize| len.saturating_sub(MOST_TOLD) as u64;
    let folder = resolve(folder)?;
    Ok(DependentsReport {
        folder: lossy(&folder),
        folder_bytes_hex: bytes_hex(&folder),
        files,
        complete: unread == 0 && !has_more && not_followed.is_empty(),
        found_left_out: left_out(found.len()),
        found: found.iter().take(MOST_TOLD).map(DependentReport::from).collect(),
        not_followed_left_out: left_out(not_followed.len()),
        not_followed: not_followed.iter().take(MOST_TOLD).map(|path| lossy(path)).collect(),
        unread,
        problems: why_unread.iter().map(ProblemReport::from).collect(),
        has_more,
    })
}

impl From<&Dependent> for DependentReport {
    fn from(found: &Dependent) -> Self {
        DependentReport {
            depth: found.depth,
            path: lossy(&found.path),
            path_bytes_hex: bytes_hex(&found.path),
            named_for: match found.named {
                Named::BackingFile | Named::BackingFileToWrite => NamedFor::BackingFile,
                Named::DataFile | Named::DataFileToWrite => NamedFor::DataFile,
            },
            below: lossy(&found.below),
            below_bytes_hex: bytes_hex(&found.below),
        }
    }
}
