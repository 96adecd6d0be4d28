//! Where everything of a new image goes, computed before a byte is written.

use std::ops::Range;

use super::geometry::{
    ClusterCount, ENTRY_SIZE, Geometry, HostCluster, MAX_HOST_OFFSET, MAX_REFCOUNT_TABLE_BYTES,
};
use super::options::{CreateOptions, L1Capacity, Preallocation};
use crate::error::{Error, ErrorKind, Result};

/// The structures of a new image in the order in which they lie, each a run of host clusters.
/// Metadata comes first and in one piece, so that it can be written in large sequential writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) geometry: Geometry,
    pub(super) refcount_table: Range<HostCluster>,
    pub(super) refcount_blocks: Range<HostCluster>,
    pub(super) l1: Range<HostCluster>,
    pub(super) l1_entries: u64,
    pub(super) l2: Range<HostCluster>,
    pub(super) data: Range<HostCluster>,
}

impl Layout {
    /// Lays out an image in which the first `initial` guest clusters have data from the start.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize) when the disk is larger than the geometry can map, or when
    /// preallocating it needs a larger refcount table than QEMU opens.
    pub(super) fn plan(options: &CreateOptions, initial: ClusterCount) -> Result<Layout> {
        let geometry = options.geometry;
        options.require_mappable()?;
        let tables = geometry.l1_entries_for(options.virtual_size.bytes());
        let all = geometry.clusters_for(options.virtual_size.bytes());
        let initial_tables = initial.get().div_ceil(geometry.l2_entries());
        let (l2, data) = match options.preallocation {
            Preallocation::Off => (initial_tables, initial),
            Preallocation::Tables => (tables, initial),
            Preallocation::Metadata | Preallocation::Falloc | Preallocation::Full => (tables, all),
        };
        let l1_entries = match options.l1_capacity {
            L1Capacity::AsNeeded => tables,
            L1Capacity::WholeClusters => {
                geometry.table_entries_in(geometry.table_clusters(tables.max(1)))
            }
        };
        let l1 = geometry.table_clusters(l1_entries.max(1));
        Self::place(geometry, l1, l1_entries, ClusterCount::new(l2), data)
    }

    fn place(
        geometry: Geometry,
        l1: ClusterCount,
        l1_entries: u64,
        l2: ClusterCount,
        data: ClusterCount,
    ) -> Result<Layout> {
        let rest = ClusterCount::new(1) + l1 + l2 + data;
        let (table, blocks) = refcount_clusters(geometry, rest);
        let refcount_table = run(HostCluster::new(1), table);
        let refcount_blocks = run(refcount_table.end, blocks);
        let l1 = run(refcount_blocks.end, l1);
        let l2 = run(l1.end, l2);
        let data = run(l2.end, data);
        let layout = Layout { geometry, refcount_table, refcount_blocks, l1, l1_entries, l2, data };
        let too_large = |what: String| {
            let cluster = geometry.cluster_size();
            let message =
                format!("with clusters of {cluster} bytes, preallocating this size {what}");
            Err(Error::new(ErrorKind::BadSize, message))
        };
        let table_bytes = geometry.bytes_of(table);
        if table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return too_large(format!(
                "needs a refcount table of {table_bytes} bytes: at most \
                 {MAX_REFCOUNT_TABLE_BYTES} are allowed"
            ));
        }
        if layout.file_len() > MAX_HOST_OFFSET {
            return too_large(format!("needs a file of more than {MAX_HOST_OFFSET} bytes"));
        }
        Ok(layout)
    }

    /// The length of the finished file, in bytes: whole clusters.
    pub(super) fn file_len(&self) -> u64 {
        self.geometry.host_offset(self.data.end).get()
    }

    /// Clusters in use, all of them from the beginning of the file.
    pub(super) fn used(&self) -> HostCluster {
        self.data.end
    }
}

fn run(start: HostCluster, count: ClusterCount) -> Range<HostCluster> {
    start..start + count
}

/// How many clusters the refcount table and its blocks need to count `rest` other clusters and
/// themselves.
pub(super) fn refcount_clusters(
    geometry: Geometry,
    rest: ClusterCount,
) -> (ClusterCount, ClusterCount) {
    let (mut table, mut blocks) = (ClusterCount::new(1), ClusterCount::new(1));
    // Each step can only grow both, and by less than the step before: it ends after a few.
    loop {
        let total = rest + table + blocks;
        let needed_blocks = ClusterCount::new(total.get().div_ceil(geometry.refblock_entries()));
        let needed_table = geometry.clusters_for(needed_blocks.get().saturating_mul(ENTRY_SIZE));
        if (needed_table, needed_blocks) == (table, blocks) {
            return (table, blocks);
        }
        (table, blocks) = (needed_table.max(table), needed_blocks.max(blocks));
    }
}
