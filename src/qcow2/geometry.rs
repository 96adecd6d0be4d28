//! Offsets, clusters and counts as different types, and [`Geometry`], which owns every conversion
//! between them.
//!
//! Sums saturate instead of wrapping: a saturated offset lies beyond every file and every limit,
//! so the bounds checks at the doors catch it.

use std::fmt;
use std::ops::{Add, Sub};

use crate::units::VirtualSize;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Zero.
            pub const ZERO: $name = $name(0);

            /// Wraps a plain number.
            pub const fn new(value: u64) -> Self {
                $name(value)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity! {
    /// A byte of the disk as the guest sees it.
    GuestOffset
}
quantity! {
    /// A byte of the image file.
    HostOffset
}
quantity! {
    /// A cluster of the disk as the guest sees it, by index.
    GuestCluster
}
quantity! {
    /// A cluster of the image file, by index.
    HostCluster
}
quantity! {
    /// A number of clusters.
    ClusterCount
}

macro_rules! arithmetic {
    ($($left:ident + $right:ident);+ $(;)?) => {$(
        impl Add<$right> for $left {
            type Output = $left;

            fn add(self, right: $right) -> $left {
                $left(self.0.saturating_add(right.0))
            }
        }
    )+};
}

arithmetic! {
    HostCluster + ClusterCount;
    GuestCluster + ClusterCount;
    ClusterCount + ClusterCount;
}

impl HostOffset {
    /// The offset so many bytes further on.
    pub const fn plus_bytes(self, bytes: u64) -> Self {
        HostOffset(self.0.saturating_add(bytes))
    }
}

impl GuestOffset {
    /// The offset so many bytes further on.
    pub const fn plus_bytes(self, bytes: u64) -> Self {
        GuestOffset(self.0.saturating_add(bytes))
    }
}

impl Sub for HostCluster {
    type Output = ClusterCount;

    /// The distance; zero when `right` is not before `self`.
    fn sub(self, right: HostCluster) -> ClusterCount {
        ClusterCount(self.0.saturating_sub(right.0))
    }
}

impl Sub for GuestCluster {
    type Output = ClusterCount;

    /// The distance; zero when `right` is not before `self`.
    fn sub(self, right: GuestCluster) -> ClusterCount {
        ClusterCount(self.0.saturating_sub(right.0))
    }
}

impl Sub for ClusterCount {
    type Output = ClusterCount;

    /// The difference; zero when `right` is larger.
    fn sub(self, right: ClusterCount) -> ClusterCount {
        ClusterCount(self.0.saturating_sub(right.0))
    }
}

/// The largest cluster that QEMU opens, in bytes.
pub const MAX_CLUSTER_SIZE: u64 = 2 << 20;

/// The base-2 logarithm of the cluster size: 9 (512 B) to 21 (2 MiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterBits(u32);

impl ClusterBits {
    /// 64 KiB, what every tool uses unless told otherwise.
    pub const DEFAULT: ClusterBits = ClusterBits(16);

    /// The header's `cluster_bits`, if it is one that QEMU opens.
    pub fn new(bits: u32) -> Option<Self> {
        (9..=21).contains(&bits).then_some(ClusterBits(bits))
    }

    /// From a cluster size in bytes: a power of two from 512 B to 2 MiB.
    pub fn from_cluster_size(bytes: u64) -> Option<Self> {
        if !bytes.is_power_of_two() {
            return None;
        }
        Self::new(bytes.trailing_zeros())
    }

    /// The logarithm.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The size of a cluster, in bytes.
    pub const fn cluster_size(self) -> u64 {
        1u64 << self.0
    }
}

/// The base-2 logarithm of the width of a reference count in bits: 0 (1 bit) to 6 (64 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefcountOrder(u32);

impl RefcountOrder {
    /// 16 bits, the only width that version 2 knows.
    pub const DEFAULT: RefcountOrder = RefcountOrder(4);

    /// The header's `refcount_order`, if it is at most 6.
    pub fn new(order: u32) -> Option<Self> {
        (order <= 6).then_some(RefcountOrder(order))
    }

    /// From a width in bits: 1, 2, 4, 8, 16, 32 or 64.
    pub fn from_bits(bits: u64) -> Option<Self> {
        if !bits.is_power_of_two() {
            return None;
        }
        Self::new(bits.trailing_zeros())
    }

    /// The logarithm.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The width in bits.
    pub const fn bits(self) -> u64 {
        1u64 << self.0
    }

    /// The largest count that fits.
    pub const fn max_count(self) -> u64 {
        match self.0 {
            6 => u64::MAX,
            order => (1u64 << (1u32 << order)).wrapping_sub(1),
        }
    }
}

/// The size of an L1 or refcount table entry, and of a plain L2 entry, in bytes.
pub const ENTRY_SIZE: u64 = 8;
/// Subclusters of a cluster in an image with extended L2 entries.
pub const SUBCLUSTERS: u64 = 32;
/// The largest L1 table that QEMU opens, in bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table that QEMU opens, in bytes.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Host offsets fit in the 56 bits that table entries have for them.
pub const MAX_HOST_OFFSET: u64 = 1 << 56;

/// The sizes that all of an image's structures follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    cluster_bits: ClusterBits,
    refcount_order: RefcountOrder,
    extended_l2: bool,
}

impl Geometry {
    /// Joins the three header fields that decide it. Extended L2 entries need subclusters of at
    /// least 512 bytes, so clusters of at least 16 KiB: `None` otherwise.
    pub fn new(bits: ClusterBits, order: RefcountOrder, extended_l2: bool) -> Option<Self> {
        if extended_l2 && bits.get() < 14 {
            return None;
        }
        Some(Geometry { cluster_bits: bits, refcount_order: order, extended_l2 })
    }

    /// The base-2 logarithm of the cluster size.
    pub const fn cluster_bits(self) -> ClusterBits {
        self.cluster_bits
    }

    /// The width of reference counts.
    pub const fn refcount_order(self) -> RefcountOrder {
        self.refcount_order
    }

    /// Whether L2 entries are 128 bits with a subcluster bitmap.
    pub const fn extended_l2(self) -> bool {
        self.extended_l2
    }

    /// The size of a cluster, in bytes.
    pub const fn cluster_size(self) -> u64 {
        self.cluster_bits.cluster_size()
    }

    /// The size of a cluster, for buffers.
    pub fn cluster_len(self) -> usize {
        // OK to default: 2 MiB fits in every usize that this crate compiles for.
        usize::try_from(self.cluster_size()).unwrap_or(usize::MAX)
    }

    /// The size of an L2 entry, in bytes.
    pub const fn l2_entry_size(self) -> u64 {
        if self.extended_l2 { 16 } else { ENTRY_SIZE }
    }

    /// Entries of an L2 table, which is one cluster.
    pub const fn l2_entries(self) -> u64 {
        1u64 << self.l2_bits()
    }

    const fn l2_bits(self) -> u32 {
        self.cluster_bits.get().saturating_sub(self.l2_entry_size().trailing_zeros())
    }

    /// Reference counts in a refcount block, which is one cluster.
    pub const fn refblock_entries(self) -> u64 {
        1u64 << self.refblock_bits()
    }

    const fn refblock_bits(self) -> u32 {
        self.cluster_bits.get().saturating_add(3).saturating_sub(self.refcount_order.get())
    }

    /// Whole clusters that hold so many bytes.
    pub const fn clusters_for(self, bytes: u64) -> ClusterCount {
        ClusterCount(shifted_up(bytes, self.cluster_bits.get()))
    }

    /// The bytes of so many clusters.
    pub const fn bytes_of(self, count: ClusterCount) -> u64 {
        count.0.saturating_mul(self.cluster_size())
    }

    /// L1 entries, and so L2 tables, that a disk of this size needs.
    pub const fn l1_entries_for(self, virtual_size: u64) -> u64 {
        shifted_up(self.clusters_for(virtual_size).0, self.l2_bits())
    }

    /// Clusters of a table of so many 8-byte entries.
    pub const fn table_clusters(self, entries: u64) -> ClusterCount {
        self.clusters_for(entries.saturating_mul(ENTRY_SIZE))
    }

    /// 8-byte entries that fit in so many clusters.
    pub const fn table_entries_in(self, clusters: ClusterCount) -> u64 {
        self.bytes_of(clusters) / ENTRY_SIZE
    }

    /// The largest disk that an L1 table of 32 MiB can map, in bytes, up to what a signed offset
    /// can say.
    pub const fn max_virtual_size(self) -> u64 {
        let tables = MAX_L1_BYTES / ENTRY_SIZE;
        let size = tables.saturating_mul(self.l2_entries()).saturating_mul(self.cluster_size());
        if size > i64::MAX.unsigned_abs() { i64::MAX.unsigned_abs() } else { size }
    }

    /// Whether a disk of this size can be mapped.
    pub fn holds(self, size: VirtualSize) -> bool {
        size.bytes() <= self.max_virtual_size()
    }

    /// The cluster that a guest offset lies in.
    pub const fn guest_cluster(self, offset: GuestOffset) -> GuestCluster {
        GuestCluster(offset.0 >> self.cluster_bits.get())
    }

    /// Where a guest cluster begins.
    pub const fn guest_offset(self, cluster: GuestCluster) -> GuestOffset {
        GuestOffset(cluster.0.saturating_mul(self.cluster_size()))
    }

    /// The first guest cluster that lies wholly at or beyond this offset.
    pub const fn guest_cluster_after(self, offset: GuestOffset) -> GuestCluster {
        GuestCluster(shifted_up(offset.0, self.cluster_bits.get()))
    }

    /// How far into its cluster a guest offset lies, in bytes.
    pub const fn within_cluster(self, offset: GuestOffset) -> u64 {
        offset.0 & self.cluster_size().wrapping_sub(1)
    }

    /// The size of what has a state of its own, in bytes: a subcluster, or a whole cluster.
    pub const fn subcluster_size(self) -> u64 {
        1u64 << self.subcluster_bits()
    }

    /// The subcluster that lies so many bytes into its cluster; 0 where clusters have none.
    pub const fn subcluster(self, within: u64) -> u64 {
        within >> self.subcluster_bits()
    }

    /// Where that subcluster begins, in bytes from the beginning of the cluster.
    pub const fn subcluster_start(self, within: u64) -> u64 {
        within >> self.subcluster_bits() << self.subcluster_bits()
    }

    const fn subcluster_bits(self) -> u32 {
        let in_cluster = if self.extended_l2 { SUBCLUSTERS.trailing_zeros() } else { 0 };
        self.cluster_bits.get().saturating_sub(in_cluster)
    }

    /// The L1 entry that leads to a guest cluster.
    pub const fn l1_index(self, cluster: GuestCluster) -> u64 {
        cluster.0 >> self.l2_bits()
    }

    /// The entry of that cluster in its L2 table.
    pub const fn l2_index(self, cluster: GuestCluster) -> u64 {
        cluster.0 & self.l2_entries().wrapping_sub(1)
    }

    /// The first guest cluster that the L2 table of this L1 entry maps.
    pub const fn first_cluster_of_table(self, l1_index: u64) -> GuestCluster {
        GuestCluster(l1_index.saturating_mul(self.l2_entries()))
    }

    /// The cluster of the image file that a host offset lies in.
    pub const fn host_cluster(self, offset: HostOffset) -> HostCluster {
        HostCluster(offset.0 >> self.cluster_bits.get())
    }

    /// Where a cluster of the image file begins.
    pub const fn host_offset(self, cluster: HostCluster) -> HostOffset {
        HostOffset(cluster.0.saturating_mul(self.cluster_size()))
    }

    /// The first cluster of the image file that begins at or beyond this file length.
    pub const fn host_cluster_after(self, file_len: u64) -> HostCluster {
        HostCluster(shifted_up(file_len, self.cluster_bits.get()))
    }

    /// Whether a host offset is the beginning of a cluster.
    pub const fn is_aligned(self, offset: HostOffset) -> bool {
        offset.0 & self.cluster_size().wrapping_sub(1) == 0
    }

    /// The refcount table entry for a cluster of the image file.
    pub const fn refblock_index(self, cluster: HostCluster) -> u64 {
        cluster.0 >> self.refblock_bits()
    }

    /// The place of that cluster's count in its refcount block.
    pub const fn index_in_refblock(self, cluster: HostCluster) -> u64 {
        cluster.0 & self.refblock_entries().wrapping_sub(1)
    }

    /// The first cluster whose count lies in this refcount block.
    pub const fn first_cluster_of_refblock(self, index: u64) -> HostCluster {
        HostCluster(index.saturating_mul(self.refblock_entries()))
    }
}

/// `value` divided by a power of two, rounded up. (`div_ceil` by a number that only we know to be
/// one divides, and requests for guest data would wait for that.)
const fn shifted_up(value: u64, bits: u32) -> u64 {
    let whole = value >> bits;
    if whole << bits == value { whole } else { whole.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(bits: u32, order: u32, extended: bool) -> Geometry {
        let bits = ClusterBits::new(bits).unwrap();
        Geometry::new(bits, RefcountOrder::new(order).unwrap(), extended).unwrap()
    }

    #[test]
    fn limits_are_those_of_qemu() {
        for (bits, size) in [(9, 128u64 << 30), (12, 8 << 40), (16, 2 << 50), (21, 2 << 60)] {
            assert_eq!(geometry(bits, 4, false).max_virtual_size(), size, "{bits}");
        }
        assert_eq!(geometry(16, 4, true).max_virtual_size(), 1 << 50);
        assert!(ClusterBits::new(8).is_none() && ClusterBits::new(22).is_none());
        assert!(ClusterBits::from_cluster_size(3000).is_none());
        assert!(RefcountOrder::from_bits(3).is_none());
        assert!(
            Geometry::new(ClusterBits::new(13).unwrap(), RefcountOrder::DEFAULT, true).is_none()
        );
    }

    #[test]
    fn counts_follow_from_the_widths() {
        let widths = [1u64, 3, 15, 255, 65535, u32::MAX.into(), u64::MAX];
        for (order, max) in (0..).zip(widths) {
            let geometry = geometry(16, order, false);
            assert_eq!(geometry.refcount_order().max_count(), max);
            assert_eq!(geometry.refblock_entries() << order, 65536 * 8);
        }
        assert_eq!(geometry(16, 4, false).l1_entries_for(20 << 30), 40);
        assert_eq!(geometry(16, 4, true).l1_entries_for(20 << 30), 80);
        assert_eq!(geometry(9, 4, false).l2_entries(), 64);
    }
}
