//! What hyperkit's reader asks of an image, and what becomes of one that breaks it.
//!
//! The rules are what the library was seen to do (0.11.0, run on images that qemu-img and qemu-io
//! made) and what its source says: `lib/qcow_header.ml` reads the header, `make_cluster_map` in
//! `lib/qcow.ml` walks the active tables at every opening. It takes the corrupt bit, which is no
//! rule therefore.

use std::ops::RangeInclusive;

use super::leftovers::{SECTOR, find_leftovers};
use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::check::{ScanReport, Tally};
use crate::qcow2::extension::Extension;
use crate::qcow2::feature::{Compatible, Incompatible};
use crate::qcow2::first_cluster::read_first_cluster;
use crate::qcow2::geometry::{GuestOffset, HostOffset};
use crate::qcow2::header::{Encryption, Header, Version};
use crate::qcow2::lengths::index;
use crate::qcow2::raw_header::V3_MIN_HEADER_LEN;

/// The bits of the cluster sizes that are read: 4 KiB to 1 MiB, in version 3 to 2 MiB.
const CLUSTER_BITS_V2: RangeInclusive<u32> = 12..=20;
const CLUSTER_BITS_V3: RangeInclusive<u32> = 12..=21;
/// The width of reference counts that is written, whatever the header says.
const REFCOUNT_BITS: u64 = 16;
/// Bytes of the extensions' end marker that are read.
const END_MARKER: usize = 4;

/// What an image can have that this reader does not take as it is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A header of version 3 that has not 104 bytes.
    HeaderLength,
    /// A cluster size outside its limits.
    ClusterSize,
    /// An incompatible feature but the dirty and the corrupt bit.
    IncompatibleFeatures,
    /// Any autoclear feature.
    AutoclearFeatures,
    /// Header extensions that do not end in the first 512 bytes.
    ExtensionsBeyondSector,
    /// A backing file.
    BackingFile,
    /// Encryption.
    Encryption,
    /// Reference counts that have not 16 bits.
    RefcountBits,
    /// Internal snapshots.
    Snapshots,
    /// Counts that must be kept with every change.
    NotLazy,
    /// Counts that may be kept late, without the mark that they are late.
    LazyNotDirty,
    /// Fields of version 3 under a header of version 2.
    V3FieldsInV2,
    /// Compressed clusters.
    CompressedClusters,
    /// Entries that say that a cluster is zeros.
    ZeroClusters,
    /// Two references to one cluster.
    SharedClusters,
    /// A reference to what lies behind the end of the file.
    BeyondFile,
}

/// What the reader does with an image that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The guest stops when the file must grow.
    Freezes,
    /// It does not open the image.
    Refused,
    /// The reference counts become wrong without a mark that says so.
    Miscounts,
    /// The guest sees other data than was meant.
    ReadsOtherwise,
    /// The image, or what is in it, is destroyed when it is opened or written to.
    Destroys,
}

/// A rule that an image breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRule {
    /// The rule.
    pub rule: Rule,
    /// What comes of it.
    pub effect: Effect,
    /// In words.
    pub message: String,
    /// How often the image breaks it.
    pub count: u64,
    /// Where in the file it does so first: the field of the header, or the entry of a table.
    pub host: Option<HostOffset>,
    /// The first guest byte that is about, where it is about guest data.
    pub guest: Option<GuestOffset>,
}

/// Every rule that the image in `storage` breaks, of which a scan has `found` this. Reads the
/// image's first cluster alone.
///
/// # Errors
/// What the storage says.
pub fn broken_rules(
    storage: &dyn Storage,
    header: &Header,
    found: &ScanReport,
) -> Result<Vec<BrokenRule>> {
    let mut judge = Judge { header, broken: Vec::new() };
    judge.form();
    judge.features();
    judge.extensions(&read_first_cluster(storage)?);
    judge.contents();
    judge.counting();
    if let Some(leftovers) = find_leftovers(storage, header)? {
        let at = index(leftovers.at.get());
        let message = "a session with discard left fields of version 3 under this header of \
                       version 2, which nothing reads: its counts are not kept";
        judge.field(Rule::V3FieldsInV2, Effect::Miscounts, at, message);
    }
    judge.entries(found);
    Ok(judge.broken)
}

/// What was found so far.
struct Judge<'a> {
    header: &'a Header,
    broken: Vec<BrokenRule>,
}

impl Judge<'_> {
    /// A field of the header, `at` bytes from its beginning.
    fn field(&mut self, rule: Rule, effect: Effect, at: usize, message: impl Into<String>) {
        let host = u64::try_from(at).ok().map(HostOffset::new);
        let message = message.into();
        self.broken.push(BrokenRule { rule, effect, message, count: 1, host, guest: None });
    }

    /// Entries of tables.
    fn tally(&mut self, rule: Rule, effect: Effect, tally: Tally, message: &str) {
        let Some(first) = tally.first else { return };
        self.broken.push(BrokenRule {
            rule,
            effect,
            message: message.to_owned(),
            count: tally.count,
            host: Some(first.entry.unwrap_or(first.host)),
            guest: first.guest,
        });
    }

    /// Sizes that the whole image has.
    fn form(&mut self) {
        let header = self.header;
        let (len, v3) = (header.header_length, header.version == Version::V3);
        if v3 && len != V3_MIN_HEADER_LEN {
            let message = format!("the header has {len} bytes, read is one of {V3_MIN_HEADER_LEN}");
            self.field(Rule::HeaderLength, Effect::Refused, 100, message);
        }
        let bits = header.geometry.cluster_bits();
        let read = if v3 { CLUSTER_BITS_V3 } else { CLUSTER_BITS_V2 };
        if !read.contains(&bits.get()) {
            let most = if v3 { "2 MiB" } else { "1 MiB" };
            let size = bits.cluster_size();
            let message = format!("clusters of {size} bytes, read are 4 KiB to {most}");
            self.field(Rule::ClusterSize, Effect::Refused, 20, message);
        }
        let width = header.geometry.refcount_order().bits();
        if width != REFCOUNT_BITS {
            let message = format!("counts of {width} bits, written are {REFCOUNT_BITS} bits");
            self.field(Rule::RefcountBits, Effect::Miscounts, 96, message);
        }
    }

    fn features(&mut self) {
        let read = Incompatible::DIRTY.with_if(true, Incompatible::CORRUPT);
        let refused = self.header.incompatible.without(read);
        if refused.bits() != 0 {
            let names: Vec<_> = refused.names().collect();
            let message = format!("needs {}", names.join(", "));
            self.field(Rule::IncompatibleFeatures, Effect::Refused, 72, message);
        }
        let autoclear = self.header.autoclear;
        if autoclear.bits() != 0 {
            let message = format!("has the autoclear features {:#x}", autoclear.bits());
            self.field(Rule::AutoclearFeatures, Effect::Refused, 88, message);
        }
    }

    /// Extensions are read in version 3 alone, from the first sector alone.
    fn extensions(&mut self, bytes: &[u8]) {
        let start = index(self.header.header_length);
        let end = Extension::end_of_all(bytes, start).saturating_sub(END_MARKER);
        if self.header.version == Version::V3 && end > SECTOR {
            let message = format!("header extensions end at byte {end}, read are {SECTOR}");
            self.field(Rule::ExtensionsBeyondSector, Effect::Refused, start, message);
        }
    }

    /// What the image has beside the guest's clusters.
    fn contents(&mut self) {
        if self.header.backing.is_some() {
            let message = "the backing file is ignored: what is not in the image reads as zeros";
            self.field(Rule::BackingFile, Effect::ReadsOtherwise, 8, message);
        }
        let (effect, message) = match self.header.encryption {
            Encryption::None => (None, ""),
            Encryption::Aes => (Some(Effect::ReadsOtherwise), "encrypted data is read as it is"),
            Encryption::Luks => (Some(Effect::Refused), "is encrypted with LUKS"),
        };
        if let Some(effect) = effect {
            self.field(Rule::Encryption, effect, 32, message);
        }
        let snapshots = self.header.snapshots.count;
        if snapshots > 0 {
            let message = "opening to write cuts the file and loses the internal snapshots";
            self.field(Rule::Snapshots, Effect::Destroys, 60, message);
            if let Some(broken) = self.broken.last_mut() {
                broken.count = u64::from(snapshots);
            }
        }
    }

    /// Whether counts may be late, as they are: it allocates without counting, or not at all.
    fn counting(&mut self) {
        let lazy = self.header.compatible.contains(Compatible::LAZY_REFCOUNTS);
        let dirty = self.header.incompatible.contains(Incompatible::DIRTY);
        if !lazy {
            let (at, message) = match self.header.version {
                Version::V3 => (80, "without lazy refcounts the file cannot grow in use"),
                Version::V2 => (4, "version 2 has no lazy refcounts: the file cannot grow in use"),
            };
            self.field(Rule::NotLazy, Effect::Freezes, at, message);
        } else if !dirty {
            let message = "lazy refcounts without the dirty bit: what is added is not counted, and \
                           nothing says so";
            self.field(Rule::LazyNotDirty, Effect::Miscounts, 72, message);
        }
    }

    /// What the active tables say.
    fn entries(&mut self, found: &ScanReport) {
        let census = &found.census;
        let rules = [
            (
                Rule::CompressedClusters,
                Effect::Refused,
                census.compressed,
                "compressed clusters are not read",
            ),
            (
                Rule::ZeroClusters,
                Effect::Destroys,
                census.zero,
                "zero clusters read as the header's bytes, and writing there overwrites the header",
            ),
            (
                Rule::SharedClusters,
                Effect::Refused,
                census.doubled,
                "two references lead to one cluster",
            ),
            (
                Rule::BeyondFile,
                Effect::Refused,
                census.beyond_file,
                "a reference leads behind the end of the file",
            ),
        ];
        for (rule, effect, tally, message) in rules {
            self.tally(rule, effect, tally, message);
        }
    }
}
