//! The choices that requests and reports are made of, by name.

use super::wire::choice;
use crate::guest::PartitionTableKind;
use crate::image::probe;
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
    /// What an image may make us open.
    TrustLevel {
        /// Nothing that it names.
        None = "none",
        /// Regular files at or under its own folder.
        Folder = "folder",
        /// Those, and what is at or under the places in `allow`.
        Named = "named",
        /// Any file.
        Full = "full",
    }
}

choice! {
    /// Whether what is inside of a disk grows with it.
    GuestFs {
        /// It does where it can; else it stays as it is, and the report says why.
        Auto = "auto",
        /// It stays as it is, and is not looked at.
        Off = "off",
        /// It does, or nothing is changed.
        Require = "require",
    }
}

choice! {
    /// Whether all data is read to find zeros in it.
    ReadZeros {
        /// Where there is anything else to give up, or no filesystem says what is free.
        Auto = "auto",
        /// It is.
        Always = "always",
        /// Only what tables and the host's file system know counts as zeros.
        Never = "never",
    }
}

choice! {
    /// A kind of partition table.
    PartitionTable {
        /// The table in the first sector.
        Mbr = "mbr",
        /// GUID partition table.
        Gpt = "gpt",
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

impl From<PartitionTableKind> for PartitionTable {
    fn from(kind: PartitionTableKind) -> Self {
        match kind {
            PartitionTableKind::Mbr => PartitionTable::Mbr,
            PartitionTableKind::Gpt => PartitionTable::Gpt,
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

impl From<Compat> for qcow2::Version {
    fn from(compat: Compat) -> Self {
        match compat {
            Compat::V2 => qcow2::Version::V2,
            Compat::V3 => qcow2::Version::V3,
        }
    }
}

impl From<Compression> for qcow2::CompressionType {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Zlib => qcow2::CompressionType::Zlib,
            Compression::Zstd => qcow2::CompressionType::Zstd,
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
