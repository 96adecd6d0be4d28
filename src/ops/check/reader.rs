//! `check --for`: what one program makes of an image.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::host::storage::Storage;
use crate::ops::wire::choice;
use crate::qcow2::Header;
use crate::qcow2::check::ScanReport;
use crate::qcow2::hyperkit::{self, Effect, Rule};

choice! {
    /// The program whose reader an image is held against.
    Reader {
        /// hyperkit and its OCaml qcow library.
        Hyperkit = "hyperkit",
    }
}

choice! {
    /// What a reader does with an image that breaks one of its rules.
    ReaderEffect {
        /// The guest stops when the file must grow.
        Freezes = "freezes",
        /// It does not open the image.
        Refused = "refused",
        /// The reference counts become wrong without a mark that says so.
        Miscounts = "miscounts",
        /// The guest sees other data than was meant.
        ReadsOtherwise = "reads_otherwise",
        /// The image, or what is in it, is destroyed when it is opened or written to.
        Destroys = "destroys",
    }
}

choice! {
    /// What an image has that a reader does not take as it is meant.
    ReaderRule {
        /// A header of version 3 that has not 104 bytes.
        HeaderLength = "header_length",
        /// A cluster size outside 4 KiB to 2 MiB, in version 2 to 1 MiB.
        ClusterSize = "cluster_size",
        /// An incompatible feature but the dirty and the corrupt bit.
        IncompatibleFeatures = "incompatible_features",
        /// Any autoclear feature.
        AutoclearFeatures = "autoclear_features",
        /// Header extensions that do not end in the first 512 bytes.
        ExtensionsBeyondSector = "extensions_beyond_sector",
        /// A backing file.
        BackingFile = "backing_file",
        /// Encryption.
        Encryption = "encryption",
        /// Reference counts that have not 16 bits.
        RefcountBits = "refcount_bits",
        /// Internal snapshots.
        Snapshots = "snapshots",
        /// No lazy refcounts.
        NotLazy = "not_lazy",
        /// Lazy refcounts without the dirty bit.
        LazyNotDirty = "lazy_not_dirty",
        /// Fields of version 3 under a header of version 2, which a session with discard leaves.
        V3FieldsInV2 = "v3_fields_in_v2",
        /// Compressed clusters.
        CompressedClusters = "compressed_clusters",
        /// Entries that say that a cluster is zeros.
        ZeroClusters = "zero_clusters",
        /// Two references to one cluster.
        SharedClusters = "shared_clusters",
        /// A reference to what lies behind the end of the file.
        BeyondFile = "beyond_file",
    }
}

/// What one program makes of an image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ReaderReport {
    /// The program.
    pub reader: Reader,
    /// Every rule of it that the image breaks.
    pub broken: Vec<BrokenRuleReport>,
}

/// A rule that an image breaks.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BrokenRuleReport {
    /// The rule.
    pub rule: ReaderRule,
    /// What the program does with such an image.
    pub effect: ReaderEffect,
    /// The same in words.
    pub message: String,
    /// How often the image breaks it.
    pub count: u64,
    /// Where in the file it does so first, in bytes: the field of the header, the entry of a table,
    /// or the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_offset_bytes: Option<u64>,
    /// Where on the guest's disk the data begins that is about, in bytes, where it is about data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_offset_bytes: Option<u64>,
}

impl Reader {
    /// Holds the image in `storage` against the program's rules.
    pub(super) fn judge(
        self,
        storage: &dyn Storage,
        header: &Header,
        found: &ScanReport,
    ) -> Result<ReaderReport> {
        let broken = match self {
            Reader::Hyperkit => hyperkit::broken_rules(storage, header, found)?,
        };
        let broken = broken.into_iter().map(BrokenRuleReport::of).collect();
        Ok(ReaderReport { reader: self, broken })
    }
}

impl BrokenRuleReport {
    fn of(broken: hyperkit::BrokenRule) -> BrokenRuleReport {
        BrokenRuleReport {
            rule: broken.rule.into(),
            effect: broken.effect.into(),
            message: broken.message,
            count: broken.count,
            host_offset_bytes: broken.host.map(|host| host.get()),
            guest_offset_bytes: broken.guest.map(|guest| guest.get()),
        }
    }
}

impl From<Effect> for ReaderEffect {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Freezes => ReaderEffect::Freezes,
            Effect::Refused => ReaderEffect::Refused,
            Effect::Miscounts => ReaderEffect::Miscounts,
            Effect::ReadsOtherwise => ReaderEffect::ReadsOtherwise,
            Effect::Destroys => ReaderEffect::Destroys,
        }
    }
}

impl From<Rule> for ReaderRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::HeaderLength => ReaderRule::HeaderLength,
            Rule::ClusterSize => ReaderRule::ClusterSize,
            Rule::IncompatibleFeatures => ReaderRule::IncompatibleFeatures,
            Rule::AutoclearFeatures => ReaderRule::AutoclearFeatures,
            Rule::ExtensionsBeyondSector => ReaderRule::ExtensionsBeyondSector,
            Rule::BackingFile => ReaderRule::BackingFile,
            Rule::Encryption => ReaderRule::Encryption,
            Rule::RefcountBits => ReaderRule::RefcountBits,
            Rule::Snapshots => ReaderRule::Snapshots,
            Rule::NotLazy => ReaderRule::NotLazy,
            Rule::LazyNotDirty => ReaderRule::LazyNotDirty,
            Rule::V3FieldsInV2 => ReaderRule::V3FieldsInV2,
            Rule::CompressedClusters => ReaderRule::CompressedClusters,
            Rule::ZeroClusters => ReaderRule::ZeroClusters,
            Rule::SharedClusters => ReaderRule::SharedClusters,
            Rule::BeyondFile => ReaderRule::BeyondFile,
        }
    }
}
