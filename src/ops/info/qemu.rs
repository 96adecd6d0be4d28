//! What a disk is, in the very fields of `qemu-img info --output=json`, as QEMU 10 prints them, for
//! programs that parse those. Names that an image stores stand there as they are, as with `qemu-img`;
//! bytes that are not UTF-8 are replaced.

mod luks;

use schemars::JsonSchema;
use serde::Serialize;

pub use luks::{QemuEncryption, QemuKeySlot};

use crate::error::Result;
use crate::host::FileKind;
use crate::image::chain::Link;
use crate::qcow2::{
    Autoclear, Bitmap, Compatible, Encryption, Header, Incompatible, Snapshot, Version,
    read_bitmaps, read_snapshots,
};

/// What `qemu-img` tells of a disk, or of the file that it is in.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QemuInfo {
    /// What it consists of: the file that the disk is in.
    pub children: Vec<QemuChild>,
    /// The backing file's format, as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<QemuSnapshot>,
    /// The size of the guest's disk in bytes; of the file, rounded up to 512 bytes.
    pub virtual_size: u64,
    /// Where it is, as it was asked for.
    pub filename: String,
    /// Bytes a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Its format; of the file, `file` or `host_device`.
    pub format: String,
    /// What of the file is allocated on the host, in bytes.
    pub actual_size: u64,
    /// Whether the guest's data is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<QemuSpecific>,
    /// The backing file's name, with the folder of the image before it if it is relative.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's name as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// Whether reference counts may be stale.
    pub dirty_flag: bool,
}

/// One of the things that a disk consists of.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QemuChild {
    /// What it is for: `file`.
    pub name: String,
    /// What it is.
    pub info: QemuInfo,
}

/// What only one format has.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QemuSpecific {
    /// The format.
    #[serde(rename = "type")]
    pub kind: String,
    /// What that has; nothing, of a file.
    pub data: QemuData,
}

/// What only qcow2 has. Version 2 says no more than the first two and the width of counts.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QemuData {
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<String>,
    /// How compressed clusters are packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_type: Option<String>,
    /// Whether reference counts may be updated late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Persistent bitmaps, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<QemuBitmap>,
    /// Bits a reference count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refcount_bits: Option<u64>,
    /// The external data file's name as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether that is the disk, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether the image is marked damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// Whether L2 entries have subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// How guest data is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<QemuEncryption>,
}

/// One internal snapshot.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct QemuSnapshot {
    /// How many instructions the machine had executed, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// How long the machine had run: nanoseconds since the last second.
    pub vm_clock_nsec: u64,
    /// Its name.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_sec: u64,
    /// Nanoseconds since that second.
    pub date_nsec: u64,
    /// How long the machine had run, in whole seconds.
    pub vm_clock_sec: u64,
    /// Its id.
    pub id: String,
    /// The size of the machine state saved with it, in bytes.
    pub vm_state_size: u64,
}

/// One persistent bitmap.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QemuBitmap {
    /// Those of `in-use` and `auto` that it has.
    pub flags: Vec<String>,
    /// Its name.
    pub name: String,
    /// Bytes of the disk that a bit stands for.
    pub granularity: u64,
}

/// What `qemu-img` tells of a disk that goes by this name.
pub(super) fn describe(link: &Link, filename: &str) -> Result<QemuInfo> {
    let file = describe_file(link, filename)?;
    let Some(header) = &link.header else {
        let format = link.format.name().to_owned();
        let children = vec![QemuChild { name: "file".to_owned(), info: file.clone() }];
        return Ok(QemuInfo { children, format, format_specific: None, ..file });
    };
    let at_path = |error: crate::Error| error.at_path(&link.path);
    let snapshots = read_snapshots(&link.storage, header).map_err(at_path)?;
    let bitmaps = read_bitmaps(&link.storage, header).map_err(at_path)?;
    let encrypt = QemuEncryption::read(&link.storage, header).map_err(at_path)?;
    let backing = header.backing.as_ref();
    let backing_filename = backing.map(|backing| text(&backing.name));
    Ok(QemuInfo {
        backing_filename_format: backing.and_then(|backing| backing.format.as_deref()).map(text),
        snapshots: snapshots.iter().map(QemuSnapshot::of).collect(),
        virtual_size: header.virtual_size,
        cluster_size: Some(header.geometry.cluster_size()),
        format: link.format.name().to_owned(),
        encrypted: (header.encryption != Encryption::None).then_some(true),
        format_specific: Some(QemuSpecific {
            kind: link.format.name().to_owned(),
            data: QemuData::of(header, &bitmaps, encrypt),
        }),
        full_backing_filename: backing_filename.as_ref().map(|name| joined(filename, name)),
        backing_filename,
        dirty_flag: header.incompatible.contains(Incompatible::DIRTY),
        children: vec![QemuChild { name: "file".to_owned(), info: file.clone() }],
        ..file
    })
}

fn describe_file(link: &Link, filename: &str) -> Result<QemuInfo> {
    let info = link.storage.info()?;
    let format = match info.kind {
        FileKind::Regular => "file",
        FileKind::BlockDevice => "host_device",
    };
    let kind = format.to_owned();
    Ok(QemuInfo {
        children: Vec::new(),
        backing_filename_format: None,
        snapshots: Vec::new(),
        virtual_size: info.len.next_multiple_of(512),
        filename: filename.to_owned(),
        cluster_size: None,
        format: format.to_owned(),
        actual_size: info.allocated_bytes,
        encrypted: None,
        format_specific: Some(QemuSpecific { kind, data: QemuData::default() }),
        full_backing_filename: None,
        backing_filename: None,
        dirty_flag: false,
    })
}

impl QemuData {
    fn of(header: &Header, bitmaps: &[Bitmap], encrypt: Option<QemuEncryption>) -> QemuData {
        let is_v3 = header.version == Version::V3;
        let v3 = |flag: bool| is_v3.then_some(flag);
        let raw_data = header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA);
        let data_file = header.data_file().filter(|_| header.has_external_data());
        QemuData {
            compat: Some(super::Compat::from(header.version).name().to_owned()),
            compression_type: Some(super::Compression::from(header.compression).name().to_owned()),
            lazy_refcounts: v3(header.compatible.contains(Compatible::LAZY_REFCOUNTS)),
            bitmaps: bitmaps.iter().map(QemuBitmap::of).collect(),
            refcount_bits: Some(header.geometry.refcount_order().bits()),
            data_file: data_file.map(text),
            data_file_raw: header.has_external_data().then_some(raw_data),
            corrupt: v3(header.incompatible.contains(Incompatible::CORRUPT)),
            extended_l2: v3(header.geometry.extended_l2()),
            encrypt,
        }
    }
}

impl QemuSnapshot {
    fn of(snapshot: &Snapshot) -> QemuSnapshot {
        const SECOND: u64 = 1_000_000_000;
        QemuSnapshot {
            icount: snapshot.instructions,
            vm_clock_nsec: snapshot.vm_clock_nanoseconds % SECOND,
            name: text(&snapshot.name),
            date_sec: snapshot.date_seconds.into(),
            date_nsec: snapshot.date_nanoseconds.into(),
            vm_clock_sec: snapshot.vm_clock_nanoseconds / SECOND,
            id: text(&snapshot.id),
            vm_state_size: snapshot.vm_state_bytes,
        }
    }
}

impl QemuBitmap {
    fn of(bitmap: &Bitmap) -> QemuBitmap {
        let flags = [(bitmap.is_in_use(), "in-use"), (bitmap.is_enabled(), "auto")];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned());
        QemuBitmap {
            flags: flags.collect(),
            name: text(&bitmap.name),
            granularity: bitmap.granularity.bytes(),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name that an image stores, as seen from where the image's own name is: one that is absolute, or
/// names a protocol, stands for itself.
fn joined(image: &str, name: &str) -> String {
    let protocol = name.split('/').next().is_some_and(|first| first.contains(':'));
    let folder = image.rfind('/').and_then(|slash| image.get(..=slash)).unwrap_or_default();
    if name.starts_with('/') || protocol { name.to_owned() } else { format!("{folder}{name}") }
}
