//! What of an open image changes: its tables in memory, and what is known of its counts.

use std::ops::Range;

use super::cache::SliceCache;
use super::entry::RefcountTableEntry;
use super::feature::{Autoclear, Incompatible};
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::header::{Header, TableRef};
use super::overlap::Structures;
use super::runs;
use crate::block::CacheConfig;

/// The most runs of clusters that wait for their release; they take 64 KiB.
const MAX_QUARANTINE: usize = 4096;

/// The changing part of an open image.
#[derive(Debug)]
pub(super) struct Live {
    /// Whether everything is prepared for changes.
    pub(super) ready: bool,
    /// Slices of the L1 table and of L2 tables.
    pub(super) tables: SliceCache,
    /// Slices of refcount blocks.
    pub(super) counts: SliceCache,
    /// The refcount table, once something is written.
    pub(super) refcount_table: Vec<RefcountTableEntry>,
    pub(super) refcount_table_ref: TableRef,
    /// The feature bits as the header has them now.
    pub(super) incompatible: Incompatible,
    pub(super) autoclear: Autoclear,
    /// Where the search for a free cluster goes on.
    pub(super) next_free: HostCluster,
    /// Once everything is prepared: behind all that was ever used, in the image or since; clusters
    /// before it may be free. A file ends here at the latest, so what is added to it reads as zeros;
    /// a device has from here on what somebody left there.
    pub(super) end: HostCluster,
    /// Clusters that lost a reference in the tables in memory. Their counts go down once the
    /// tables are on the medium; until then they are nobody's to take.
    pub(super) quarantine: Vec<Range<HostCluster>>,
    /// Where the image's own structures are, once something is written.
    pub(super) structures: Structures,
    /// Where the next packed data may begin, behind the last in its cluster; forgotten when that
    /// cluster becomes free, for then it is anybody's.
    pub(super) packed_end: Option<HostOffset>,
}

impl Live {
    /// That of an image that was just opened.
    pub(super) fn new(header: &Header, config: CacheConfig) -> Self {
        Live {
            ready: false,
            tables: SliceCache::new(header.geometry, config.table_bytes),
            counts: SliceCache::new(header.geometry, config.refcount_bytes),
            refcount_table: Vec::new(),
            refcount_table_ref: header.refcount_table,
            incompatible: header.incompatible,
            autoclear: header.autoclear,
            next_free: HostCluster::ZERO,
            end: HostCluster::ZERO,
            quarantine: Vec::new(),
            structures: Structures::default(),
            packed_end: None,
        }
    }

    /// Clusters lose a reference.
    pub(super) fn quarantine(&mut self, run: Range<HostCluster>) {
        runs::push(&mut self.quarantine, run);
    }

    /// Whether so much was changed that it should be written, to make room in memory.
    pub(super) fn is_crowded(&self) -> bool {
        self.tables.is_crowded()
            || self.counts.is_crowded()
            || self.quarantine.len() >= MAX_QUARANTINE
    }

    /// A cluster became free.
    pub(super) fn freed(&mut self, cluster: HostCluster, geometry: Geometry) {
        self.structures.remove(&(cluster..cluster + ClusterCount::new(1)));
        self.next_free = self.next_free.min(cluster);
        if self.packed_end.is_some_and(|end| geometry.host_cluster(end) == cluster) {
            self.packed_end = None;
        }
    }
}
