//! Table entries: the stored word and its meaning are two types.
//!
//! Bit layout: `docs/interop/qcow2`, sections "Host cluster management" and "L1 table entry" to
//! "Extended L2 Entries".

use super::error::{FormatError, Problem};
use super::geometry::{Geometry, HostOffset, MAX_HOST_OFFSET};
use super::header::Version;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const REFCOUNT_TABLE_RESERVED: u64 = 0x1ff;
const ZERO_FLAG: u64 = 1;
/// Compressed data is addressed in units of this many bytes.
pub(super) const COMPRESSED_SECTOR: u64 = 512;

/// A reference to a whole cluster of metadata or data: where it is, and whether its reference
/// count is known to be exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClusterRef {
    /// Where the cluster begins.
    pub(super) offset: HostOffset,
    /// The COPIED flag: this is the only reference, so writing in place is allowed.
    pub(super) copied: bool,
}

impl ClusterRef {
    /// The only reference to the cluster at `offset`.
    pub(super) const fn sole(offset: HostOffset) -> Self {
        ClusterRef { offset, copied: true }
    }
}

/// An L1 entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct L1Entry(u64);

impl L1Entry {
    /// No L2 table.
    pub(super) const EMPTY: L1Entry = L1Entry(0);

    /// The stored word.
    pub(super) const fn from_word(word: u64) -> Self {
        L1Entry(word)
    }

    /// The stored word.
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// Where it leads, whatever else is wrong with it.
    pub(super) const fn offset_bits(self) -> HostOffset {
        HostOffset::new(self.0 & OFFSET_MASK)
    }

    /// Whether the COPIED flag is set.
    pub(super) const fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// The same entry without its COPIED flag.
    #[must_use]
    pub(super) const fn shared(self) -> Self {
        L1Entry(self.0 & !COPIED)
    }

    /// The same entry where its table is at another place.
    #[must_use]
    pub(super) const fn moved_to(self, table: HostOffset) -> Self {
        L1Entry(self.0 & !OFFSET_MASK | table.get())
    }

    /// The same entry without the bits that the format reserves.
    #[must_use]
    pub(super) const fn without_reserved(self) -> Self {
        L1Entry(self.0 & !L1_RESERVED)
    }

    /// The L2 table it leads to, if any.
    pub(super) fn decode(self, geometry: Geometry) -> Result<Option<ClusterRef>, FormatError> {
        if self.0 & L1_RESERVED != 0 {
            return Err(Problem::ReservedBits { what: "L1", value: self.0 }.into());
        }
        reference(self.0, "L2 table", geometry)
    }

    /// An entry that leads to this table.
    pub(super) fn encode(table: ClusterRef) -> Self {
        L1Entry(word(table))
    }
}

/// A refcount table entry as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RefcountTableEntry(u64);

impl RefcountTableEntry {
    /// No refcount block: every cluster it would cover is free.
    pub(super) const EMPTY: RefcountTableEntry = RefcountTableEntry(0);

    /// The stored word.
    pub(super) const fn from_word(word: u64) -> Self {
        RefcountTableEntry(word)
    }

    /// The stored word.
    pub(super) const fn word(self) -> u64 {
        self.0
    }

    /// The refcount block it leads to, if any.
    pub(super) fn decode(self, geometry: Geometry) -> Result<Option<HostOffset>, FormatError> {
        if self.0 & REFCOUNT_TABLE_RESERVED != 0 {
            return Err(Problem::ReservedBits { what: "refcount table", value: self.0 }.into());
        }
        let block = HostOffset::new(self.0);
        if !geometry.is_aligned(block) {
            return Err(Problem::Unaligned { what: "refcount block", offset: self.0 }.into());
        }
        Ok((block != HostOffset::ZERO).then_some(block))
    }

    /// An entry that leads to this block.
    pub(super) const fn encode(block: HostOffset) -> Self {
        RefcountTableEntry(block.get())
    }
}

/// An L2 entry as stored; `bitmap` is zero without extended L2 entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct L2Entry {
    /// The first 64 bits.
    pub(super) word: u64,
    /// The subcluster bitmap: zero bits in the high half, allocation bits in the low half.
    pub(super) bitmap: u64,
}

/// The two halves of a subcluster bitmap; bit `n` is subcluster `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Subclusters {
    /// Subclusters whose data is in the host cluster.
    pub(super) allocated: u32,
    /// Subclusters that read as zeros.
    pub(super) zero: u32,
}

impl Subclusters {
    /// Every subcluster's data is in the host cluster.
    pub(super) const ALLOCATED: Subclusters = Subclusters { allocated: u32::MAX, zero: 0 };
    /// Every subcluster reads as zeros.
    pub(super) const ZERO: Subclusters = Subclusters { allocated: 0, zero: u32::MAX };
    /// Every subcluster shows what is below.
    pub(super) const UNALLOCATED: Subclusters = Subclusters { allocated: 0, zero: 0 };

    /// Whether this subcluster's data is in the host cluster.
    pub(super) fn has_data(self, subcluster: u64) -> bool {
        let shift = u32::try_from(subcluster).unwrap_or(u32::MAX);
        self.allocated.checked_shr(shift).unwrap_or_default() & 1 == 1
    }

    /// Whether this subcluster reads as zeros.
    pub(super) fn is_zero(self, subcluster: u64) -> bool {
        let shift = u32::try_from(subcluster).unwrap_or(u32::MAX);
        self.zero.checked_shr(shift).unwrap_or_default() & 1 == 1
    }

    /// The same with the data of these subclusters in the host cluster.
    #[must_use]
    pub(super) const fn with_data(self, these: u32) -> Self {
        Subclusters { allocated: self.allocated | these, zero: self.zero & !these }
    }

    /// The same with these subclusters read as zeros.
    #[must_use]
    pub(super) const fn with_zeros(self, these: u32) -> Self {
        Subclusters { allocated: self.allocated & !these, zero: self.zero | these }
    }

    const fn bits(self) -> u64 {
        // Widening, and `const`, which `u64::from` is not yet.
        #[expect(clippy::as_conversions, reason = "widening in a const fn")]
        let (zero, allocated) = (self.zero as u64, self.allocated as u64);
        (zero << 32) | allocated
    }

    fn from_bits(bits: u64) -> Result<Self, FormatError> {
        // OK to default: both halves have 32 bits.
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
        let subclusters = Subclusters { allocated: half(bits), zero: half(bits >> 32) };
        if subclusters.allocated & subclusters.zero != 0 {
            return Err(Problem::SubclusterBitmap(bits).into());
        }
        Ok(subclusters)
    }
}

/// Compressed data: a byte range of the image file, not aligned to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressedRange {
    /// Where it begins.
    pub(super) offset: HostOffset,
    /// The most bytes that it may have; the stream ends before.
    pub(super) len: u64,
}

/// What an L2 entry says about its guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// What is below shows through: the backing file, else zeros.
    Unallocated,
    /// Reads as zeros. A host cluster may be kept for it.
    Zero(Option<ClusterRef>),
    /// The data is in this host cluster.
    Data(ClusterRef),
    /// Extended L2: each subcluster is in the host cluster, or zero, or shows what is below.
    Mixed(Option<ClusterRef>, Subclusters),
    /// The data is packed in this range.
    Compressed(CompressedRange),
}

impl L2Entry {
    /// Nothing is mapped.
    pub(super) const UNALLOCATED: L2Entry = L2Entry { word: 0, bitmap: 0 };

    /// The entry of a guest cluster whose data is in `host`.
    pub(super) fn data(host: ClusterRef, geometry: Geometry) -> Self {
        let subclusters = geometry.extended_l2().then_some(Subclusters::ALLOCATED);
        L2Entry { word: word(host), bitmap: subclusters.unwrap_or_default().bits() }
    }

    /// The entry of a guest cluster with a host cluster that holds nothing yet: with extended L2
    /// entries these subclusters, otherwise the host cluster's bytes.
    pub(super) fn reserved(host: ClusterRef, subclusters: Subclusters, geometry: Geometry) -> Self {
        let bitmap = if geometry.extended_l2() { subclusters.bits() } else { 0 };
        L2Entry { word: word(host), bitmap }
    }

    /// The entry of a guest cluster whose subclusters are like this; without extended L2 entries
    /// they are all alike.
    pub(super) fn of(
        host: Option<ClusterRef>,
        subclusters: Subclusters,
        geometry: Geometry,
    ) -> Self {
        let host = host.map_or(0, word);
        match geometry.extended_l2() {
            true => L2Entry { word: host, bitmap: subclusters.bits() },
            false if subclusters.zero != 0 => L2Entry { word: host | ZERO_FLAG, bitmap: 0 },
            false => L2Entry { word: host, bitmap: 0 },
        }
    }

    /// The entry of a guest cluster whose data is packed in `len` bytes at `offset`; `None` where
    /// it has no bits for so large an offset.
    pub(super) fn compressed(offset: HostOffset, len: u64, geometry: Geometry) -> Option<Self> {
        let offset_bits = 70u32.saturating_sub(geometry.cluster_bits().get());
        if offset.get() >> offset_bits != 0 || offset.get() >= MAX_HOST_OFFSET {
            return None;
        }
        let last = offset.get().saturating_add(len.saturating_sub(1));
        let sectors = (last / COMPRESSED_SECTOR).saturating_sub(offset.get() / COMPRESSED_SECTOR);
        Some(L2Entry { word: COMPRESSED | sectors << offset_bits | offset.get(), bitmap: 0 })
    }

    /// Whether the data is in an external data file at offset 0, where the flag alone says that it
    /// is there at all.
    pub(super) const fn is_at_zero(self) -> bool {
        self.word & !ZERO_FLAG == COPIED
    }

    /// What an entry says that [is at zero](Self::is_at_zero).
    pub(super) fn decode_at_zero(self, geometry: Geometry) -> Result<Mapping, FormatError> {
        let host = ClusterRef::sole(HostOffset::ZERO);
        if !geometry.extended_l2() {
            let zero = self.word & ZERO_FLAG != 0;
            return Ok(if zero { Mapping::Zero(Some(host)) } else { Mapping::Data(host) });
        }
        Ok(match Subclusters::from_bits(self.bitmap)? {
            Subclusters::ALLOCATED => Mapping::Data(host),
            Subclusters::ZERO => Mapping::Zero(Some(host)),
            subclusters => Mapping::Mixed(Some(host), subclusters),
        })
    }

    /// The entry of a guest cluster that reads as zeros and has no host cluster (version 3).
    pub(super) const fn zero(geometry: Geometry) -> Self {
        match geometry.extended_l2() {
            true => L2Entry { word: 0, bitmap: Subclusters::ZERO.bits() },
            false => L2Entry { word: ZERO_FLAG, bitmap: 0 },
        }
    }

    /// The entry of a guest cluster that has lost its data: zero, or in version 2, which cannot say
    /// so, unallocated.
    pub(super) const fn lost(version: Version, geometry: Geometry) -> Self {
        match version {
            Version::V2 => L2Entry::UNALLOCATED,
            Version::V3 => L2Entry::zero(geometry),
        }
    }

    /// The same entry without what the format reserves: flags, and states of subclusters that
    /// contradict one another or a missing host cluster, which read as zeros then.
    #[must_use]
    pub(super) fn without_reserved(self, version: Version, geometry: Geometry) -> Self {
        if self.word & COMPRESSED != 0 {
            return L2Entry { bitmap: 0, ..self };
        }
        let no_flag = geometry.extended_l2() || version == Version::V2;
        let word = self.word & !L2_RESERVED & if no_flag { !ZERO_FLAG } else { u64::MAX };
        let (allocated, zero) = (self.bitmap & u64::from(u32::MAX), self.bitmap >> 32);
        let kept = if word & OFFSET_MASK == 0 { 0 } else { allocated & !zero };
        L2Entry { word, bitmap: kept | (zero | allocated & !kept) << 32 }
    }

    /// Whether this entry has data in subclusters that have none in `other`.
    pub(super) const fn loses_subclusters_in(self, other: L2Entry) -> bool {
        #[expect(clippy::as_conversions, reason = "widening in a const fn")]
        let allocated = u32::MAX as u64;
        self.word & COMPRESSED == 0 && self.bitmap & !other.bitmap & allocated != 0
    }

    /// The same entry with its data in another host cluster.
    #[must_use]
    pub(super) fn moved_to(self, host: ClusterRef) -> Self {
        L2Entry { word: word(host) | self.word & ZERO_FLAG, ..self }
    }

    /// Whether the entry maps nothing at all.
    pub(super) const fn is_empty(self) -> bool {
        self.word == 0 && self.bitmap == 0
    }

    /// The same entry with the COPIED flag set or clear.
    #[must_use]
    pub(super) const fn with_copied(self, copied: bool) -> Self {
        let word = if copied { self.word | COPIED } else { self.word & !COPIED };
        L2Entry { word, bitmap: self.bitmap }
    }

    /// Whether the COPIED flag is set.
    pub(super) const fn is_copied(self) -> bool {
        self.word & COPIED != 0
    }

    /// Whether it says that the cluster reads as zeros: not in version 2, where the bit is reserved.
    pub(super) const fn has_zero_flag(self) -> bool {
        self.word & COMPRESSED == 0 && self.word & ZERO_FLAG != 0
    }

    /// Where it leads, whatever else is wrong with it; means nothing if it is compressed.
    pub(super) const fn offset_bits(self) -> HostOffset {
        HostOffset::new(self.word & OFFSET_MASK)
    }

    /// What the entry says, whatever the version of its image.
    pub(super) fn decode(self, geometry: Geometry) -> Result<Mapping, FormatError> {
        if self.word & COMPRESSED != 0 {
            return Ok(Mapping::Compressed(compressed_range(self.word, geometry)));
        }
        if self.word & L2_RESERVED != 0 {
            return Err(Problem::ReservedBits { what: "L2", value: self.word }.into());
        }
        let host = reference(self.word & !ZERO_FLAG, "data cluster", geometry)?;
        if geometry.extended_l2() {
            if self.word & ZERO_FLAG != 0 {
                return Err(Problem::ReservedBits { what: "L2", value: self.word }.into());
            }
            let subclusters = Subclusters::from_bits(self.bitmap)?;
            return Ok(match (host, subclusters) {
                (None, Subclusters::UNALLOCATED) => Mapping::Unallocated,
                (None, subclusters) if subclusters.allocated != 0 => {
                    return Err(Problem::SubclusterBitmap(self.bitmap).into());
                }
                (host, Subclusters::ZERO) => Mapping::Zero(host),
                (Some(host), Subclusters::ALLOCATED) => Mapping::Data(host),
                (host, subclusters) => Mapping::Mixed(host, subclusters),
            });
        }
        Ok(match (host, self.word & ZERO_FLAG != 0) {
            (host, true) => Mapping::Zero(host),
            (Some(host), false) => Mapping::Data(host),
            (None, false) => Mapping::Unallocated,
        })
    }
}

impl Mapping {
    /// The states of its subclusters; all alike without extended L2 entries.
    pub(super) fn subclusters(self) -> Subclusters {
        match self {
            Mapping::Data(_) => Subclusters::ALLOCATED,
            Mapping::Zero(_) => Subclusters::ZERO,
            Mapping::Mixed(_, subclusters) => subclusters,
            Mapping::Unallocated | Mapping::Compressed(_) => Subclusters::UNALLOCATED,
        }
    }

    /// The whole host cluster that the mapping refers to, if any.
    pub(super) fn host_cluster(self) -> Option<ClusterRef> {
        match self {
            Mapping::Data(host) => Some(host),
            Mapping::Zero(host) | Mapping::Mixed(host, _) => host,
            Mapping::Unallocated | Mapping::Compressed(_) => None,
        }
    }
}

fn word(reference: ClusterRef) -> u64 {
    reference.offset.get() | if reference.copied { COPIED } else { 0 }
}

fn reference(
    word: u64,
    what: &'static str,
    geometry: Geometry,
) -> Result<Option<ClusterRef>, FormatError> {
    let offset = HostOffset::new(word & OFFSET_MASK);
    if !geometry.is_aligned(offset) {
        return Err(Problem::Unaligned { what, offset: offset.get() }.into());
    }
    let copied = word & COPIED != 0;
    Ok((offset != HostOffset::ZERO).then_some(ClusterRef { offset, copied }))
}

/// The descriptor has the offset in its low `62 - (cluster_bits - 8)` bits, and above them the
/// number of sectors *after* the one that the offset lies in.
fn compressed_range(word: u64, geometry: Geometry) -> CompressedRange {
    let offset_bits = 70u32.saturating_sub(geometry.cluster_bits().get());
    let offset_mask = (1u64 << offset_bits).wrapping_sub(1);
    let offset = word & offset_mask;
    let descriptor = word & (COMPRESSED.wrapping_sub(1));
    let sectors = (descriptor >> offset_bits).saturating_add(1);
    let in_first_sector = offset % COMPRESSED_SECTOR;
    let len = sectors.saturating_mul(COMPRESSED_SECTOR).saturating_sub(in_first_sector);
    CompressedRange { offset: HostOffset::new(offset), len }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::geometry::{ClusterBits, RefcountOrder};

    fn geometry(bits: u32, extended: bool) -> Geometry {
        Geometry::new(ClusterBits::new(bits).unwrap(), RefcountOrder::DEFAULT, extended).unwrap()
    }

    #[test]
    fn compressed_descriptors_are_read_as_the_specification_says() {
        // 64 KiB clusters: x = 54. Two sectors, beginning at byte 0x50123.
        let word = COMPRESSED | (1 << 54) | 0x50123;
        let mapping = L2Entry { word, bitmap: 0 }.decode(geometry(16, false)).unwrap();
        let range = CompressedRange { offset: HostOffset::new(0x50123), len: 1024 - 0x123 };
        assert_eq!(mapping, Mapping::Compressed(range));
    }

    #[test]
    fn forbidden_words_are_refused() {
        let plain = geometry(16, false);
        assert!(L2Entry { word: 2, bitmap: 0 }.decode(plain).is_err());
        assert!(L2Entry { word: 0x200, bitmap: 0 }.decode(plain).is_err());
        assert!(L1Entry::from_word(0x10001).decode(plain).is_err());
        assert!(RefcountTableEntry::from_word(0x10001).decode(plain).is_err());
        let both = L2Entry { word: COPIED | 0x10000, bitmap: 0x1_0000_0001 };
        assert!(both.decode(geometry(16, true)).is_err());
        assert!(L2Entry { word: 0, bitmap: 1 }.decode(geometry(16, true)).is_err());
        assert!(L2Entry { word: 1, bitmap: 0 }.decode(geometry(16, true)).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(word: u64, bitmap: u64, bits in 14u32..=21, extended: bool) {
            let _ = L2Entry { word, bitmap }.decode(geometry(bits, extended));
            let _ = L1Entry::from_word(word).decode(geometry(bits, extended));
        }

        #[test]
        fn compressed_entries_come_back(
            bits in 9u32..=21,
            offset in prop_oneof![0u64..1 << 50, 0..MAX_HOST_OFFSET],
            len: prop::sample::Index,
            extended: bool,
        ) {
            let geometry = geometry(bits, extended && bits >= 14);
            let len = 1 + len.index(geometry.cluster_len() - 1) as u64;
            let fits = offset < 1 << (70 - bits).min(56);
            let entry = L2Entry::compressed(HostOffset::new(offset), len, geometry);
            prop_assert_eq!(entry.is_some(), fits);
            let Some(entry) = entry else { return Ok(()) };
            let Mapping::Compressed(range) = entry.decode(geometry).unwrap() else { panic!() };
            prop_assert_eq!(range.offset.get(), offset);
            let last = offset + len - 1;
            prop_assert_eq!(offset + range.len, last / COMPRESSED_SECTOR * COMPRESSED_SECTOR + 512);
        }

        #[test]
        fn data_entries_come_back(cluster in 1u64..1 << 30, copied: bool, extended: bool) {
            let geometry = geometry(16, extended);
            let host = ClusterRef { offset: HostOffset::new(cluster << 16), copied };
            let mapping = L2Entry::data(host, geometry).decode(geometry).unwrap();
            prop_assert_eq!(mapping, Mapping::Data(host));
            let table = L1Entry::encode(host).decode(geometry).unwrap();
            prop_assert_eq!(table, Some(host));
        }
    }
}
