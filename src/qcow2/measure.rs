//! How large the file of an image would be.

use super::bitmap::read_bitmaps;
use super::geometry::{ClusterCount, Geometry};
use super::header::Header;
use super::layout::refcount_clusters;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::units::VirtualSize;

/// How large a new image's file would be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// With the data that is there.
    pub required: u64,
    /// With every cluster of its disk.
    pub fully_allocated: u64,
}

/// How large the file of a new image would be: with `data`, the clusters that get data, and with all
/// of them. Everything that every cluster of the disk would need is counted in either case, as QEMU
/// counts it.
///
/// # Errors
/// [`BadSize`](ErrorKind::BadSize) for a disk that is larger than the geometry can map.
pub fn measure(geometry: Geometry, size: VirtualSize, data: ClusterCount) -> Result<Measured> {
    if !geometry.holds(size) {
        let (cluster, most) = (geometry.cluster_size(), geometry.max_virtual_size());
        let message =
            format!("size {size} is above what clusters of {cluster} bytes can map: {most} bytes");
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    let clusters = geometry.clusters_for(size.bytes());
    let l2 = ClusterCount::new(geometry.l1_entries_for(size.bytes()));
    // The L1 table has whole clusters.
    let l1 = geometry.table_clusters(l2.get());
    let rest = ClusterCount::new(1) + l1 + l2;
    let (table, blocks) = refcount_clusters(geometry, rest + clusters);
    let metadata = rest + table + blocks;
    Ok(Measured {
        required: geometry.bytes_of(metadata + data),
        fully_allocated: geometry.bytes_of(metadata + clusters),
    })
}

/// Counts the clusters of a new image that get data, told run by run, in order.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    cluster_size: u64,
    /// The clusters before this one were counted.
    next: u64,
    clusters: u64,
}

impl Counted {
    /// None yet.
    pub fn new(geometry: Geometry) -> Self {
        Counted { cluster_size: geometry.cluster_size(), next: 0, clusters: 0 }
    }

    /// The guest's bytes from `offset` on, `len` of them, are data.
    pub fn add(&mut self, offset: u64, len: u64) {
        let cluster = |at: u64| at.checked_div(self.cluster_size).unwrap_or_default();
        let last = offset.saturating_add(len.saturating_sub(1));
        let (first, end) = (cluster(offset).max(self.next), cluster(last).saturating_add(1));
        if len > 0 && end > first {
            self.clusters = self.clusters.saturating_add(end.saturating_sub(first));
            self.next = end;
        }
    }

    /// How many there are.
    pub fn clusters(self) -> ClusterCount {
        ClusterCount::new(self.clusters)
    }
}

/// How many bytes the bitmaps of an image would take in a new image of this geometry, with every bit
/// of theirs stored; those that nobody vouches for, or that nobody closed, are not counted.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) for a directory beyond the format's limits; what the storage says.
pub fn measure_bitmaps(storage: &dyn Storage, header: &Header, new: Geometry) -> Result<u64> {
    let (mut clusters, mut directory) = (ClusterCount::ZERO, 0u64);
    for bitmap in read_bitmaps(storage, header)?.iter().filter(|bitmap| !bitmap.is_in_use()) {
        let bytes = header.virtual_size.div_ceil(bitmap.granularity.bytes()).div_ceil(8);
        let bits = new.clusters_for(bytes);
        clusters = clusters + bits + new.table_clusters(bits.get());
        directory = directory.saturating_add(bitmap.bare_len());
    }
    Ok(new.bytes_of(clusters + new.clusters_for(directory)))
}
