//! `capabilities`: what this program and this host can do.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Context;
use super::choices::{Compression, Format, Guest, Preallocation, Preset};
use super::payload::{MAX_KEY_FILE, MAX_USERDATA};
use super::verb::{Verb, Visitor, each_verb};
use super::wire::{bytes_hex, choice, lossy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{LockState, abilities_of};
use crate::image::gate::MAX_CHAIN_DEPTH;
use crate::units::{SECTOR_SIZE, VirtualSize};

choice! {
    /// The locks that a file system has.
    Locks {
        /// QEMU's byte locks and `flock`.
        BytesAndFlock = "bytes_and_flock",
        /// QEMU's byte locks alone.
        Bytes = "bytes",
        /// `flock` alone.
        Flock = "flock",
        /// None.
        None = "none",
    }
}

/// A question about what is possible here.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CapabilitiesRequest {
    /// The folder whose file system is tried out, with two small files that are gone at once.
    /// Default: the working directory, if files can be made there.
    pub folder: Option<PathBuf>,
}

/// What this program can do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CapabilitiesReport {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The formats of disks.
    pub formats: Vec<Format>,
    /// The presets for new disks.
    pub presets: Vec<Preset>,
    /// The guests that a new disk can be prepared for.
    pub guests: Vec<Guest>,
    /// What can be laid out from the start.
    pub preallocations: Vec<Preallocation>,
    /// How clusters may be compressed.
    pub compression_types: Vec<Compression>,
    /// What is too small or too large.
    pub limits: LimitsReport,
    /// What the folder's file system can do; not there when no folder was given and the working
    /// directory cannot be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostReport>,
}

/// What is too small or too large.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LimitsReport {
    /// The smallest disk, in bytes; sizes are rounded up to a multiple of it.
    pub min_virtual_size_bytes: u64,
    /// The largest raw disk, in bytes. That of qcow2 depends on the size of its clusters.
    pub max_virtual_size_bytes: u64,
    /// The deepest backing chain, in images.
    pub max_chain_depth: u64,
    /// The largest file with public keys, in bytes.
    pub max_ssh_key_file_bytes: u64,
    /// The largest payload archive, in bytes.
    pub max_userdata_bytes: u64,
}

/// What a file system can do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HostReport {
    /// The folder that was tried.
    pub folder: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder_bytes_hex: Option<String>,
    /// The operating system.
    pub system: String,
    /// The locks that keep two programs from one disk.
    pub locks: Locks,
    /// Whether a file can be copied by sharing its blocks.
    pub reflink: bool,
    /// Whether blocks inside a file can be given back.
    pub punch_hole: bool,
}

/// Tells what is possible.
///
/// # Errors
/// With a folder: [`NotFound`](crate::ErrorKind::NotFound),
/// [`Permission`](crate::ErrorKind::Permission) and the like where no file can be made in it.
pub fn capabilities(request: &CapabilitiesRequest, _: Context<'_>) -> Result<CapabilitiesReport> {
    let mut names = Names(Vec::new());
    each_verb(&mut names);
    Ok(CapabilitiesReport {
        verbs: names.0,
        formats: Format::ALL.to_vec(),
        presets: Preset::ALL.to_vec(),
        guests: Guest::ALL.to_vec(),
        preallocations: Preallocation::ALL.to_vec(),
        compression_types: Compression::ALL.to_vec(),
        limits: LimitsReport {
            min_virtual_size_bytes: SECTOR_SIZE,
            max_virtual_size_bytes: VirtualSize::MAX.bytes(),
            max_chain_depth: MAX_CHAIN_DEPTH as u64,
            max_ssh_key_file_bytes: MAX_KEY_FILE,
            max_userdata_bytes: MAX_USERDATA,
        },
        host: match &request.folder {
            Some(folder) if folder.as_os_str().is_empty() => {
                let message = "an empty path names no folder";
                return Err(Error::new(ErrorKind::BadRequest, message));
            }
            Some(folder) => Some(host(folder)?),
            None => host(Path::new(".")).ok(),
        },
    })
}

struct Names(Vec<String>);

impl Visitor for Names {
    fn visit<V: Verb>(&mut self) {
        self.0.push(V::NAME.to_owned());
    }
}

fn host(folder: &Path) -> Result<HostReport> {
    let abilities = abilities_of(folder)?;
    Ok(HostReport {
        folder: lossy(folder),
        folder_bytes_hex: bytes_hex(folder),
        system: std::env::consts::OS.to_owned(),
        locks: match abilities.locks {
            LockState { ofd: true, flock: true } => Locks::BytesAndFlock,
            LockState { ofd: true, flock: false } => Locks::Bytes,
            LockState { ofd: false, flock: true } => Locks::Flock,
            LockState { ofd: false, flock: false } => Locks::None,
        },
        reflink: abilities.reflink,
        punch_hole: abilities.punch_hole,
    })
}
