//! What a header claims, as data: whatever the image names is escaped and cut to a length.

use schemars::JsonSchema;
use serde::Serialize;

use crate::ops::wire::{choice, stored_text};
use crate::qcow2::{Claims, ExtensionClaim, FeatureClaim, FeatureKind, TableClaim};

/// No name that is shown is longer, in bytes.
const LONGEST_TEXT: usize = 1024;

/// A qcow2 header, field by field.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HeaderReport {
    /// The version of the format.
    pub version: u64,
    /// The length of the fixed part, in bytes.
    pub header_length_bytes: u64,
    /// The base-2 logarithm of the cluster size.
    pub cluster_bits: u64,
    /// The size of the guest's disk, in bytes.
    pub virtual_size_bytes: u64,
    /// The encryption method; 0 is none.
    pub crypt_method: u64,
    /// The base-2 logarithm of the width of reference counts, in bits.
    pub refcount_order: u64,
    /// How compressed clusters are packed, as stored: 0 deflate, 1 Zstandard.
    pub compression_method: u64,
    /// Every feature bit that is set.
    pub features: Vec<FeatureReport>,
    /// The tables that it leads to.
    pub tables: Vec<TableReport>,
    /// The first header extensions, in their order.
    pub extensions: Vec<ExtensionReport>,
    /// How many more there are.
    pub extensions_left_out: u64,
    /// Internal snapshots.
    pub snapshots: u64,
    /// Persistent bitmaps.
    pub bitmaps: u64,
    /// The backing file's name as stored. Not trusted, not opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// The backing file's format as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<String>,
    /// The external data file's name as stored. Not trusted, not opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
}

choice! {
    /// What a program must do about a feature bit that it does not know.
    FeatureSet {
        /// It must not open the image.
        Incompatible = "incompatible",
        /// It may ignore the bit.
        Compatible = "compatible",
        /// It clears the bit when it writes.
        Autoclear = "autoclear",
    }
}

/// A feature bit that is set.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FeatureReport {
    /// The set that it belongs to.
    pub set: FeatureSet,
    /// Its number.
    pub bit: u64,
    /// What the image calls it, else the format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether this program knows it.
    pub known: bool,
}

/// A table that the header leads to.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TableReport {
    /// What it is.
    pub name: String,
    /// Where it begins in the file, in bytes.
    pub offset_bytes: u64,
    /// Its entries; of the refcount table, its clusters.
    pub count: u64,
    /// Its length in bytes, where the header says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_bytes: Option<u64>,
}

/// A header extension.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ExtensionReport {
    /// Its type, in hexadecimal.
    pub id: String,
    /// What it is, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its data begins in the file, in bytes.
    pub offset_bytes: u64,
    /// The length of its data, in bytes.
    pub length_bytes: u64,
}

impl HeaderReport {
    pub(super) fn of(claims: &Claims) -> HeaderReport {
        HeaderReport {
            version: claims.version.into(),
            header_length_bytes: claims.header_length.into(),
            cluster_bits: claims.cluster_bits.into(),
            virtual_size_bytes: claims.virtual_size,
            crypt_method: claims.crypt_method.into(),
            refcount_order: claims.refcount_order.into(),
            compression_method: claims.compression_type.into(),
            features: claims.features.iter().map(FeatureReport::of).collect(),
            tables: tables(claims),
            extensions: claims.extensions.iter().map(ExtensionReport::of).collect(),
            extensions_left_out: claims.extensions_left_out,
            snapshots: claims.snapshots.count,
            bitmaps: claims.bitmaps.map_or(0, |(bitmaps, _)| bitmaps.count),
            backing_file: claims.backing_file.as_deref().map(text),
            backing_format: claims.backing_format.as_deref().map(text),
            data_file: claims.data_file.as_deref().map(text),
        }
    }
}

/// The tables that there are.
fn tables(claims: &Claims) -> Vec<TableReport> {
    let table = |name: &str, claim: TableClaim, length_bytes| TableReport {
        name: name.to_owned(),
        offset_bytes: claim.offset,
        count: claim.count,
        length_bytes,
    };
    let refcounts = 1u64.checked_shl(claims.cluster_bits).map(|cluster| {
        // As far as that fits: a header can claim any cluster size.
        claims.refcount_table.count.saturating_mul(cluster)
    });
    let mut tables = vec![
        table("L1 table", claims.l1, Some(claims.l1.count.saturating_mul(8))),
        table("refcount table", claims.refcount_table, refcounts),
    ];
    if claims.snapshots.count > 0 {
        tables.push(table("snapshot table", claims.snapshots, None));
    }
    if let Some((directory, bytes)) = claims.bitmaps {
        tables.push(table("bitmap directory", directory, Some(bytes)));
    }
    tables
}

impl FeatureReport {
    fn of(claim: &FeatureClaim) -> FeatureReport {
        let set = match claim.kind {
            FeatureKind::Incompatible => FeatureSet::Incompatible,
            FeatureKind::Compatible => FeatureSet::Compatible,
            FeatureKind::Autoclear => FeatureSet::Autoclear,
        };
        FeatureReport { set, bit: claim.bit.into(), name: claim.name.clone(), known: claim.known }
    }
}

impl ExtensionReport {
    fn of(claim: &ExtensionClaim) -> ExtensionReport {
        ExtensionReport {
            id: format!("{:#010x}", claim.id),
            name: claim.name.map(str::to_owned),
            offset_bytes: claim.offset,
            length_bytes: claim.len,
        }
    }
}

/// A name as the image has it, safe to print.
pub(super) fn text(bytes: &[u8]) -> String {
    stored_text(&bytes[..bytes.len().min(LONGEST_TEXT)])
}
