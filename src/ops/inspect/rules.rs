//! What speaks against the image of a stranger: the rules of OpenStack's format inspector, and
//! those that follow from what this program knows of the format.

use schemars::JsonSchema;
use serde::Serialize;

use super::header::text;
use crate::image::probe::{Format, Magic};
use crate::ops::wire::choice;
use crate::qcow2::geometry::{
    ClusterBits, Geometry, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, RefcountOrder,
};
use crate::qcow2::{Claims, FeatureKind, FormatError, Incompatible, TableClaim};
use crate::units::ByteSize;

choice! {
    /// Whether an image is safe to use.
    SafetyVerdict {
        /// No rule speaks against it.
        Safe = "safe",
        /// Some rule does.
        Unsafe = "unsafe",
    }
}

choice! {
    /// What speaks against an image.
    Rule {
        /// Name and content disagree about the format, or the content is of several.
        Format = "format",
        /// The content has a format that is not handled here.
        UnsupportedFormat = "unsupported_format",
        /// The header breaks a rule of the format.
        MalformedHeader = "malformed_header",
        /// It would have a backing file opened.
        BackingFile = "backing_file",
        /// It would have an external data file opened, and written.
        DataFile = "data_file",
        /// It uses a feature, or a version, that this program does not know.
        UnknownFeature = "unknown_feature",
        /// It has extended L2 entries, which other programs that judge images do not accept.
        ExtendedL2 = "extended_l2",
        /// It is encrypted.
        Encryption = "encryption",
        /// A table is larger than it need be, than is allowed, or than the file.
        OversizeTable = "oversize_table",
        /// The guest's disk is larger than is allowed.
        OversizeDisk = "oversize_disk",
        /// It is marked as damaged.
        MarkedCorrupt = "marked_corrupt",
    }
}

/// One thing that speaks against an image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Reason {
    /// The rule.
    pub rule: Rule,
    /// In words; what they quote of the image is escaped.
    pub message: String,
}

impl SafetyVerdict {
    pub(super) fn of(reasons: &[Reason]) -> SafetyVerdict {
        if reasons.is_empty() { SafetyVerdict::Safe } else { SafetyVerdict::Unsafe }
    }
}

/// What is judged.
pub(super) struct Subject<'a> {
    pub(super) claims: Option<&'a Claims>,
    pub(super) problem: Option<&'a FormatError>,
    /// Every format that the content claims.
    pub(super) magics: &'a [Magic],
    pub(super) told: Option<Format>,
    /// Why the format is not believed.
    pub(super) doubt: Option<&'a str>,
    /// The length of the file, in bytes.
    pub(super) file_len: u64,
    pub(super) max_size: Option<ByteSize>,
}

impl Subject<'_> {
    /// Everything that speaks against it.
    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let mut add = |rule, message: String| reasons.push(Reason { rule, message });
        self.judge_format(&mut add);
        if let Some(problem) = self.problem {
            let rule = match problem.is_unsupported() {
                true => Rule::UnknownFeature,
                false => Rule::MalformedHeader,
            };
            add(rule, problem.to_string());
        }
        match self.claims {
            Some(claims) => {
                judge_names(claims, &mut add);
                judge_features(claims, &mut add);
                self.judge_tables(claims, &mut add);
                self.judge_size(claims.virtual_size, &mut add);
            }
            None => self.judge_size(self.file_len, &mut add),
        }
        reasons
    }

    fn judge_format(&self, add: &mut impl FnMut(Rule, String)) {
        if let Some(Magic::Foreign(name)) = self.magics.first() {
            add(Rule::UnsupportedFormat, format!("the content is {name}, which is not handled"));
        }
        if self.magics.len() > 1 {
            let names: Vec<_> = self.magics.iter().map(|magic| magic.name()).collect();
            let message = format!("the content is of several formats: {}", names.join(", "));
            add(Rule::Format, message);
        }
        if let (Some(Format::Raw), Some(magic)) = (self.told, self.magics.first()) {
            let name = magic.name();
            add(Rule::Format, format!("said to be raw, but the content begins as {name}"));
        }
        // A format that is not handled was named above.
        let foreign = matches!(self.magics.first(), Some(Magic::Foreign(_)));
        if let Some(doubt) = self.doubt.filter(|_| !foreign) {
            add(Rule::Format, doubt.to_owned());
        }
    }

    fn judge_size(&self, size: u64, add: &mut impl FnMut(Rule, String)) {
        if let Some(max) = self.max_size.filter(|max| size > max.bytes()) {
            let max = max.bytes();
            let message = format!("the guest's disk has {size} bytes, allowed are {max}");
            add(Rule::OversizeDisk, message);
        }
    }

    fn judge_tables(&self, claims: &Claims, add: &mut impl FnMut(Rule, String)) {
        const MAX_SNAPSHOTS: u64 = 65_536;
        const SMALLEST_SNAPSHOT: u64 = 40;
        const MAX_BITMAPS: u64 = 65_535;
        const MAX_DIRECTORY: u64 = 64 << 20;
        /// What shrinking leaves of a larger disk's L1 table is no danger.
        const SLACK: u64 = 64 << 10;
        let Some(geometry) = geometry(claims) else { return };
        let mut table = |name: &str, table: TableClaim, len: u64, max: u64| {
            if table.count == 0 {
                return;
            }
            let file_end = self.file_len.saturating_add(geometry.cluster_size() - 1);
            if len > max {
                add(Rule::OversizeTable, format!("{name} of {len} bytes: {max} are enough"));
            } else if table.offset.saturating_add(len) > file_end {
                let (at, file_len) = (table.offset, self.file_len);
                let message = format!(
                    "{name} of {len} bytes at {at}: beyond the end of the file at {file_len}"
                );
                add(Rule::OversizeTable, message);
            }
        };
        // In whole clusters: what is left of the last one costs nothing.
        let needed = geometry.table_clusters(geometry.l1_entries_for(claims.virtual_size).max(1));
        let enough = geometry.bytes_of(needed).clamp(SLACK, MAX_L1_BYTES);
        table("L1 table", claims.l1, claims.l1.count.saturating_mul(8), enough);
        let refcounts = claims.refcount_table.count.saturating_mul(geometry.cluster_size());
        let refcounts_max = MAX_REFCOUNT_TABLE_BYTES.max(geometry.cluster_size());
        table("refcount table", claims.refcount_table, refcounts, refcounts_max);
        let snapshots = claims.snapshots.count.saturating_mul(SMALLEST_SNAPSHOT);
        table("snapshot table", claims.snapshots, snapshots, MAX_SNAPSHOTS * SMALLEST_SNAPSHOT);
        if let Some((bitmaps, bytes)) = claims.bitmaps {
            table("bitmap directory", bitmaps, bytes, MAX_DIRECTORY);
            if bitmaps.count > MAX_BITMAPS {
                add(Rule::OversizeTable, format!("{} bitmaps", bitmaps.count));
            }
        }
    }
}

/// The sizes that all tables follow from, where they make sense.
fn geometry(claims: &Claims) -> Option<Geometry> {
    let extended = claims.features.iter().any(|feature| {
        feature.kind == FeatureKind::Incompatible
            && Incompatible::EXTENDED_L2.bits() >> feature.bit == 1
    });
    let order = RefcountOrder::new(claims.refcount_order)?;
    Geometry::new(ClusterBits::new(claims.cluster_bits)?, order, extended)
}

fn judge_names(claims: &Claims, add: &mut impl FnMut(Rule, String)) {
    if let Some(name) = &claims.backing_file {
        add(Rule::BackingFile, format!("names a backing file: '{}'", text(name)));
    }
    if let Some(name) = &claims.data_file {
        add(Rule::DataFile, format!("names an external data file: '{}'", text(name)));
    }
    match claims.crypt_method {
        0 => {}
        1 => add(Rule::Encryption, "is encrypted (AES)".to_owned()),
        2 => add(Rule::Encryption, "is encrypted (LUKS)".to_owned()),
        method => add(Rule::Encryption, format!("is encrypted with method {method}")),
    }
}

fn judge_features(claims: &Claims, add: &mut impl FnMut(Rule, String)) {
    let named = |name: &Option<String>| {
        let name = name.as_deref().map(|name| text(name.as_bytes()));
        name.map_or_else(String::new, |name| format!(" ('{name}')"))
    };
    let set = claims.features.iter().filter(|feature| feature.kind == FeatureKind::Incompatible);
    for feature in set {
        let (bit, name) = (feature.bit, named(&feature.name));
        let is = |known: Incompatible| known.bits() >> bit == 1;
        if !feature.known {
            let message = format!("has the unknown incompatible feature {bit}{name}");
            add(Rule::UnknownFeature, message);
        } else if is(Incompatible::EXTERNAL_DATA) && claims.data_file.is_none() {
            add(Rule::DataFile, "keeps its data in an external data file".to_owned());
        } else if is(Incompatible::EXTENDED_L2) {
            add(Rule::ExtendedL2, "has extended L2 entries".to_owned());
        } else if is(Incompatible::CORRUPT) {
            add(Rule::MarkedCorrupt, "is marked corrupt".to_owned());
        }
    }
}
