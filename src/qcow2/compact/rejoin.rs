//! What an interrupted compaction left: those that shared a cluster, or compressed data, and of whom
//! some were switched to its new place and some were not, share one of the two again; and what is
//! leaked is freed.

use std::ops::Range;

use super::Mover;
use super::data::{L2Place, same_part};
use super::packed::touched;
use super::tables::{L1Place, same_index};
use crate::error::Result;
use crate::host::storage::read_padded_at;
use crate::qcow2::check::scan;
use crate::qcow2::entry::{ClusterRef, CompressedRange, L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::leaks::free_leaks;
use crate::qcow2::lengths::index;
use crate::qcow2::runs;
use crate::qcow2::table::{L2Table, read_refcount_table};

/// So many places are compared for what is at the same place of several disks.
const MAX_KEPT: usize = 8;

impl Mover<'_> {
    /// Takes up what may have been interrupted, where counts are too high. Returns how many bytes of the
    /// file were leaked.
    pub(super) fn take_up(&mut self) -> Result<u64> {
        if self.is_shared {
            self.rejoin()?;
        }
        let found = scan(self.storage, &self.header, self.task.quiet())?;
        // It was a moment ago: a medium that does not say the same twice is not written to.
        found.require_sound()?;
        let (header, lowered) = free_leaks(self.storage, &self.header, &found)?;
        self.has_written |= lowered.counts > 0 || header != self.header;
        self.header = header;
        self.counts = read_refcount_table(self.storage, &self.header)?;
        self.recent = None;
        Ok(lowered.freed_bytes)
    }

    /// Both places carry the counts of all who shared it: no flag says that it is one's own.
    fn rejoin(&mut self) -> Result<()> {
        if !self.header.has_external_data() {
            for alike in same_part(&self.l2_places()?) {
                self.rejoin_data(alike)?;
            }
            self.carry_out()?;
        }
        for part in self.l1_parts()? {
            for alike in same_index(&part?) {
                self.rejoin_tables(alike)?;
            }
            self.carry_out_if_full()?;
        }
        self.carry_out()
    }

    /// Makes the entries of L2 tables for the same part of several disks lead to the same place, where
    /// they lead to the same contents.
    fn rejoin_data(&mut self, places: &[L2Place]) -> Result<()> {
        if places.len() < 2 {
            return Ok(());
        }
        let mut kept: Vec<Vec<L2Entry>> = vec![Vec::new(); index(self.geometry.l2_entries())];
        for L2Place { at, times, .. } in places {
            self.task.check()?;
            let table = L2Table::read_padded(self.storage, *at, self.geometry)?;
            for ((index, entry), kept) in (0..).zip(table.entries()).zip(&mut kept) {
                if let Some(alike) = self.alike(entry.with_copied(false), kept, *times)? {
                    self.batch.put(self.entry_at(*at, index), alike.word);
                }
            }
            self.carry_out_if_full()?;
        }
        Ok(())
    }

    /// The entry of those kept that leads to the same contents at another place, which counts so often
    /// more then. Without any, this one is kept as well, if others may lead where it does.
    fn alike(
        &mut self,
        entry: L2Entry,
        kept: &mut Vec<L2Entry>,
        times: u64,
    ) -> Result<Option<L2Entry>> {
        if kept.contains(&entry) {
            return Ok(None);
        }
        let Some(clusters) = self.clusters_of(entry)? else { return Ok(None) };
        if !self.are_shared(clusters)? {
            return Ok(None);
        }
        for other in kept.iter() {
            if self.same_contents(entry, *other)?
                && let Some(clusters) = self.clusters_of(*other)?
                && self.may_count(clusters.clone(), times)?
            {
                self.count_more(clusters, times);
                return Ok(Some(*other));
            }
        }
        if kept.len() < MAX_KEPT {
            kept.push(entry);
        }
        Ok(None)
    }

    /// Where an entry leads.
    fn clusters_of(&self, entry: L2Entry) -> Result<Option<Range<HostCluster>>> {
        let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
        if let Mapping::Compressed(range) = mapping {
            return Ok(Some(touched(self.geometry, range)));
        }
        Ok(mapping.host_cluster().map(|host| self.cluster_at(host.offset)))
    }

    fn cluster_at(&self, offset: HostOffset) -> Range<HostCluster> {
        let cluster = self.geometry.host_cluster(offset);
        cluster..cluster + ClusterCount::new(1)
    }

    /// Whether clusters are counted as those are that several refer to.
    fn are_shared(&mut self, clusters: Range<HostCluster>) -> Result<bool> {
        for cluster in runs::clusters(clusters) {
            if self.count_of(cluster)? < 2 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what one entry leads to could stand for what the other one leads to.
    fn same_contents(&mut self, entry: L2Entry, other: L2Entry) -> Result<bool> {
        let mapping = |entry| self.header.mapping(entry).map_err(FormatError::into_error);
        let (mapping, other_mapping) = (mapping(entry)?, mapping(other)?);
        if let (Mapping::Compressed(one), Mapping::Compressed(other)) = (mapping, other_mapping) {
            return self.same_stream(one, other);
        }
        let (Some(one), Some(to)) = (mapping.host_cluster(), other_mapping.host_cluster()) else {
            return Ok(false);
        };
        Ok(entry.moved_to(ClusterRef { offset: to.offset, ..one }) == other
            && self.same_bytes(one.offset, to.offset, self.geometry.cluster_size())?)
    }

    /// A range that moved has no more than its stream.
    fn same_stream(&mut self, one: CompressedRange, other: CompressedRange) -> Result<bool> {
        /// Streams that differ do so at their beginning.
        const FIRST: u64 = 64;
        if !self.same_bytes(one.offset, other.offset, one.len.min(other.len).min(FIRST))? {
            return Ok(false);
        }
        let one = self.measure.exact(self.storage, one)?.unwrap_or(one);
        let other = self.measure.exact(self.storage, other)?.unwrap_or(other);
        Ok(one.len == other.len && self.same_bytes(one.offset, other.offset, one.len)?)
    }

    fn same_bytes(&self, one: HostOffset, other: HostOffset, len: u64) -> Result<bool> {
        /// Clusters that differ mostly do so at their beginning.
        const FIRST: u64 = 4096;
        const PIECE: u64 = 1 << 18;
        let (mut at, mut piece) = (0u64, FIRST);
        while at < len {
            self.task.check()?;
            let len = piece.min(len.saturating_sub(at));
            let read = |offset: HostOffset| -> Result<Vec<u8>> {
                let mut bytes = vec![0; index(len)];
                read_padded_at(self.storage, offset.plus_bytes(at).get(), &mut bytes)?;
                Ok(bytes)
            };
            if read(one)? != read(other)? {
                return Ok(false);
            }
            (at, piece) = (at.saturating_add(len), PIECE);
        }
        Ok(true)
    }

    /// The same for entries with the same index in several L1 tables, whose flags mean something in
    /// the one of the disk alone.
    fn rejoin_tables(&mut self, places: &[L1Place]) -> Result<()> {
        let mut kept: Vec<HostOffset> = Vec::new();
        for L1Place { at, entry, .. } in places {
            let Some(table) = self.l2_table(*entry)? else { continue };
            if kept.contains(&table) || !self.are_shared(self.cluster_at(table))? {
                continue;
            }
            if let Some(alike) = self.alike_table(table, &kept)? {
                self.batch.put(*at, entry.moved_to(alike).word());
            } else if kept.len() < MAX_KEPT {
                kept.push(table);
            }
        }
        Ok(())
    }

    fn alike_table(
        &mut self,
        table: HostOffset,
        kept: &[HostOffset],
    ) -> Result<Option<HostOffset>> {
        for other in kept {
            let cluster = self.cluster_at(*other);
            if self.same_bytes(table, *other, self.geometry.cluster_size())?
                && self.may_count(cluster.clone(), 1)?
            {
                self.count_more(cluster, 1);
                return Ok(Some(*other));
            }
        }
        Ok(None)
    }
}
