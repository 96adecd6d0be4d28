//! What a resize needs to know of the image before anything is planned.

use std::collections::{BTreeMap, BTreeSet};

use super::Growth;
use super::rewrite::Rewrites;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::clusters::UsedClusters;
use crate::qcow2::entry::{L1Entry, L2Entry, Mapping, RefcountTableEntry};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{GuestCluster, GuestOffset, HostCluster, HostOffset};
use crate::qcow2::growth::free_end;
use crate::qcow2::header::{Header, Version};
use crate::qcow2::open::Qcow2;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::table::{L2Table, read_refcount_table};

/// The image around the *edge*: the last guest cluster that both the old and the new disk have.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) header: Header,
    l1: Vec<L1Entry>,
    /// Who claims a cluster: first the header, both tables, refcount blocks and L2 tables, no two
    /// of which meet; then what verifying adds.
    pub(super) claimed: UsedClusters,
    pub(super) refcount_table: Vec<RefcountTableEntry>,
    /// Where clusters may be added: behind the metadata, and what a file holds; once the counts are
    /// verified, behind all that is used.
    pub(super) end: HostCluster,
    /// The first guest cluster beyond what both disks have.
    pub(super) kept: GuestCluster,
    /// The L1 entry of the last cluster that both have.
    pub(super) edge_index: u64,
    /// Entries of the edge's table that both have.
    pub(super) edge_kept: u64,
    /// The edge's table, if there is one.
    pub(super) edge: Option<L2Table>,
    /// Where that is, if nothing else refers to it: then it can be written in place.
    pub(super) edge_in_place: Option<HostOffset>,
    /// The last cluster that both have, behind the smaller disk's end.
    pub(super) tail: Tail,
    /// L2 tables before the edge's that map guest data which changes, by their L1 index.
    pub(super) shadowed: BTreeMap<u64, L2Table>,
}

/// The bytes of the last cluster behind the end of the smaller disk. They must read as zeros as
/// soon as a larger disk shows them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// There are none, or they are zeros.
    Clean,
    /// They can be overwritten in place: where they are, and how many.
    InPlace(HostOffset, u64),
    /// Their cluster cannot be written to: its bytes as they must become.
    Copy(Vec<u8>),
}

impl Survey {
    /// Looks at the image for a change to `new_size`.
    pub(super) fn new(
        image: &Qcow2,
        new_size: u64,
        growth: Option<Growth>,
        rewrites: &Rewrites<'_>,
    ) -> Result<Survey> {
        let (header, geometry) = (&image.header, image.header.geometry);
        let refcount_table = read_refcount_table(&*image.storage, header)?;
        let l1 = image.l1()?;
        let file_len = image.storage.len()?;
        let mut claimed = UsedClusters::new(geometry, file_len);
        claimed.mark_metadata(header, &l1, &refcount_table)?;
        let smaller = GuestOffset::new(header.virtual_size.min(new_size));
        let kept = geometry.guest_cluster_after(smaller);
        let edge_index = geometry.l1_index(GuestCluster::new(kept.get().saturating_sub(1)));
        let edge_kept = (kept - geometry.first_cluster_of_table(edge_index)).get();
        let mut refcounts = Refcounts::new(&*image.storage, geometry, &refcount_table);
        let end = free_end(&*image.storage, geometry, claimed.end())?;
        let last = GuestCluster::new(kept.get().saturating_sub(1));
        let tail = match rewrites.contains(last) {
            // It is written anew anyway, with zeros behind its end.
            true => Tail::Clean,
            false => tail(image, &mut refcounts, smaller, growth)?,
        };
        let mut shadowed = BTreeMap::new();
        let indexes: BTreeSet<_> = rewrites.iter().map(|(c, _)| geometry.l1_index(c)).collect();
        for index in indexes.range(..edge_index) {
            let place = usize::try_from(*index).ok().and_then(|place| l1.get(place));
            let entry = place.copied().unwrap_or_default().decode(geometry);
            if let Some(at) = entry.map_err(FormatError::into_error)? {
                shadowed.insert(*index, L2Table::read(&*image.storage, at.offset, geometry)?);
            }
        }
        let l1_entry = usize::try_from(edge_index).ok().and_then(|index| l1.get(index));
        let edge = l1_entry.copied().unwrap_or_default().decode(geometry);
        let (edge, edge_in_place) = match edge.map_err(FormatError::into_error)? {
            None => (None, None),
            Some(at) => {
                let table = L2Table::read(&*image.storage, at.offset, geometry)?;
                let sole = at.copied && refcounts.get(geometry.host_cluster(at.offset))? == 1;
                (Some(table), sole.then_some(at.offset))
            }
        };
        Ok(Survey {
            header: header.clone(),
            l1,
            claimed,
            end,
            kept,
            edge_index,
            edge_kept,
            edge,
            edge_in_place,
            tail,
            shadowed,
            refcount_table,
        })
    }

    pub(super) fn is_v3(&self) -> bool {
        self.header.version == Version::V3
    }

    /// The active L1 table's entry, empty beyond the table.
    pub(super) fn l1_entry(&self, index: u64) -> L1Entry {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.l1.get(index).copied().unwrap_or_default()
    }

    /// Whether the edge's table maps clusters behind the disk's end.
    pub(super) fn edge_has_room(&self) -> bool {
        self.edge_kept < self.header.geometry.l2_entries()
    }

    /// Entries of the edge's table that the smaller disk does not have.
    pub(super) fn edge_dropped_entries(&self) -> impl Iterator<Item = L2Entry> {
        let kept = usize::try_from(self.edge_kept).unwrap_or(usize::MAX);
        let entries = self.edge.iter().flat_map(move |table| table.entries().skip(kept));
        entries.filter(|entry| !entry.is_empty())
    }

    pub(super) fn edge_loses_entries(&self) -> bool {
        self.edge_dropped_entries().next().is_some()
    }

    /// The entry that gives way to a copy of the last cluster.
    pub(super) fn replaced_tail(&self) -> Option<L2Entry> {
        let copied = matches!(self.tail, Tail::Copy(_));
        let entry = self.edge.as_ref().filter(|_| copied)?.get(self.edge_kept.saturating_sub(1));
        (!entry.is_empty()).then_some(entry)
    }

    /// Where the edge's table is.
    pub(super) fn edge_table_cluster(&self) -> Option<HostCluster> {
        let geometry = self.header.geometry;
        let table = self.l1_entry(self.edge_index).decode(geometry).ok()??;
        Some(geometry.host_cluster(table.offset))
    }

    /// L2 tables behind the edge: the smaller disk does not have them.
    pub(super) fn dropped_tables(&self) -> impl Iterator<Item = L1Entry> {
        let behind = usize::try_from(self.edge_index.saturating_add(1)).unwrap_or(usize::MAX);
        let entries = self.l1.get(behind..).unwrap_or_default();
        entries.iter().copied().filter(|entry| *entry != L1Entry::EMPTY)
    }

    /// L2 tables before the edge's.
    pub(super) fn kept_tables(&self) -> impl Iterator<Item = L1Entry> {
        let edge = usize::try_from(self.edge_index).unwrap_or(usize::MAX);
        self.l1.iter().take(edge).copied().filter(|entry| *entry != L1Entry::EMPTY)
    }

    /// Whether entries of the first `len` change: one that is dropped stays inside the table, or
    /// a new table's entry lies where the old table already reaches.
    pub(super) fn keeps_dropped_entries(&self, len: u64, new_tables: u64) -> bool {
        let old_len = u64::from(self.header.l1.count);
        let behind = self.edge_index.saturating_add(1);
        let first_new = new_tables > 0 && behind < old_len;
        let within = old_len.min(len);
        first_new || (behind..within).any(|index| self.l1_entry(index) != L1Entry::EMPTY)
    }

    /// Whether every guest cluster of the edge's table, up to the disk's end, has a host cluster.
    pub(super) fn edge_is_fully_mapped(&self) -> bool {
        let geometry = self.header.geometry;
        let kept = usize::try_from(self.edge_kept).unwrap_or(usize::MAX);
        let mapped = |entry: L2Entry| {
            entry.decode(geometry).is_ok_and(|mapping| mapping.host_cluster().is_some())
        };
        let edge = self.edge.as_ref().filter(|_| kept > 0);
        edge.is_some_and(|table| table.entries().take(kept).all(mapped))
    }
}

/// Looks at the bytes of the last cluster from the smaller disk's end on, as a disk grown past
/// them would show them.
fn tail(
    image: &Qcow2,
    refcounts: &mut Refcounts<'_>,
    end: GuestOffset,
    growth: Option<Growth>,
) -> Result<Tail> {
    let geometry = image.header.geometry;
    let within = geometry.within_cluster(end);
    if within == 0 {
        return Ok(Tail::Clean);
    }
    let cluster = geometry.guest_cluster(end);
    let mapping = image.run(cluster, 1)?.1.mapping;
    let shows_below = matches!(mapping, Mapping::Unallocated | Mapping::Mixed(..));
    if mapping == Mapping::Unallocated && growth.is_none() {
        // What is below is hidden when the disk grows, not when it shrinks.
        return Ok(Tail::Clean);
    }
    if shows_below && image.below_end().is_none() {
        let message = "the disk's last cluster shows the backing file, which may not be opened";
        return Err(Error::new(ErrorKind::BackingRefused, message));
    }
    let mut bytes = vec![0; geometry.cluster_len()];
    image.read_mapped(geometry.guest_offset(cluster), &mut bytes)?;
    let behind = bytes.get_mut(usize::try_from(within).unwrap_or(usize::MAX)..).unwrap_or_default();
    if behind.iter().all(|&byte| byte == 0) {
        return Ok(Tail::Clean);
    }
    let len = geometry.cluster_size().saturating_sub(within);
    if let Mapping::Data(host) = mapping
        && host.copied
        && refcounts.get(geometry.host_cluster(host.offset))? == 1
    {
        return Ok(Tail::InPlace(host.offset.plus_bytes(within), len));
    }
    behind.fill(0);
    Ok(Tail::Copy(bytes))
}
