//! Zeros without writing them, and clusters that the guest does not need any more.

use super::entry::{L2Entry, Mapping, Subclusters};
use super::feature::Autoclear;
use super::geometry::{GuestCluster, GuestOffset};
use super::header::Version;
use super::live::Live;
use super::open::Qcow2;
use crate::block::Discard;
use crate::error::{Error, Result};

/// The most clusters whose entries are changed at once: others wait for less than a millisecond.
const BATCH: u64 = 512;
/// The most zeros that are written at once.
const ZEROS: usize = 64 << 10;

impl Qcow2 {
    /// Makes the range read as zeros: whole subclusters by their entries, what is left by writing.
    pub(super) fn zero_mapped(&self, mut offset: GuestOffset, mut len: u64) -> Result<()> {
        while len > 0 {
            let done = self.zero_some(offset, len);
            let done = done.map_err(|error| error.at_guest_offset(offset.get()))?;
            offset = offset.plus_bytes(done);
            len = len.saturating_sub(done);
        }
        Ok(())
    }

    /// Makes the beginning of the range read as zeros. Returns how much that is.
    fn zero_some(&self, offset: GuestOffset, len: u64) -> Result<u64> {
        let (live, run) = self.run_for(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
        drop(live);
        let whole = self.whole_clusters(offset, len).min(run.clusters);
        if self.reads_as_zeros(run.mapping) {
            let room = self.room_in(run, offset);
            return Ok(u64::try_from(room).unwrap_or(u64::MAX).min(len));
        }
        if whole == 0 || !self.can_say_zero() {
            return self.zero_in_cluster(offset, len);
        }
        let first = self.header.geometry.guest_cluster(offset);
        let clusters = self.each_of(first, whole, |live, cluster| {
            self.zero_subclusters(live, cluster, u32::MAX)
        })?;
        Ok(clusters << self.header.geometry.cluster_bits().get())
    }

    /// How many clusters a range begins with, if it begins with one.
    fn whole_clusters(&self, offset: GuestOffset, len: u64) -> u64 {
        let geometry = self.header.geometry;
        match geometry.within_cluster(offset) {
            0 => len >> geometry.cluster_bits().get(),
            _ => 0,
        }
    }

    /// Changes the clusters of a run, as many as others may be kept waiting for. Returns how many
    /// those are.
    fn each_of(
        &self,
        first: GuestCluster,
        clusters: u64,
        change: impl Fn(&mut Live, GuestCluster) -> Result<()>,
    ) -> Result<u64> {
        let clusters = clusters.min(BATCH);
        self.changing(|live| {
            let mut all = (0..clusters).map(|n| GuestCluster::new(first.get().saturating_add(n)));
            all.try_for_each(|cluster| change(live, cluster))
        })?;
        Ok(clusters)
    }

    /// Makes what of the range lies in its first cluster read as zeros, and returns how much that
    /// is.
    fn zero_in_cluster(&self, offset: GuestOffset, len: u64) -> Result<u64> {
        let geometry = self.header.geometry;
        let unit = geometry.subcluster_size();
        let within = geometry.within_cluster(offset);
        let room = geometry.cluster_size().saturating_sub(within).min(len);
        let end = within.saturating_add(room);
        // The disk's end is as good as a cluster's: nothing is behind it.
        let last = offset.get().saturating_add(room) >= self.header.virtual_size;
        let from = within.checked_next_multiple_of(unit).unwrap_or(end);
        let to = if last { end } else { geometry.subcluster_start(end) };
        if from < to && self.can_say_zero() {
            self.write_zero_bytes(offset, from.saturating_sub(within))?;
            let cluster = geometry.guest_cluster(offset);
            let these = self.subclusters_of(from, to);
            self.changing(|live| self.zero_subclusters(live, cluster, these))?;
            let rest = offset.plus_bytes(to.saturating_sub(within));
            self.write_zero_bytes(rest, end.saturating_sub(to))?;
        } else {
            self.write_zero_bytes(offset, room)?;
        }
        Ok(room)
    }

    /// Whether entries can say that a cluster is zero. An external data file that can be read as a
    /// raw disk must hold the zeros itself.
    pub(super) fn can_say_zero(&self) -> bool {
        let raw = self.header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA);
        !raw && (self.header.version == Version::V3 || self.header.backing.is_none())
    }

    /// Writes zeros into one cluster.
    fn write_zero_bytes(&self, mut offset: GuestOffset, mut len: u64) -> Result<()> {
        let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS)];
        while len > 0 {
            let piece = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
            self.write_mapped(offset, zeros.get(..piece).unwrap_or_default())?;
            let piece = u64::try_from(piece).unwrap_or(u64::MAX);
            offset = offset.plus_bytes(piece);
            len = len.saturating_sub(piece);
        }
        Ok(())
    }

    fn zero_subclusters(&self, live: &mut Live, cluster: GuestCluster, these: u32) -> Result<()> {
        let geometry = self.header.geometry;
        let mapping = self.mapping_now(live, cluster)?;
        if self.reads_as_zeros(mapping) {
            return Ok(());
        }
        if self.header.version == Version::V2 {
            return self.forget_cluster(live, cluster, mapping, L2Entry::UNALLOCATED);
        }
        if these == u32::MAX {
            let kept = match mapping.host_cluster() {
                Some(host) if self.is_sole(live, host)? => Some(host),
                _ => None,
            };
            let table = self.own_table(live, cluster)?;
            let entry = L2Entry::of(kept, Subclusters::ZERO, geometry);
            self.set_entry(live, table, cluster, entry)?;
            if kept.is_none() {
                self.release(live, mapping);
            }
            return Ok(());
        }
        if matches!(mapping, Mapping::Compressed(_)) {
            // Packed data has no subclusters: it is unpacked first, in a place of its own.
            let start = geometry.guest_offset(cluster);
            let mut byte = [0];
            self.read_as(mapping, start, &mut byte)?;
            self.place(live, start, &byte)?;
        }
        let mapping = self.mapping_now(live, cluster)?;
        let table = self.own_table(live, cluster)?;
        let subclusters = mapping.subclusters().with_zeros(these);
        let entry = L2Entry::of(mapping.host_cluster(), subclusters, geometry);
        self.set_entry(live, table, cluster, entry)
    }

    /// Gives up what whole clusters of the range refer to.
    pub(super) fn discard_mapped(&self, offset: GuestOffset, len: u64) -> Result<()> {
        let geometry = self.header.geometry;
        let end = offset.plus_bytes(len);
        let first = geometry.guest_cluster_after(offset);
        let last = if end.get() >= self.header.virtual_size {
            geometry.guest_cluster_after(end)
        } else {
            geometry.guest_cluster(end)
        };
        let mut cluster = first;
        while cluster < last {
            let here = |error: Error| error.at_guest_offset(geometry.guest_offset(cluster).get());
            let most = last.get().saturating_sub(cluster.get());
            let (live, run) = self.run(cluster, most).map_err(here)?;
            drop(live);
            let nothing = run.mapping == Mapping::Unallocated && !self.discard_hides();
            let clusters = if nothing {
                run.clusters
            } else {
                self.each_of(cluster, run.clusters, |live, cluster| {
                    self.discard_cluster(live, cluster)
                })
                .map_err(here)?
            };
            cluster = GuestCluster::new(cluster.get().saturating_add(clusters));
        }
        Ok(())
    }

    fn discard_cluster(&self, live: &mut Live, cluster: GuestCluster) -> Result<()> {
        let geometry = self.header.geometry;
        let mapping = self.mapping_now(live, cluster)?;
        let v3 = self.header.version == Version::V3;
        if self.header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA) {
            // Its entries always refer to its data.
            self.punch_data(mapping);
            return Ok(());
        }
        if self.options.discard == Discard::KeepAllocated {
            return match mapping.host_cluster() {
                Some(host) if v3 && self.is_sole(live, host)? => {
                    let table = self.own_table(live, cluster)?;
                    let entry = L2Entry::of(Some(host), Subclusters::ZERO, geometry);
                    self.set_entry(live, table, cluster, entry)
                }
                _ => Ok(()),
            };
        }
        let entry =
            if self.discard_hides() { L2Entry::zero(geometry) } else { L2Entry::UNALLOCATED };
        self.forget_cluster(live, cluster, mapping, entry)?;
        self.punch_data(mapping);
        Ok(())
    }

    /// Whether discarding must say zero, for what is below would show through.
    fn discard_hides(&self) -> bool {
        self.header.version == Version::V3
            && self.header.backing.is_some()
            && self.options.discard != Discard::KeepAllocated
    }

    /// Gives the room of a discarded cluster in the external data file back. Room that the file
    /// system keeps is no reason to fail: nothing is lost.
    fn punch_data(&self, mapping: Mapping) {
        if let (Some(data_file), Some(host)) = (&self.data_file, mapping.host_cluster())
            && self.options.discard == Discard::Unmap
        {
            let _ = data_file.punch_hole(host.offset.get(), self.header.geometry.cluster_size());
        }
    }

    /// Puts `entry` in the place of what a guest cluster was mapped to.
    pub(super) fn forget_cluster(
        &self,
        live: &mut Live,
        cluster: GuestCluster,
        mapping: Mapping,
        entry: L2Entry,
    ) -> Result<()> {
        if mapping == Mapping::Unallocated && entry == L2Entry::UNALLOCATED {
            return Ok(());
        }
        let table = self.own_table(live, cluster)?;
        self.set_entry(live, table, cluster, entry)?;
        self.release(live, mapping);
        Ok(())
    }
}
