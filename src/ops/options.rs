//! The choices that a request can make about a new disk.

use std::path::PathBuf;

use super::wire::choice;
use crate::image::probe;
use crate::units::ByteSize;
use crate::{qcow2, raw};

choice! {
    /// The format of a disk.
    Format {
        /// qcow2.
        Qcow2 = "qcow2",
        /// The guest's bytes and nothing else.
        Raw = "raw",
    }
}

choice! {
    /// Who will use the disk: sets defaults, and refuses what that program cannot read.
    Preset {
        /// QEMU and everything that reads what QEMU writes.
        Qemu = "qemu",
        /// hyperkit and its OCaml qcow library.
        Hyperkit = "hyperkit",
        /// Programs that read version 2 only.
        Compat010 = "compat-0.10",
    }
}

choice! {
    /// The version of qcow2, as qemu-img calls it.
    Compat {
        /// Version 2.
        V2 = "0.10",
        /// Version 3.
        V3 = "1.1",
    }
}

choice! {
    /// How compressed clusters will be packed.
    Compression {
        /// Deflate.
        Zlib = "zlib",
        /// Zstandard.
        Zstd = "zstd",
    }
}

choice! {
    /// What is laid out before the guest writes anything.
    Preallocation {
        /// Nothing.
        Off = "off",
        /// Every L2 table, its entries unallocated, so that a backing file shows through.
        Tables = "tables",
        /// An address for every cluster; the file stays sparse.
        Metadata = "metadata",
        /// The host file system reserves the room.
        Falloc = "falloc",
        /// Zeros are written.
        Full = "full",
    }
}

choice! {
    /// The guest that will find its payload at the beginning of the disk.
    Guest {
        /// boot2docker and docker-machine's own guests.
        Boot2docker = "boot2docker",
        /// minikube.
        Minikube = "minikube",
        /// RancherOS.
        Rancheros = "rancheros",
        /// None: nothing is written.
        None = "none",
    }
}

choice! {
    /// How the backing file's name is stored.
    BackingStore {
        /// Relative to the new image's folder.
        Relative = "relative",
        /// From the root.
        Absolute = "absolute",
        /// The characters as given, which the image's readers resolve against its folder.
        AsGiven = "as-given",
    }
}

choice! {
    /// What to do when the target exists.
    IfExists {
        /// Refuse.
        Fail = "fail",
        /// Keep it if it is what was asked for.
        Keep = "keep",
        /// Replace it by the new disk, atomically.
        Replace = "replace",
    }
}

impl From<Format> for probe::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => probe::Format::Qcow2,
            Format::Raw => probe::Format::Raw,
        }
    }
}

impl From<probe::Format> for Format {
    fn from(format: probe::Format) -> Self {
        match format {
            probe::Format::Qcow2 => Format::Qcow2,
            probe::Format::Raw => Format::Raw,
        }
    }
}

impl From<Preallocation> for qcow2::Preallocation {
    fn from(preallocation: Preallocation) -> Self {
        match preallocation {
            Preallocation::Off => qcow2::Preallocation::Off,
            Preallocation::Tables => qcow2::Preallocation::Tables,
            Preallocation::Metadata => qcow2::Preallocation::Metadata,
            Preallocation::Falloc => qcow2::Preallocation::Falloc,
            Preallocation::Full => qcow2::Preallocation::Full,
        }
    }
}

impl From<qcow2::Preallocation> for Preallocation {
    fn from(preallocation: qcow2::Preallocation) -> Self {
        match preallocation {
            qcow2::Preallocation::Off => Preallocation::Off,
            qcow2::Preallocation::Tables => Preallocation::Tables,
            qcow2::Preallocation::Metadata => Preallocation::Metadata,
            qcow2::Preallocation::Falloc => Preallocation::Falloc,
            qcow2::Preallocation::Full => Preallocation::Full,
        }
    }
}

impl From<qcow2::Version> for Compat {
    fn from(version: qcow2::Version) -> Self {
        match version {
            qcow2::Version::V2 => Compat::V2,
            qcow2::Version::V3 => Compat::V3,
        }
    }
}

impl From<qcow2::CompressionType> for Compression {
    fn from(compression: qcow2::CompressionType) -> Self {
        match compression {
            qcow2::CompressionType::Zlib => Compression::Zlib,
            qcow2::CompressionType::Zstd => Compression::Zstd,
        }
    }
}

impl Preallocation {
    /// What it means for a raw disk, which has no metadata to lay out.
    pub(super) fn for_raw(self) -> Option<raw::RawAllocation> {
        match self {
            Preallocation::Off => Some(raw::RawAllocation::Sparse),
            Preallocation::Falloc => Some(raw::RawAllocation::Reserve),
            Preallocation::Full => Some(raw::RawAllocation::Zeros),
            Preallocation::Tables | Preallocation::Metadata => None,
        }
    }
}

/// How a new disk is laid out. What is not said is decided by the preset.
#[derive(Debug, Clone, Default)]
pub struct LayoutOptions {
    /// Who will use the disk.
    pub preset: Option<Preset>,
    /// The version of qcow2.
    pub compat: Option<Compat>,
    /// Bytes a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: Option<ByteSize>,
    /// Bits a reference count: a power of two from 1 to 64.
    pub refcount_bits: Option<u64>,
    /// Whether L2 entries have subclusters.
    pub extended_l2: Option<bool>,
    /// How compressed clusters will be packed.
    pub compression: Option<Compression>,
    /// Whether reference counts may be updated late.
    pub lazy_refcounts: Option<bool>,
    /// What is laid out from the start.
    pub preallocation: Option<Preallocation>,
    /// Whether btrfs is asked not to copy the file on every write.
    pub nocow: bool,
}

/// The backing file of a new overlay.
#[derive(Debug, Clone)]
pub struct BackingOptions {
    /// The file, relative to the working directory (with `as-given`: to the new image's folder).
    pub path: PathBuf,
    /// Its format; probed for qcow2 when not given, never guessed to be raw.
    pub format: Option<Format>,
    /// How its name is stored; by default relative where it lies at most one folder up.
    pub store: Option<BackingStore>,
}

/// What the guest will find at the beginning of the disk.
#[derive(Debug, Clone, Default)]
pub struct GuestOptions {
    /// The guest; boot2docker without a backing file, none above one unless keys are given.
    pub guest: Option<Guest>,
    /// Files with public keys.
    pub ssh_keys: Vec<PathBuf>,
    /// A ready payload archive instead of keys.
    pub userdata: Option<PathBuf>,
    /// Whether a guest's partition table or filesystem may be overwritten.
    pub overwrite: bool,
}

/// A disk that is asked for.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Where.
    pub path: PathBuf,
    /// How large; above a backing file, its size when not given.
    pub size: Option<ByteSize>,
    /// The format; by default what the path's name promises, else qcow2.
    pub format: Option<Format>,
    /// How it is laid out.
    pub layout: LayoutOptions,
    /// What it lies above.
    pub backing: Option<BackingOptions>,
    /// What the guest will find.
    pub guest: GuestOptions,
    /// What to do when the path exists.
    pub if_exists: IfExists,
    /// The file's permission bits; 0600 when not given.
    pub mode: Option<u32>,
    /// The file's owner, as `user` or `user:group`, by name or number.
    pub owner: Option<String>,
}

impl CreateRequest {
    /// A qcow2 or raw disk at `path` with every default.
    pub fn new(path: impl Into<PathBuf>, size: Option<ByteSize>) -> Self {
        CreateRequest {
            path: path.into(),
            size,
            format: None,
            layout: LayoutOptions::default(),
            backing: None,
            guest: GuestOptions::default(),
            if_exists: IfExists::Fail,
            mode: None,
            owner: None,
        }
    }

    /// The format asked for, or promised by the name.
    pub(super) fn format(&self) -> Format {
        let promised = || probe::Format::promised_by(&self.path).map(Format::from);
        self.format.or_else(promised).unwrap_or(Format::Qcow2)
    }
}
