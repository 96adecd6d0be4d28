//! A disk that exists: opened, locked, its format believed or refused, and compared with what was
//! asked for.

use std::path::Path;

use super::context::Context;
use super::create::{BackingReport, CreateReport, CreateRequest};
use super::options::{Compat, Compression, Format};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Access, FileKind, FileStorage, LockMode, folder_of, open_locked, resolve};
use crate::image::Image;
use crate::image::chain::Link;
use crate::image::probe::{self, Evidence, Magic};
use crate::qcow2::{CompressionType, Header, Version};

/// An open and locked disk.
#[derive(Debug)]
pub(super) struct Existing {
    link: Link,
}

impl Existing {
    /// Opens a disk that will be changed.
    pub(super) fn open_to_change(
        path: &Path,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        Self::open(path, Access::Write, LockMode::Writer, told, context)
    }

    /// Opens a disk that will only be compared.
    pub(super) fn open_to_read(
        path: &Path,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        Self::open(path, Access::Read, LockMode::Reader, told, context)
    }

    /// Locks a disk of any content that will be replaced: else it would be taken silently from
    /// whoever uses it.
    pub(super) fn open_to_replace(path: &Path, context: Context<'_>) -> Result<FileStorage> {
        let storage =
            open_locked(path, Access::Write, LockMode::Writer, context.locks, context.cancel)?;
        if storage.info()?.kind != FileKind::Regular {
            let message = "a device cannot be replaced by a file";
            return Err(Error::new(ErrorKind::Exists, message).at_path(path));
        }
        Ok(storage)
    }

    fn open(
        path: &Path,
        access: Access,
        mode: LockMode,
        told: Option<Format>,
        context: Context<'_>,
    ) -> Result<Existing> {
        let storage = open_locked(path, access, mode, context.locks, context.cancel)?;
        let magic = Magic::read(&storage)?;
        let block_device = storage.info()?.kind == FileKind::BlockDevice;
        let told = told.map(probe::Format::from);
        let format = Evidence { path, block_device, magic }.believe(told)?;
        Ok(Existing { link: Link::open(path, format, storage)? })
    }

    pub(super) fn format(&self) -> Format {
        self.link.format.into()
    }

    pub(super) fn header(&self) -> Option<&Header> {
        self.link.header.as_ref()
    }

    pub(super) fn storage(&self) -> &FileStorage {
        &self.link.storage
    }

    /// The size of the guest's disk, in bytes.
    pub(super) fn virtual_size(&self) -> Result<u64> {
        match self.header() {
            Some(header) => Ok(header.virtual_size),
            None => Ok(self.storage().info()?.len),
        }
    }

    /// The image with what is below it. A backing file that the policy refuses is left out.
    pub(super) fn assemble(self, context: Context<'_>, notes: &mut Vec<String>) -> Result<Image> {
        let below = match context.opening().below(&self.link, &[]) {
            Err(error) if error.kind() == ErrorKind::BackingRefused => {
                notes.push(format!("{error}; everything that is added hides it"));
                Vec::new()
            }
            below => below?,
        };
        self.link.assemble(below)
    }

    /// What is there, in the words of `create`.
    pub(super) fn report_as_created(
        &self,
        request: &CreateRequest,
        notes: Vec<String>,
    ) -> Result<CreateReport> {
        let info = self.storage().info()?;
        Ok(CreateReport {
            path: request.path.display().to_string(),
            changed: false,
            format: self.format(),
            virtual_size_bytes: self.virtual_size()?,
            file_size_bytes: info.len,
            allocated_bytes: info.allocated_bytes,
            preallocation: None,
            backing: None::<BackingReport>,
            guest: None,
            notes,
        })
    }
}

/// What of an existing disk is not as the request explicitly asks, in words.
pub(super) fn differences(
    existing: &Existing,
    request: &CreateRequest,
    compare_size: bool,
) -> Result<Vec<String>> {
    let mut differs = Vec::new();
    let mut compare = |what: &str, is: String, asked: Option<String>| {
        if let Some(asked) = asked.filter(|asked| *asked != is) {
            differs.push(format!("{what} is {is}, asked for {asked}"));
        }
    };
    compare("format", existing.format().to_string(), Some(request.format().to_string()));
    if compare_size {
        let asked = request.size.map(crate::units::VirtualSize::round_up).transpose()?;
        let is = existing.virtual_size()?;
        compare("size", is.to_string(), asked.map(|size| size.bytes().to_string()));
    }
    let Some(header) = existing.header() else { return Ok(differs) };
    let layout = &request.layout;
    let compat = match header.version {
        Version::V2 => Compat::V2,
        Version::V3 => Compat::V3,
    };
    compare("compat", compat.to_string(), layout.compat.map(|c| c.to_string()));
    let geometry = header.geometry;
    let cluster_size = layout.cluster_size.map(|size| size.bytes().to_string());
    compare("cluster size", geometry.cluster_size().to_string(), cluster_size);
    let bits = layout.refcount_bits.map(|bits| bits.to_string());
    compare("refcount bits", geometry.refcount_order().bits().to_string(), bits);
    let extended = layout.extended_l2.map(|on| on.to_string());
    compare("extended L2", geometry.extended_l2().to_string(), extended);
    let compression = match header.compression {
        CompressionType::Zlib => Compression::Zlib,
        CompressionType::Zstd => Compression::Zstd,
    };
    compare("compression type", compression.to_string(), layout.compression.map(|c| c.to_string()));
    let lazy = header.compatible.contains(crate::qcow2::Compatible::LAZY_REFCOUNTS);
    compare("lazy refcounts", lazy.to_string(), layout.lazy_refcounts.map(|on| on.to_string()));
    differs.extend(backing_difference(existing, header, request)?);
    Ok(differs)
}

/// Whether the backing file is another one than the request names.
fn backing_difference(
    existing: &Existing,
    header: &Header,
    request: &CreateRequest,
) -> Result<Option<String>> {
    use std::os::unix::ffi::OsStrExt;
    let stored = header.backing.as_ref().map(|backing| backing.name.as_slice());
    let asked = request.backing.as_ref().map(|backing| &backing.path);
    let (Some(stored), Some(asked)) = (stored, asked) else {
        return Ok(match (stored, asked) {
            (Some(stored), None) => {
                Some(format!("backing file is '{}', asked for none", stored.escape_ascii()))
            }
            (None, Some(asked)) => {
                Some(format!("there is no backing file, asked for {}", asked.display()))
            }
            _ => None,
        });
    };
    // Both are names; what counts is the file that they lead to.
    let folder = folder_of(existing.storage().path())?;
    let is = resolve(&folder.join(std::ffi::OsStr::from_bytes(stored))).ok();
    let same = is.is_some() && is == resolve(asked).ok();
    Ok((!same).then(|| {
        format!("backing file is '{}', asked for {}", stored.escape_ascii(), asked.display())
    }))
}
