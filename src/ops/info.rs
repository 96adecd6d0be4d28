//! `info`: what a disk is. It takes no lock, so it works while a machine runs, and opens nothing
//! that the image names unless the chain is asked for.

mod qemu;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::qemu::{
    QemuBitmap, QemuChild, QemuData, QemuEncryption, QemuInfo, QemuKeySlot, QemuSnapshot,
    QemuSpecific,
};
use super::choices::{Compat, Compression, Format};
use super::context::Context;
use super::wire::{bytes_hex, choice, lossy, stored_text};
use crate::error::Result;
use crate::host::{Access, FileKind, FileStorage, resolve};
use crate::image::chain::{Link, Opening};
use crate::image::journal::{Pending, PendingState, pending};
use crate::image::probe::{self, Evidence, Magic};
use crate::qcow2::{Compatible, Encryption, Header, Incompatible, Snapshot, read_snapshots};

/// A disk that is asked about.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InfoRequest {
    /// The disk.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// Whether to open what is below it, as far as `trust` allows. Default: `false`.
    #[serde(default)]
    pub chain: bool,
    /// Whether to tell it once more in the very fields that `qemu-img info` has. Default: `false`.
    #[serde(default)]
    pub qemu: bool,
}

/// What a disk is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct InfoReport {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// The format of its content.
    pub format: Format,
    /// Why that format would not be believed by a verb that writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_doubt: Option<String>,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The length of the file, in bytes.
    pub file_size_bytes: u64,
    /// What of it is allocated on the host, in bytes.
    pub allocated_bytes: u64,
    /// What only qcow2 has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qcow2: Option<Qcow2Report>,
    /// A journal beside a raw disk: a change of it was interrupted, or is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalReport>,
    /// What is below it, nearest first, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Vec<InfoReport>>,
    /// The same as `qemu-img info --output=json` tells it, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<QemuInfo>,
}

choice! {
    /// What can be done about a journal.
    JournalState {
        /// The next that opens the disk to write to it completes the change.
        Pending = "pending",
        /// It does not fit the disk: nobody writes to the disk while it is there.
        Stale = "stale",
        /// It, or the disk, could not be read.
        Unknown = "unknown",
    }
}

/// A journal beside a raw disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct JournalReport {
    /// Where it is.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// What can be done about it.
    pub state: JournalState,
    /// Why it cannot be acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a qcow2 header says.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Qcow2Report {
    /// The version, as qemu-img calls it.
    pub compat: Compat,
    /// Bytes a cluster.
    pub cluster_size_bytes: u64,
    /// Bits a reference count.
    pub refcount_bits: u64,
    /// Whether L2 entries have subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are packed.
    pub compression_type: Compression,
    /// Whether reference counts may be updated late.
    pub lazy_refcounts: bool,
    /// Whether reference counts may be stale: the image was not closed, or never counts.
    pub dirty: bool,
    /// Whether the image is marked damaged.
    pub corrupt: bool,
    /// Bytes of the header's fixed part.
    pub header_length_bytes: u64,
    /// Entries of the L1 table.
    pub l1_entries: u64,
    /// The encryption method, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The backing file's name as stored. Not trusted, not opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// The backing file's format as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<String>,
    /// The external data file's name as stored. Not trusted, not opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Persistent bitmaps.
    pub bitmaps: u64,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotReport>,
}

/// One internal snapshot.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SnapshotReport {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u64,
    /// Nanoseconds since that second.
    pub date_nanoseconds: u64,
    /// How long the machine had run when it was taken, in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// How many instructions the machine had executed, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// The size of the machine state saved with it, in bytes.
    pub vm_state_bytes: u64,
    /// The size of the disk when it was taken, in bytes; not recorded by old programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size_bytes: Option<u64>,
}

impl SnapshotReport {
    /// What the image says of a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> SnapshotReport {
        SnapshotReport {
            id: stored_text(&snapshot.id),
            name: stored_text(&snapshot.name),
            date_seconds: u64::from(snapshot.date_seconds),
            date_nanoseconds: u64::from(snapshot.date_nanoseconds),
            vm_clock_nanoseconds: snapshot.vm_clock_nanoseconds,
            instructions: snapshot.instructions,
            vm_state_bytes: snapshot.vm_state_bytes,
            virtual_size_bytes: snapshot.disk_size_bytes,
        }
    }
}

/// Reads what the disk says of itself.
///
/// # Errors
/// What opening and [`Header::read`] say; with the chain, as
/// [`Opening::below`](crate::image::chain::Opening::below).
pub fn info(request: &InfoRequest, context: Context<'_>) -> Result<InfoReport> {
    let path = resolve(&request.path)?;
    let storage = FileStorage::open(&path, Access::Read)?;
    let magic = Magic::read(&storage)?;
    let block_device = storage.info()?.kind == FileKind::BlockDevice;
    let evidence = Evidence { path: &path, block_device, magic };
    let (format, doubt) = evidence.report(request.format.map(probe::Format::from));
    let link = Link::open(&path, format, storage)?;
    let mut report = describe(&link, &request.path)?;
    report.format_doubt = doubt;
    if request.qemu {
        report.qemu = Some(qemu::describe(&link, &lossy(&request.path))?);
    }
    if request.chain {
        let opening = Opening { trust: context.trust, locks: None, cancel: context.cancel };
        let below = opening.below(&link, &[])?;
        let mut chain: Vec<InfoReport> = Vec::new();
        for link in &below {
            let mut found = describe(link, &link.path)?;
            let above = chain.last().unwrap_or(&report).qemu.as_ref();
            let name = above.and_then(|above| above.full_backing_filename.clone());
            found.qemu = name.map(|name| qemu::describe(link, &name)).transpose()?;
            chain.push(found);
        }
        report.chain = Some(chain);
    }
    Ok(report)
}

fn describe(link: &Link, path: &Path) -> Result<InfoReport> {
    let info = link.storage.info()?;
    let header = link.header.as_ref();
    Ok(InfoReport {
        path: lossy(path),
        path_bytes_hex: bytes_hex(path),
        format: link.format.into(),
        format_doubt: None,
        virtual_size_bytes: header.map_or(info.len, |header| header.virtual_size),
        file_size_bytes: info.len,
        allocated_bytes: info.allocated_bytes,
        qcow2: header.map(|header| describe_qcow2(&link.storage, header, path)).transpose()?,
        journal: JournalReport::beside(link)?,
        chain: None,
        qemu: None,
    })
}

impl JournalReport {
    /// The journal beside a disk, if there is one.
    pub(super) fn beside(link: &Link) -> Result<Option<JournalReport>> {
        match link.format {
            probe::Format::Raw => Ok(pending(&link.path)?.map(JournalReport::from)),
            probe::Format::Qcow2 => Ok(None),
        }
    }

    fn from(found: Pending) -> JournalReport {
        let (state, reason) = match found.state {
            PendingState::Pending => (JournalState::Pending, None),
            PendingState::Stale(reason) => (JournalState::Stale, Some(reason)),
            PendingState::Unknown(reason) => (JournalState::Unknown, Some(reason)),
        };
        JournalReport {
            path: lossy(&found.journal),
            path_bytes_hex: bytes_hex(&found.journal),
            state,
            reason,
        }
    }
}

fn describe_qcow2(storage: &FileStorage, header: &Header, path: &Path) -> Result<Qcow2Report> {
    let backing = header.backing.as_ref();
    let snapshots = read_snapshots(storage, header).map_err(|error| error.at_path(path))?;
    Ok(Qcow2Report {
        compat: header.version.into(),
        cluster_size_bytes: header.geometry.cluster_size(),
        refcount_bits: header.geometry.refcount_order().bits(),
        extended_l2: header.geometry.extended_l2(),
        compression_type: header.compression.into(),
        lazy_refcounts: header.compatible.contains(Compatible::LAZY_REFCOUNTS),
        dirty: header.incompatible.contains(Incompatible::DIRTY),
        corrupt: header.incompatible.contains(Incompatible::CORRUPT),
        header_length_bytes: u64::from(header.header_length),
        l1_entries: u64::from(header.l1.count),
        encryption: match header.encryption {
            Encryption::None => None,
            Encryption::Aes => Some("aes".to_owned()),
            Encryption::Luks => Some("luks".to_owned()),
        },
        backing_file: backing.map(|backing| stored_text(&backing.name)),
        backing_format: backing.and_then(|b| b.format.as_deref()).map(stored_text),
        data_file: header.data_file().map(stored_text),
        bitmaps: header.bitmaps().map_or(0, |directory| u64::from(directory.count)),
        snapshots: snapshots.iter().map(SnapshotReport::of).collect(),
    })
}
