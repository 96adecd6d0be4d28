//! What an interrupted compaction left: those that shared a cluster, or compressed data, and of whom
//! some were switched to its new place and some were not, share one of the two again; and what is
//! leaked is freed.

use std::ops::Range;

use super::data::Loaded;
use super::packed::touched;
use super::tables::L1Place;
use super::{Mover, Sound};
use crate::error::Result;
use crate::host::storage::read_padded_at;
use crate::qcow2::entry::{ClusterRef, CompressedRange, L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::header::Header;
use crate::qcow2::lengths::index;
use crate::qcow2::repair::{RepairMode, RepairPlan};
use crate::qcow2::table::read_refcount_table;

/// So many places are compared for what is at the same place of several disks.
const MAX_KEPT: usize = 8;

impl Mover<'_> {
    /// Finishes what was interrupted, if counts say that something was.
    pub(super) fn take_up(&mut self, sound: Sound) -> Result<()> {
        if sound.wrong_counts == 0 {
            return Ok(());
        }
        if self.is_shared {
            self.rejoin()?;
        }
        self.free_leaks()
    }

    /// As long as counts are those of all who shared it, nobody takes either place for their own.
    fn rejoin(&mut self) -> Result<()> {
        if !self.header.has_external_data() {
            for alike in self.l2_tables()?.chunk_by(|one, next| one.0 == next.0) {
                self.rejoin_data(alike)?;
            }
            self.carry_out()?;
        }
        for part in self.l1_parts()? {
            self.task.check()?;
            for alike in part?.chunk_by(|one, next| one.index == next.index) {
                self.rejoin_tables(alike)?;
            }
            self.carry_out_if_full()?;
        }
        self.carry_out()
    }

    /// Makes the entries of L2 tables for the same part of several disks lead to the same place, where
    /// they lead to the same contents.
    fn rejoin_data(&mut self, tables: &[(u64, HostOffset)]) -> Result<()> {
        if tables.len() < 2 {
            return Ok(());
        }
        let mut kept: Vec<Vec<L2Entry>> = vec![Vec::new(); index(self.geometry.l2_entries())];
        for (_, table) in tables {
            self.task.check()?;
            let Loaded { at, times, table } = self.loaded(*table)?;
            for ((index, entry), kept) in (0..).zip(table.entries()).zip(&mut kept) {
                if let Some(alike) = self.alike(entry, kept, times)? {
                    self.batch.put(self.entry_at(at, index), alike.word);
                }
            }
            self.carry_out_if_full()?;
        }
        Ok(())
    }

    /// The entry of those kept that leads to the same contents at another place, which counts so often
    /// more then. Without any, this one is kept as well.
    fn alike(
        &mut self,
        entry: L2Entry,
        kept: &mut Vec<L2Entry>,
        times: u64,
    ) -> Result<Option<L2Entry>> {
        if entry.is_empty() || entry.is_copied() || kept.contains(&entry) {
            return Ok(None);
        }
        for other in kept.iter() {
            if let Some(clusters) = self.same_contents(entry, *other)?
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

    /// The clusters of `other`, if what it leads to could stand for what `entry` leads to.
    fn same_contents(
        &mut self,
        entry: L2Entry,
        other: L2Entry,
    ) -> Result<Option<Range<HostCluster>>> {
        let mapping = |entry| self.header.mapping(entry).map_err(FormatError::into_error);
        let (mapping, other_mapping) = (mapping(entry)?, mapping(other)?);
        if let (Mapping::Compressed(one), Mapping::Compressed(other)) = (mapping, other_mapping) {
            let is_same = self.same_stream(one, other)?;
            return Ok(is_same.then(|| touched(self.geometry, other)));
        }
        let (Some(one), Some(to)) = (mapping.host_cluster(), other_mapping.host_cluster()) else {
            return Ok(None);
        };
        let is_same = entry.moved_to(ClusterRef { offset: to.offset, ..one }) == other
            && self.same_bytes(one.offset, to.offset, self.geometry.cluster_size())?;
        let cluster = self.geometry.host_cluster(to.offset);
        Ok(is_same.then(|| cluster..cluster + ClusterCount::new(1)))
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

    /// The same for entries with the same index in several L1 tables.
    fn rejoin_tables(&mut self, places: &[L1Place]) -> Result<()> {
        let mut kept: Vec<HostOffset> = Vec::new();
        for L1Place { at, entry, .. } in places {
            let Some(table) = self.l2_table(*entry)? else { continue };
            if entry.is_copied() || kept.contains(&table) {
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
            let cluster = self.geometry.host_cluster(*other);
            let clusters = cluster..cluster + ClusterCount::new(1);
            if self.same_bytes(table, *other, self.geometry.cluster_size())?
                && self.may_count(clusters.clone(), 1)?
            {
                self.count_more(clusters, 1);
                return Ok(Some(*other));
            }
        }
        Ok(None)
    }

    /// Frees what is counted and referred to by nothing.
    fn free_leaks(&mut self) -> Result<()> {
        let plan =
            RepairPlan::new(self.storage, &self.header, RepairMode::Leaks, self.task.quiet())?;
        if let Some(finding) = plan.unmended.first() {
            // Nothing was found a moment ago: the medium does not say the same twice.
            return Err(finding.to_error());
        }
        plan.apply(self.storage, self.task.quiet())?;
        self.has_written = true;
        self.header = Header::read(self.storage)?;
        self.counts = read_refcount_table(self.storage, &self.header)?;
        self.recent = None;
        Ok(())
    }
}
