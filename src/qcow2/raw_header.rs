//! The fixed part of the header, byte for byte.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::error::{FormatError, Problem};
use super::lengths::{index, len_of};

/// The first four bytes of every qcow2 image: `QFI` and 0xFB.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the header of version 2.
pub(super) const V2_HEADER_LEN: u32 = 72;
/// The smallest header of version 3, in bytes: without the compression type.
pub(super) const V3_MIN_HEADER_LEN: u32 = 104;
/// What QEMU writes since 5.1: with the compression type and its padding.
pub(super) const V3_HEADER_LEN: u32 = 112;

/// The fixed part of the header as stored, version 3 with the compression type.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RawHeader {
    /// 0: `QFI\xfb`.
    pub(super) magic: [u8; 4],
    /// 4: 2 or 3.
    pub(super) version: U32,
    /// 8: where the backing file name is in the image, or 0.
    pub(super) backing_file_offset: U64,
    /// 16: length of that name, in bytes.
    pub(super) backing_file_size: U32,
    /// 20: logarithm of the cluster size.
    pub(super) cluster_bits: U32,
    /// 24: virtual size in bytes.
    pub(super) size: U64,
    /// 32: 0 none, 1 AES, 2 LUKS.
    pub(super) crypt_method: U32,
    /// 36: entries in the active L1 table.
    pub(super) l1_size: U32,
    /// 40: host offset of the active L1 table.
    pub(super) l1_table_offset: U64,
    /// 48: host offset of the refcount table.
    pub(super) refcount_table_offset: U64,
    /// 56: clusters that the refcount table occupies.
    pub(super) refcount_table_clusters: U32,
    /// 60: number of snapshots.
    pub(super) nb_snapshots: U32,
    /// 64: host offset of the snapshot table.
    pub(super) snapshots_offset: U64,
    /// 72: incompatible features. From here on version 3 only.
    pub(super) incompatible_features: U64,
    /// 80: compatible features.
    pub(super) compatible_features: U64,
    /// 88: autoclear features.
    pub(super) autoclear_features: U64,
    /// 96: logarithm of the width of reference counts.
    pub(super) refcount_order: U32,
    /// 100: length of this structure, in bytes.
    pub(super) header_length: U32,
    /// 104: 0 deflate, 1 zstd; present when `header_length` exceeds 104.
    pub(super) compression_type: u8,
    /// 105: zeros.
    pub(super) padding: [u8; 7],
}

pub(super) const RAW_LEN: usize = 112;
const _: () = assert!(size_of::<RawHeader>() == RAW_LEN);

impl RawHeader {
    /// The fixed part; what a shorter header lacks is zero.
    pub(super) fn read(bytes: &[u8]) -> Result<RawHeader, FormatError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Problem::NoMagic.into());
        }
        let truncated = || Problem::HeaderTruncated { len: len_of(bytes) };
        let mut fixed = [0; RAW_LEN];
        let version = bytes.get(4..8).and_then(|b| b.first_chunk()).copied();
        let len = match version.map(u32::from_be_bytes).ok_or_else(truncated)? {
            2 => index(V2_HEADER_LEN),
            3 => RAW_LEN.min(bytes.len()).max(index(V3_MIN_HEADER_LEN)),
            other => return Err(Problem::Version(other).into()),
        };
        let present = bytes.get(..len).ok_or_else(truncated)?;
        for (to, from) in fixed.iter_mut().zip(present) {
            *to = *from;
        }
        let mut raw: RawHeader = zerocopy::transmute!(fixed);
        if len > index(V3_MIN_HEADER_LEN) && raw.header_length.get() <= V3_MIN_HEADER_LEN {
            raw.compression_type = 0;
        }
        Ok(raw)
    }
}
