//! What exactly an image says that it must not: private detail behind an opaque type, so that new
//! problems never break callers, while tests can compare exact causes.

use thiserror::Error as ThisError;

use crate::error::{Case, Error, ErrorKind};

/// Why an image is not what the format allows. Opaque; its text says what was found and allowed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error(transparent)]
pub struct FormatError(#[from] Problem);

#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub(super) enum Problem {
    #[error("the file ends inside the header: {len} bytes")]
    HeaderTruncated { len: u64 },
    #[error("no qcow2 magic")]
    NoMagic,
    #[error("version {0}: versions 2 and 3 are supported")]
    Version(u32),
    #[error("cluster_bits {0}: allowed are 9 to 21")]
    ClusterBits(u32),
    #[error("refcount_order {0}: allowed are 0 to 6, and 4 alone in version 2")]
    RefcountOrder(u32),
    #[error("extended L2 entries need clusters of at least 16 KiB, found cluster_bits {0}")]
    SubclusterSize(u32),
    #[error("header length {len}: allowed are multiples of 8 from 104 to {max}")]
    HeaderLength { len: u32, max: u64 },
    #[error("unsupported incompatible features: {0}")]
    UnknownIncompatible(String),
    #[error("compression type {0} with its feature bit {1}")]
    CompressionType(u8, &'static str),
    #[error("encryption method {0}: allowed are 0, 1 (AES) and 2 (LUKS)")]
    CryptMethod(u32),
    #[error("header extension {id:#x} of {len} bytes reaches beyond its area")]
    ExtensionTooLong { id: u32, len: u32 },
    #[error("malformed header extension {id:#x}")]
    MalformedExtension { id: u32 },
    #[error(
        "backing file name of {len} bytes at {offset}: it must lie in the first cluster, have at most 1023 bytes and no NUL"
    )]
    BackingName { offset: u64, len: u32 },
    #[error("virtual size {size}: at most {max} with this cluster size")]
    VirtualSize { size: u64, max: u64 },
    #[error("L1 table of {entries} entries: the virtual size needs {needed}, the limit is {max}")]
    L1Size { entries: u32, needed: u64, max: u64 },
    #[error("refcount table of {clusters} clusters: it must have 1 to {max}")]
    RefcountTableSize { clusters: u32, max: u64 },
    #[error("{what} at {offset:#x} is not aligned to a cluster")]
    Unaligned { what: &'static str, offset: u64 },
    #[error(
        "{what} at {offset:#x} with {len} bytes reaches beyond the end of the file at {file_len:#x}"
    )]
    BeyondFile { what: &'static str, offset: u64, len: u64, file_len: u64 },
    #[error("{what} entry {value:#018x} has reserved bits set")]
    ReservedBits { what: &'static str, value: u64 },
    #[error("subcluster bitmap {0:#018x} has subclusters both allocated and zero")]
    SubclusterBitmap(u64),
    #[error("{count} snapshots: the limit is 65536")]
    TooManySnapshots { count: u32 },
    #[error("snapshot with {len} bytes of extra data: the limit is 1024")]
    SnapshotExtra { len: u32 },
    #[error("snapshot with an id of {id_len} bytes and a name of {name_len}: the limit is 1023")]
    SnapshotName { id_len: usize, name_len: usize },
    #[error("the host cluster at {offset:#x} is used twice, the second time as {owner}")]
    UsedTwice { offset: u64, owner: &'static str },
    #[error("the reference count of the host cluster at {offset:#x} is {count}")]
    ImpossibleCount { offset: u64, count: u64 },
    #[error("an entry of the snapshot table makes no sense, or lies beyond the file")]
    SnapshotTable,
    #[error("an entry of the snapshot table does not say how large disk and machine state are")]
    SnapshotIncomplete,
    #[error("guest data lies in an external data file that the image does not name")]
    NamelessData,
    #[error("bitmaps: {0}")]
    Bitmaps(&'static str),
    #[error("encryption header at {offset:#x} with {len} bytes: it is unaligned or too long")]
    EncryptionHeader { offset: u64, len: u64 },
    #[error("a compressed cluster in an image with an external data file")]
    CompressedExternally,
    #[error("compressed data cannot be unpacked")]
    Compressed,
}

impl FormatError {
    /// Whether every reference can be told in spite of it.
    pub(super) const fn leaves_references(&self) -> bool {
        matches!(self.0, Problem::SnapshotIncomplete)
    }

    /// The kind that callers see: what this version cannot do is not damage.
    pub(super) fn kind(&self) -> ErrorKind {
        match self.0 {
            // Types from 2 on are for versions to come.
            Problem::UnknownIncompatible(_)
            | Problem::Version(_)
            | Problem::CompressionType(2.., "set") => ErrorKind::UnsupportedFeature,
            Problem::NoMagic => ErrorKind::FormatMismatch,
            _ => ErrorKind::Corrupt,
        }
    }

    /// Whether it is no damage, but something that this version does not know.
    pub fn is_unsupported(&self) -> bool {
        self.kind() == ErrorKind::UnsupportedFeature
    }

    /// As the crate's error, keeping this as its cause.
    pub(super) fn into_error(self) -> Error {
        let message = match self.kind() {
            ErrorKind::UnsupportedFeature => "this qcow2 image cannot be opened",
            ErrorKind::FormatMismatch => "not a qcow2 image",
            _ => "damaged qcow2 image",
        };
        let (kind, hides_all) = (self.kind(), self.0.hides_all());
        let error = Error::new(kind, message).with_source(self);
        if hides_all { error.in_case(Case::BrokenHeader) } else { error }
    }
}

impl Problem {
    /// Whether nothing behind the header can be found because of it.
    fn hides_all(&self) -> bool {
        match self {
            Problem::L1Size { entries, max, .. } => u64::from(*entries) > *max,
            Problem::HeaderTruncated { .. }
            | Problem::ClusterBits(_)
            | Problem::RefcountOrder(_)
            | Problem::SubclusterSize(_)
            | Problem::HeaderLength { .. }
            | Problem::CompressionType(..)
            | Problem::CryptMethod(_)
            | Problem::ExtensionTooLong { .. }
            | Problem::MalformedExtension { .. }
            | Problem::BackingName { .. }
            | Problem::VirtualSize { .. } => true,
            _ => false,
        }
    }

    /// As the crate's error.
    pub(super) fn into_error(self) -> Error {
        FormatError::from(self).into_error()
    }
}
