//! The header, behind three doors: [`RawHeader`] is bytes, [`UncheckedHeader`] is what they mean,
//! and only a [`Header`], whose every bound was checked against the file, leads to the tables.
//!
//! Field layout: `docs/interop/qcow2`, section "Header".

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U32, U64};

use super::entry::{L2Entry, Mapping};
use super::error::{FormatError, Problem};
use super::extension::Extension;
use super::feature::{Autoclear, Compatible, FeatureKind, Incompatible};
use super::first_cluster::read_first_cluster;
use super::geometry::{
    ClusterBits, ENTRY_SIZE, Geometry, HostOffset, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES,
    RefcountOrder,
};
use super::lengths::{index, len_of};
use super::raw_header::{MAGIC, RAW_LEN, RawHeader, V2_HEADER_LEN, V3_MIN_HEADER_LEN};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::Storage;

/// The longest backing file name that the format allows, in bytes.
pub const MAX_BACKING_NAME: usize = 1023;
/// The most snapshots that QEMU accepts.
pub(super) const MAX_SNAPSHOTS: u32 = 65_536;

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `compat=0.10`: no feature bits, no zero clusters, 16-bit reference counts.
    V2,
    /// `compat=1.1`.
    V3,
}

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate.
    Zlib,
    /// One Zstandard frame a cluster.
    Zstd,
}

/// How guest data is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// The legacy AES-CBC method.
    Aes,
    /// LUKS.
    Luks,
}

/// A table in the image file: where it begins, and how many entries or clusters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef {
    /// Host offset of the first entry.
    pub offset: HostOffset,
    /// Entries (L1 table, snapshot table) or clusters (refcount table).
    pub count: u32,
}

/// The backing file as the image names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingName {
    /// The name: relative to the image's folder unless absolute. Not trusted.
    pub name: Vec<u8>,
    /// The format that the image records for it.
    pub format: Option<Vec<u8>>,
}

/// What the header says, before any bound was checked against the file.
#[derive(Debug, Clone)]
pub(super) struct UncheckedHeader {
    raw: RawHeader,
    header: Header,
}

/// A header that keeps all of the format's rules, with its tables inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The version of the format.
    pub version: Version,
    /// Cluster size, reference count width and L2 entry form.
    pub geometry: Geometry,
    /// The size of the guest's disk, in bytes.
    pub virtual_size: u64,
    /// The backing file.
    pub backing: Option<BackingName>,
    /// How guest data is encrypted.
    pub encryption: Encryption,
    /// The active L1 table; its count is entries.
    pub l1: TableRef,
    /// The refcount table; its count is clusters.
    pub refcount_table: TableRef,
    /// The snapshot table; its count is snapshots.
    pub snapshots: TableRef,
    /// Incompatible feature bits.
    pub incompatible: Incompatible,
    /// Compatible feature bits.
    pub compatible: Compatible,
    /// Autoclear feature bits.
    pub autoclear: Autoclear,
    /// How compressed clusters are packed.
    pub compression: CompressionType,
    /// The length of the fixed part, in bytes.
    pub header_length: u32,
    /// What the fixed part has beyond what this version knows.
    pub unknown_tail: Vec<u8>,
    /// The extensions in their order, without the end marker.
    pub extensions: Vec<Extension>,
}

impl UncheckedHeader {
    /// Gives the beginning of the file its meaning: a cluster of it, or what of that the header
    /// needs.
    pub(super) fn parse(bytes: &[u8]) -> Result<UncheckedHeader, FormatError> {
        let raw = RawHeader::read(bytes)?;
        let bits = raw.cluster_bits.get();
        let bits = ClusterBits::new(bits).ok_or(Problem::ClusterBits(bits))?;
        let bytes = bytes.get(..index(bits.cluster_size())).unwrap_or(bytes);
        let v3 = raw.version.get() == 3;
        let header_length = if v3 { raw.header_length.get() } else { V2_HEADER_LEN };
        check_header_length(v3, header_length, bits)?;
        let area = extension_area(bytes, &raw, header_length)?;
        let extensions = Extension::parse_all(area)?;

        let incompatible =
            Incompatible::from_bits(if v3 { raw.incompatible_features.get() } else { 0 });
        refuse_unknown(incompatible, &extensions)?;
        let order = if v3 { raw.refcount_order.get() } else { RefcountOrder::DEFAULT.get() };
        let order = RefcountOrder::new(order).ok_or(Problem::RefcountOrder(order))?;
        let geometry = Geometry::new(bits, order, incompatible.contains(Incompatible::EXTENDED_L2))
            .ok_or(Problem::SubclusterSize(bits.get()))?;
        let tail = bytes.get(RAW_LEN..index(header_length)).unwrap_or_default().to_vec();
        let header = Header {
            version: if v3 { Version::V3 } else { Version::V2 },
            geometry,
            virtual_size: raw.size.get(),
            backing: backing_name(bytes, &raw, bits, &extensions)?,
            encryption: encryption(raw.crypt_method.get())?,
            l1: table(raw.l1_table_offset, raw.l1_size),
            refcount_table: table(raw.refcount_table_offset, raw.refcount_table_clusters),
            snapshots: table(raw.snapshots_offset, raw.nb_snapshots),
            incompatible,
            compatible: Compatible::from_bits(if v3 { raw.compatible_features.get() } else { 0 }),
            autoclear: Autoclear::from_bits(if v3 { raw.autoclear_features.get() } else { 0 }),
            compression: compression(raw.compression_type, incompatible)?,
            header_length,
            unknown_tail: tail,
            extensions,
        };
        Ok(UncheckedHeader { raw, header })
    }

    /// The length of the fixed part, in bytes.
    pub(super) const fn header_length(&self) -> u32 {
        self.header.header_length
    }

    /// Checks what is bounded by the format alone: the size of the disk and of its L1 table, which
    /// may lie anywhere, and be too short.
    pub(super) fn verify_limits(self) -> Result<Header, FormatError> {
        let header = self.header;
        let max = header.geometry.max_virtual_size();
        let size = header.virtual_size;
        if size > max {
            return Err(Problem::VirtualSize { size, max }.into());
        }
        let entries = header.l1.count;
        let (needed, max) = (header.geometry.l1_entries_for(size), MAX_L1_BYTES / ENTRY_SIZE);
        if u64::from(entries) > max {
            return Err(Problem::L1Size { entries, needed, max }.into());
        }
        Ok(header)
    }

    /// Checks every bound against the format's limits and the length of the file.
    pub(super) fn verify(self, file_len: u64) -> Result<Header, FormatError> {
        let raw = self.raw;
        let header = self.verify_limits()?;
        let geometry = header.geometry;
        let entries = header.l1.count;
        let needed = geometry.l1_entries_for(header.virtual_size);
        if u64::from(entries) < needed {
            let max = MAX_L1_BYTES / ENTRY_SIZE;
            return Err(Problem::L1Size { entries, needed, max }.into());
        }
        let clusters = header.refcount_table.count;
        let max = geometry.clusters_for(MAX_REFCOUNT_TABLE_BYTES).get();
        if clusters == 0 || u64::from(clusters) > max {
            return Err(Problem::RefcountTableSize { clusters, max }.into());
        }
        let inside = Bounds { geometry, file_len };
        if entries > 0 {
            inside.check(
                "L1 table",
                header.l1.offset,
                u64::from(entries).saturating_mul(ENTRY_SIZE),
            )?;
        }
        let table_len = u64::from(clusters).saturating_mul(geometry.cluster_size());
        inside.check("refcount table", header.refcount_table.offset, table_len)?;
        let count = raw.nb_snapshots.get();
        if count > MAX_SNAPSHOTS {
            return Err(Problem::TooManySnapshots { count }.into());
        }
        if count > 0 {
            inside.check(
                "snapshot table",
                header.snapshots.offset,
                u64::from(count).saturating_mul(40),
            )?;
        } else if !geometry.is_aligned(header.snapshots.offset) {
            // QEMU refuses even the place of a table without entries.
            let offset = header.snapshots.offset.get();
            return Err(Problem::Unaligned { what: "snapshot table", offset }.into());
        }
        Ok(header)
    }
}

impl Header {
    /// Reads and checks the header of the image in `storage`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), [`UnsupportedFeature`](crate::ErrorKind::UnsupportedFeature)
    /// for versions and feature bits beyond this version, [`FormatMismatch`](crate::ErrorKind::FormatMismatch)
    /// without the magic, and what the storage says.
    pub fn read(storage: &dyn Storage) -> Result<Header> {
        let file_len = storage.len()?;
        let bytes = read_first_cluster(storage)?;
        let header =
            UncheckedHeader::parse(&bytes).and_then(|unchecked| unchecked.verify(file_len));
        header.map_err(FormatError::into_error)
    }

    /// Reads the header of an image whose tables may lie anywhere: for [`Salvager`] alone, which
    /// expects that.
    ///
    /// [`Salvager`]: super::Salvager
    ///
    /// # Errors
    /// As [`read`](Self::read), of the header itself.
    pub fn read_past_damage(storage: &dyn Storage) -> Result<Header> {
        let bytes = read_first_cluster(storage)?;
        let header = UncheckedHeader::parse(&bytes).and_then(UncheckedHeader::verify_limits);
        header.map_err(FormatError::into_error)
    }

    /// The bytes of the first cluster up to the last that means something: header, extensions,
    /// backing file name. `None` when they do not fit in a cluster.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let body = Body::of(self);
        let mut bytes = self.encode_fixed(&body, index(self.header_length))?;
        bytes.extend(&body.bytes);
        (bytes.len() <= self.geometry.cluster_len()).then_some(bytes)
    }

    /// The fixed part, `header_length` bytes, of a header whose other parts begin at `body_at`.
    pub(super) fn encode_fixed(&self, body: &Body, body_at: usize) -> Option<Vec<u8>> {
        let name = match body.name_len {
            0 => (0, 0),
            len => (body_at.checked_add(body.name_at)?, len),
        };
        let raw = self.raw(u64::try_from(name.0).ok()?, u32::try_from(name.1).ok()?);
        let known = index(self.header_length).min(RAW_LEN);
        Some([raw.as_bytes().get(..known)?, &self.unknown_tail].concat())
    }

    /// What changes in the life of an image, as one write inside the header's first sector: its
    /// offset in the file and its bytes. The magic, the backing file name and the cluster size stay
    /// as they are.
    pub(super) fn encode_switch(&self) -> (u64, Vec<u8>) {
        const SIZE_AT: usize = 24;
        let end = index(self.header_length.min(V3_MIN_HEADER_LEN));
        let raw = self.raw(0, 0);
        let bytes = raw.as_bytes().get(SIZE_AT..end).unwrap_or_default();
        (24, bytes.to_vec())
    }

    fn raw(&self, backing_file_offset: u64, backing_file_size: u32) -> RawHeader {
        RawHeader {
            magic: MAGIC,
            version: U32::new(match self.version {
                Version::V2 => 2,
                Version::V3 => 3,
            }),
            backing_file_offset: U64::new(backing_file_offset),
            backing_file_size: U32::new(backing_file_size),
            cluster_bits: U32::new(self.geometry.cluster_bits().get()),
            size: U64::new(self.virtual_size),
            crypt_method: U32::new(match self.encryption {
                Encryption::None => 0,
                Encryption::Aes => 1,
                Encryption::Luks => 2,
            }),
            l1_size: U32::new(self.l1.count),
            l1_table_offset: U64::new(self.l1.offset.get()),
            refcount_table_offset: U64::new(self.refcount_table.offset.get()),
            refcount_table_clusters: U32::new(self.refcount_table.count),
            nb_snapshots: U32::new(self.snapshots.count),
            snapshots_offset: U64::new(self.snapshots.offset.get()),
            incompatible_features: U64::new(self.incompatible.bits()),
            compatible_features: U64::new(self.compatible.bits()),
            autoclear_features: U64::new(self.autoclear.bits()),
            refcount_order: U32::new(self.geometry.refcount_order().get()),
            header_length: U32::new(self.header_length),
            compression_type: match self.compression {
                CompressionType::Zlib => 0,
                CompressionType::Zstd => 1,
            },
            padding: [0; 7],
        }
    }

    /// What an L2 entry of the image says.
    pub(super) fn mapping(&self, entry: L2Entry) -> Result<Mapping, FormatError> {
        if self.version == Version::V2 && entry.has_zero_flag() {
            return Err(Problem::ReservedBits { what: "L2", value: entry.word }.into());
        }
        if self.has_external_data() && entry.is_at_zero() {
            return entry.decode_at_zero(self.geometry);
        }
        entry.decode(self.geometry)
    }

    /// Whether guest data lives in a file of its own.
    pub fn has_external_data(&self) -> bool {
        self.incompatible.contains(Incompatible::EXTERNAL_DATA)
    }

    /// Refuses an image with an external data file, for what cannot change that file with it.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature).
    pub fn require_own_data(&self) -> Result<()> {
        if self.has_external_data() {
            let message = "the image keeps its data in an external data file";
            let refused = Error::new(ErrorKind::UnsupportedFeature, message);
            return Err(refused.in_case(Case::ExternalData));
        }
        Ok(())
    }

    /// Refuses an encrypted image: nothing here has its key.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature).
    pub fn require_not_encrypted(&self) -> Result<()> {
        let how = match self.encryption {
            Encryption::None => return Ok(()),
            Encryption::Aes => "AES",
            Encryption::Luks => "LUKS",
        };
        let message = format!("the image is encrypted ({how})");
        let refused = Error::new(ErrorKind::UnsupportedFeature, message);
        Err(refused.in_case(Case::Encrypted))
    }

    /// Refuses an image that is marked corrupt, for what changes it.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt).
    pub fn require_not_corrupt(&self) -> Result<()> {
        if self.incompatible.contains(Incompatible::CORRUPT) {
            let refused = Error::new(ErrorKind::Corrupt, "the image is marked corrupt");
            return Err(refused.in_case(Case::MarkedCorrupt));
        }
        Ok(())
    }

    /// Whether the image is of the kind that hyperkit's library makes and never counts: lazy and
    /// dirty, with a header of 104 bytes.
    pub fn is_for_hyperkit(&self) -> bool {
        self.incompatible.contains(Incompatible::DIRTY) && self.is_lazy_for_hyperkit()
    }

    /// As [`is_for_hyperkit`](Self::is_for_hyperkit), dirty or not: that program never counts what
    /// it adds to such an image.
    pub(super) fn is_lazy_for_hyperkit(&self) -> bool {
        self.compatible.contains(Compatible::LAZY_REFCOUNTS)
            && self.header_length == V3_MIN_HEADER_LEN
    }

    /// Whether an entry may say that a cluster is zeros: not in version 2, and not where hyperkit's
    /// reader, which takes no longer header than that of 104 bytes, may be the one that reads it. It
    /// takes such an entry for the header's own cluster, and lets its guest write there.
    pub(super) fn may_say_zero(&self) -> bool {
        self.version == Version::V3 && self.header_length > V3_MIN_HEADER_LEN
    }

    /// Where the bitmaps are, if the image has any.
    pub fn bitmaps(&self) -> Option<super::extension::BitmapDirectory> {
        self.extensions.iter().find_map(|extension| match extension {
            Extension::Bitmaps(directory) => Some(*directory),
            _ => None,
        })
    }

    /// The name of the external data file, if the image names one.
    pub fn data_file(&self) -> Option<&[u8]> {
        self.extensions.iter().find_map(|extension| match extension {
            Extension::ExternalData(name) => Some(name.as_slice()),
            _ => None,
        })
    }
}

/// What follows the header's fixed part: extensions, and the backing file name behind them.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Where the name begins in it.
    name_at: usize,
    name_len: usize,
}

impl Body {
    pub(super) fn of(header: &Header) -> Body {
        let mut bytes = Extension::encode_all(&header.extensions);
        let name = header.backing.as_ref().map_or(&[][..], |backing| &backing.name);
        let name_at = bytes.len();
        bytes.extend(name);
        Body { bytes, name_at, name_len: name.len() }
    }
}

/// Bounds that a table claimed by the header must keep.
pub(super) struct Bounds {
    pub(super) geometry: Geometry,
    pub(super) file_len: u64,
}

impl Bounds {
    pub(super) fn check(
        &self,
        what: &'static str,
        offset: HostOffset,
        len: u64,
    ) -> Result<(), FormatError> {
        if !self.geometry.is_aligned(offset) || offset == HostOffset::ZERO {
            return Err(Problem::Unaligned { what, offset: offset.get() }.into());
        }
        // The last cluster of a file may be cut short: what is missing was never written.
        let file_end = self.file_len.next_multiple_of(self.geometry.cluster_size());
        if offset.plus_bytes(len).get() > file_end {
            let file_len = self.file_len;
            return Err(Problem::BeyondFile { what, offset: offset.get(), len, file_len }.into());
        }
        Ok(())
    }
}

fn table(offset: U64, count: U32) -> TableRef {
    TableRef { offset: HostOffset::new(offset.get()), count: count.get() }
}

fn check_header_length(v3: bool, len: u32, bits: ClusterBits) -> Result<(), FormatError> {
    let max = bits.cluster_size();
    let smallest = if v3 { V3_MIN_HEADER_LEN } else { V2_HEADER_LEN };
    if len < smallest || !len.is_multiple_of(8) || u64::from(len) > max {
        return Err(Problem::HeaderLength { len, max }.into());
    }
    Ok(())
}

/// The bytes between the header and the backing file name, or the end of the cluster.
pub(super) fn extension_area<'a>(
    bytes: &'a [u8],
    raw: &RawHeader,
    header_length: u32,
) -> Result<&'a [u8], FormatError> {
    let start = index(header_length);
    let end = match raw.backing_file_offset.get() {
        0 => bytes.len(),
        offset => index(offset).min(bytes.len()),
    };
    if start > bytes.len() {
        return Err(Problem::HeaderTruncated { len: len_of(bytes) }.into());
    }
    // A name that begins inside the header leaves no room for extensions: caught with the name.
    Ok(bytes.get(start..end).unwrap_or_default())
}

fn backing_name(
    bytes: &[u8],
    raw: &RawHeader,
    bits: ClusterBits,
    extensions: &[Extension],
) -> Result<Option<BackingName>, FormatError> {
    let (offset, len) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
    if offset == 0 {
        return Ok(None);
    }
    if len == 0 {
        // No name; but QEMU refuses a place for one behind the first cluster.
        let inside = offset <= bits.cluster_size();
        return if inside { Ok(None) } else { Err(Problem::BackingName { offset, len }.into()) };
    }
    let start = index(offset);
    let name = start.checked_add(index(len)).and_then(|end| bytes.get(start..end));
    let name = name.filter(|name| name.len() <= MAX_BACKING_NAME && !name.contains(&0));
    let name = name.ok_or(Problem::BackingName { offset, len })?.to_vec();
    let format = extensions.iter().find_map(|extension| match extension {
        Extension::BackingFormat(format) => Some(format.clone()),
        _ => None,
    });
    Ok(Some(BackingName { name, format }))
}

fn encryption(method: u32) -> Result<Encryption, FormatError> {
    match method {
        0 => Ok(Encryption::None),
        1 => Ok(Encryption::Aes),
        2 => Ok(Encryption::Luks),
        other => Err(Problem::CryptMethod(other).into()),
    }
}

fn compression(kind: u8, incompatible: Incompatible) -> Result<CompressionType, FormatError> {
    match (kind, incompatible.contains(Incompatible::COMPRESSION)) {
        (0, false) => Ok(CompressionType::Zlib),
        (1, true) => Ok(CompressionType::Zstd),
        (kind, true) => Err(Problem::CompressionType(kind, "set").into()),
        (kind, false) => Err(Problem::CompressionType(kind, "clear").into()),
    }
}

fn refuse_unknown(bits: Incompatible, extensions: &[Extension]) -> Result<(), FormatError> {
    let names: Vec<_> = bits
        .unknown()
        .map(|bit| match Extension::feature_name(extensions, FeatureKind::Incompatible, bit) {
            Some(name) => format!("bit {bit} ('{name}')"),
            None => format!("bit {bit}"),
        })
        .collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(Problem::UnknownIncompatible(names.join(", ")).into())
    }
}
