//! Where the image's own structures are, so that guest data is never written over one and none is
//! handed out as a free cluster, whatever entries and counts claim.

use std::ops::Range;

use super::entry::RefcountTableEntry;
use super::error::Problem;
use super::feature::Autoclear;
use super::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use super::header::Header;
use super::runs::Runs;
use super::snapshot::SnapshotReader;
use super::table::each_l1_entry;
use crate::error::Result;
use crate::host::storage::Storage;

/// The most L2 tables that are remembered: those of 8 TiB in clusters of 64 KiB four times over.
/// They take 1 MiB.
const MAX_TABLES: usize = 1 << 16;

/// The clusters of an image's structures.
#[derive(Debug, Default)]
pub(super) struct Structures {
    /// Header, L1 tables, refcount table and blocks, snapshot table, bitmap directory.
    fixed: Runs,
    /// L2 tables of the active disk, the first [`MAX_TABLES`] of them.
    tables: Runs,
}

impl Structures {
    /// Those that the header and the tables refer to.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where two meet: a change of the one would change the
    /// other. Two references to one L2 table are none of them, for that is copied when it changes.
    pub(super) fn find(
        storage: &dyn Storage,
        header: &Header,
        blocks: &[RefcountTableEntry],
    ) -> Result<Structures> {
        let geometry = header.geometry;
        let fixed = apart(claims(storage, header, blocks)?, geometry)?;
        let mut structures = Structures { fixed, tables: Runs::default() };
        let (mut tables, file_len) = (Vec::new(), storage.len()?);
        each_l1_entry(storage, header, |entry| {
            let Ok(Some(table)) = entry.decode(geometry) else { return Ok(()) };
            // Nothing is behind the file's end, whatever an entry says: reading it is an error.
            if table.offset.get() >= file_len {
                return Ok(());
            }
            structures.require_table(geometry, table.offset)?;
            if tables.len() < MAX_TABLES {
                let first = geometry.host_cluster(table.offset);
                tables.push(first..first + ClusterCount::new(1));
            }
            Ok(())
        })?;
        structures.tables = Runs::of(tables);
        Ok(structures)
    }

    /// Remembers clusters that a structure takes.
    pub(super) fn add(&mut self, run: Range<HostCluster>) {
        self.fixed.add(run);
    }

    /// Remembers an L2 table.
    pub(super) fn add_table(&mut self, cluster: HostCluster) {
        if self.tables.len() < MAX_TABLES {
            self.tables.add(cluster..cluster + ClusterCount::new(1));
        }
    }

    /// Forgets clusters that are free now.
    pub(super) fn remove(&mut self, run: &Range<HostCluster>) {
        self.fixed.remove(run);
        self.tables.remove(run);
    }

    /// The first cluster behind all of them.
    pub(super) fn end(&self) -> HostCluster {
        self.fixed.end().max(self.tables.end())
    }

    /// Whether a structure is in this cluster.
    pub(super) fn holds(&self, cluster: HostCluster) -> bool {
        self.fixed.holds(cluster) || self.tables.holds(cluster)
    }

    /// Refuses an L2 table where another structure is.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    pub(super) fn require_table(&self, geometry: Geometry, offset: HostOffset) -> Result<()> {
        match self.fixed.holds(geometry.host_cluster(offset)) {
            true => {
                Err(Problem::UsedTwice { offset: offset.get(), owner: "L2 table" }.into_error())
            }
            false => Ok(()),
        }
    }

    /// Refuses guest data in `len` bytes at `offset` where a structure is.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    pub(super) fn require_data(
        &self,
        geometry: Geometry,
        offset: HostOffset,
        len: u64,
    ) -> Result<()> {
        let last = offset.plus_bytes(len.saturating_sub(1));
        let run = geometry.host_cluster(offset)..geometry.host_cluster(last) + ClusterCount::new(1);
        if self.fixed.meets(&run) || self.tables.meets(&run) {
            let offset = offset.get();
            return Err(Problem::UsedTwice { offset, owner: "guest data" }.into_error());
        }
        Ok(())
    }
}

/// A structure's name, and a run of clusters that it takes.
type Claim = (&'static str, Range<HostCluster>);

/// What header and tables say of everything but L2 tables, in no order. What claims more than the
/// file holds is not believed: that bounds what is remembered.
fn claims(
    storage: &dyn Storage,
    header: &Header,
    blocks: &[RefcountTableEntry],
) -> Result<Vec<Claim>> {
    let geometry = header.geometry;
    let end = geometry.host_cluster_after(storage.len()?);
    let mut claims = vec![("header", HostCluster::ZERO..HostCluster::new(1))];
    let mut add = |owner, offset: HostOffset, clusters: ClusterCount| {
        let first = geometry.host_cluster(offset);
        let run = first..(first + clusters).min(end);
        if !run.is_empty() {
            claims.push((owner, run));
        }
    };
    let mut snapshots = SnapshotReader::new(storage, header);
    // An entry that makes no sense refers to nothing: whoever needs it reports it.
    for snapshot in snapshots.by_ref().map_while(Result::ok) {
        let clusters = geometry.table_clusters(snapshot.l1.count.into());
        add("snapshot's L1 table", snapshot.l1.offset, clusters);
    }
    let clusters = geometry.clusters_for(snapshots.len());
    add("snapshot table", header.snapshots.offset, clusters);
    // Where nothing vouches for bitmaps, their clusters may be in use for something else since.
    let vouched = header.autoclear.contains(Autoclear::BITMAPS);
    if let Some(bitmaps) = header.bitmaps().filter(|_| vouched) {
        let clusters = geometry.clusters_for(bitmaps.size_bytes);
        add("bitmap directory", HostOffset::new(bitmaps.offset), clusters);
    }
    add("L1 table", header.l1.offset, geometry.table_clusters(header.l1.count.into()));
    let table = header.refcount_table;
    add("refcount table", table.offset, ClusterCount::new(table.count.into()));
    for block in blocks.iter().filter_map(|entry| entry.decode(geometry).ok().flatten()) {
        add("refcount block", block, ClusterCount::new(1));
    }
    Ok(claims)
}

/// The clusters of all claims, no two of which may meet.
fn apart(mut claims: Vec<Claim>, geometry: Geometry) -> Result<Runs> {
    claims.sort_unstable_by_key(|(_, run)| run.start);
    for pair in claims.windows(2) {
        if let [(_, run), (owner, next)] = pair
            && next.start < run.end
        {
            let offset = geometry.host_offset(next.start).get();
            return Err(Problem::UsedTwice { offset, owner }.into_error());
        }
    }
    Ok(Runs::of(claims.into_iter().map(|(_, run)| run).collect()))
}
