//! What the beginning of an image claims, whether or not it can be believed: for whoever has to
//! judge an image that a stranger made. A bounded part of the file is read, and nothing that it
//! refers to.

use super::error::FormatError;
use super::extension::Extension;
use super::feature::{Autoclear, Compatible, FeatureKind, Incompatible};
use super::first_cluster::read_first_cluster;
use super::geometry::ClusterBits;
use super::header::{Header, UncheckedHeader};
use super::lengths::{index, len_of};
use super::raw_header::{RawHeader, V2_HEADER_LEN};
use crate::error::Result;
use crate::host::storage::Storage;

/// The extensions that are listed; one has at least eight bytes of a cluster.
const MOST_EXTENSIONS: usize = 64;

/// What a header says, field by field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// The version of the format.
    pub version: u32,
    /// The length of the fixed part, in bytes.
    pub header_length: u32,
    /// The base-2 logarithm of the cluster size.
    pub cluster_bits: u32,
    /// The size of the guest's disk, in bytes.
    pub virtual_size: u64,
    /// The encryption method; 0 is none.
    pub crypt_method: u32,
    /// The base-2 logarithm of the width of reference counts, in bits.
    pub refcount_order: u32,
    /// How compressed clusters are packed: 0 deflate, 1 Zstandard.
    pub compression_type: u8,
    /// Every feature bit that is set.
    pub features: Vec<FeatureClaim>,
    /// The active L1 table; its count is entries.
    pub l1: TableClaim,
    /// The refcount table; its count is clusters.
    pub refcount_table: TableClaim,
    /// The snapshot table; its count is snapshots.
    pub snapshots: TableClaim,
    /// The directory of bitmaps: its count is bitmaps, and how many bytes it has.
    pub bitmaps: Option<(TableClaim, u64)>,
    /// The backing file's name, as far as it lies in the first cluster. Not trusted.
    pub backing_file: Option<Vec<u8>>,
    /// The format that is recorded for it. Not trusted.
    pub backing_format: Option<Vec<u8>>,
    /// The external data file's name. Not trusted.
    pub data_file: Option<Vec<u8>>,
    /// The first header extensions, in their order.
    pub extensions: Vec<ExtensionClaim>,
    /// How many more there are.
    pub extensions_left_out: u64,
}

/// A table that a header claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableClaim {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How much is in it.
    pub count: u64,
}

/// A feature bit that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureClaim {
    /// Which of the three sets it belongs to.
    pub kind: FeatureKind,
    /// Its number.
    pub bit: u8,
    /// Whether this version knows it.
    pub known: bool,
    /// What the image calls it, escaped; else what the format does, if that is known.
    pub name: Option<String>,
}

/// A header extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionClaim {
    /// Its type.
    pub id: u32,
    /// What it is, if this version knows it.
    pub name: Option<&'static str>,
    /// Where its data begins in the file, in bytes.
    pub offset: u64,
    /// The length of its data, in bytes.
    pub len: u64,
}

impl Claims {
    /// What the image in `storage` claims, as far as there is a header of a version that is known,
    /// and what is wrong with that: the first thing that keeps the header from being
    /// [read](Header::read).
    ///
    /// # Errors
    /// What the storage says.
    pub fn read(storage: &dyn Storage) -> Result<(Option<Claims>, Option<FormatError>)> {
        let file_len = storage.len()?;
        let bytes = read_first_cluster(storage)?;
        let checked: Result<Header, FormatError> =
            UncheckedHeader::parse(&bytes).and_then(|unchecked| unchecked.verify(file_len));
        let claims = RawHeader::read(&bytes).ok().map(|raw| Claims::of(&raw, &bytes));
        Ok((claims, checked.err()))
    }

    fn of(raw: &RawHeader, bytes: &[u8]) -> Claims {
        let v2 = raw.version.get() == 2;
        let header_length = if v2 { V2_HEADER_LEN } else { raw.header_length.get() };
        let cluster = ClusterBits::new(raw.cluster_bits.get()).map(ClusterBits::cluster_size);
        let bytes = bytes.get(..index(cluster.unwrap_or_default())).unwrap_or(bytes);
        let (name_at, name_len) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
        let area_end = if name_at == 0 { bytes.len() } else { index(name_at).min(bytes.len()) };
        let area = bytes.get(index(header_length)..area_end).unwrap_or_default();
        let parsed: Vec<_> = Extension::walk(area)
            .map_while(|found| found.and_then(|found| found.parse()).ok())
            .collect();
        let named = |offset: u64, count: u32| TableClaim { offset, count: u64::from(count) };
        let backing_file = (name_at != 0 && name_len != 0).then(|| {
            let rest = bytes.get(index(name_at)..).unwrap_or_default();
            rest.get(..index(name_len)).unwrap_or(rest).to_vec()
        });
        let mut claims = Claims {
            version: raw.version.get(),
            header_length,
            cluster_bits: raw.cluster_bits.get(),
            virtual_size: raw.size.get(),
            crypt_method: raw.crypt_method.get(),
            refcount_order: if v2 { 4 } else { raw.refcount_order.get() },
            compression_type: raw.compression_type,
            features: features(raw, &parsed),
            l1: named(raw.l1_table_offset.get(), raw.l1_size.get()),
            refcount_table: named(
                raw.refcount_table_offset.get(),
                raw.refcount_table_clusters.get(),
            ),
            snapshots: named(raw.snapshots_offset.get(), raw.nb_snapshots.get()),
            bitmaps: None,
            backing_file,
            backing_format: None,
            data_file: None,
            extensions: Vec::new(),
            extensions_left_out: 0,
        };
        claims.take_over(parsed);
        claims.list_extensions(area, u64::from(header_length));
        claims
    }

    /// What extensions say.
    fn take_over(&mut self, extensions: Vec<Extension>) {
        for extension in extensions {
            match extension {
                Extension::BackingFormat(format) => self.backing_format = Some(format),
                Extension::ExternalData(name) => self.data_file = Some(name),
                Extension::Bitmaps(directory) => {
                    let count = u64::from(directory.count);
                    let table = TableClaim { offset: directory.offset, count };
                    self.bitmaps = Some((table, directory.size_bytes));
                }
                Extension::FeatureNames(_)
                | Extension::Encryption { .. }
                | Extension::Unknown { .. } => {}
            }
        }
    }

    fn list_extensions(&mut self, area: &[u8], area_at: u64) {
        for found in Extension::walk(area).map_while(Result::ok) {
            if self.extensions.len() == MOST_EXTENSIONS {
                self.extensions_left_out = self.extensions_left_out.saturating_add(1);
                continue;
            }
            self.extensions.push(ExtensionClaim {
                id: found.id,
                name: found.name(),
                offset: area_at.saturating_add(found.at),
                len: len_of(found.data),
            });
        }
    }
}

/// Every feature bit that is set.
fn features(raw: &RawHeader, extensions: &[Extension]) -> Vec<FeatureClaim> {
    let sets = [
        (FeatureKind::Incompatible, raw.incompatible_features),
        (FeatureKind::Compatible, raw.compatible_features),
        (FeatureKind::Autoclear, raw.autoclear_features),
    ];
    let claims = sets.map(|(kind, bits)| {
        let set = (0u8..64).filter(move |bit| bits.get() >> bit & 1 == 1);
        set.map(move |bit| {
            let known = known_name(kind, 1u64.rotate_left(u32::from(bit)));
            let own = Extension::feature_name(extensions, kind, bit);
            let name = own.or_else(|| known.map(str::to_owned));
            FeatureClaim { kind, bit, known: known.is_some(), name }
        })
    });
    claims.into_iter().flatten().collect()
}

/// What the format calls a feature.
fn known_name(kind: FeatureKind, bit: u64) -> Option<&'static str> {
    match kind {
        FeatureKind::Incompatible => Incompatible::from_bits(bit).names().next(),
        FeatureKind::Compatible => Compatible::from_bits(bit).names().next(),
        FeatureKind::Autoclear => Autoclear::from_bits(bit).names().next(),
    }
}
