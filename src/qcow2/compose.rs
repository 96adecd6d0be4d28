//! A new image written once, from its first guest cluster to its last: what it holds is told as it
//! comes, and takes its place in the file at once. Nobody sees the file before it is published, so
//! nothing needs an order; everything goes to the file one behind another, the tables among the data,
//! and the header last. Memory: an L2 table, the L1 and the refcount table, a few refcount blocks and
//! a buffer.

use std::collections::VecDeque;
use std::ops::Range;

use super::create::{Tables, header};
use super::entry::{ClusterRef, L1Entry, L2Entry, RefcountTableEntry, Subclusters};
use super::geometry::{
    ClusterCount, ENTRY_SIZE, Geometry, GuestCluster, HostCluster, HostOffset, MAX_HOST_OFFSET,
    MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES,
};
use super::header::Version;
use super::lengths::{index, len_of};
use super::options::{CreateOptions, L1Capacity, Preallocation};
use super::refblock::RefcountBlock;
use super::stream::StreamWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Allocation, Storage, write_zeros};
use crate::task::Task;
use crate::units::VirtualSize;

/// A new image in the making. What is not told of a guest cluster shows the backing file, else zeros.
pub struct Composer<'a> {
    storage: &'a dyn Storage,
    options: CreateOptions,
    task: Task<'a>,
    out: StreamWriter<'a>,
    /// The first host cluster that is nobody's: all before it are somebody's.
    head: HostCluster,
    counts: Counts,
    l1: Vec<L1Entry>,
    /// The L2 table that the next guest cluster belongs to.
    table: Vec<u8>,
    table_used: bool,
    /// Nothing was told of it and those behind it.
    next: GuestCluster,
    /// Where the next packed data may begin, behind the last in its cluster.
    packed_end: Option<HostOffset>,
}

impl std::fmt::Debug for Composer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Composer").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'a> Composer<'a> {
    /// Begins an image in an empty `storage`. The size in `options` is the largest that it may
    /// [get](Self::finish).
    ///
    /// # Errors
    /// As [`create`](super::create()); then nothing was written.
    pub fn begin(
        storage: &'a dyn Storage,
        options: CreateOptions,
        task: Task<'a>,
    ) -> Result<Composer<'a>> {
        options.validate()?;
        let geometry = options.geometry;
        options.require_mappable()?;
        let nowhere = Tables {
            l1: HostCluster::ZERO,
            l1_entries: 0,
            refcount_table: HostCluster::ZERO..HostCluster::ZERO,
        };
        // Its length does not depend on where the tables will be.
        header(&options, &nowhere)?.encode().ok_or_else(|| options.header_too_long())?;
        let mut composer = Composer {
            storage,
            options,
            task,
            out: StreamWriter::new(storage, 0),
            head: HostCluster::ZERO,
            counts: Counts::new(geometry),
            l1: Vec::new(),
            table: vec![0; geometry.cluster_len()],
            table_used: false,
            next: GuestCluster::ZERO,
            packed_end: None,
        };
        // The header's.
        composer.take(ClusterCount::new(1))?;
        Ok(composer)
    }

    /// The sizes that everything follows from.
    pub fn geometry(&self) -> Geometry {
        self.options.geometry
    }

    /// Gives a run of guest clusters from `first` on, all behind those that were told of before,
    /// a run of host clusters: returns where that begins, and for how many of them it is. What is
    /// not [written](Self::write_at) there reads as zeros.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize) for an image that becomes too large, and what the storage
    /// says.
    pub fn place(
        &mut self,
        first: GuestCluster,
        count: ClusterCount,
    ) -> Result<(HostOffset, ClusterCount)> {
        self.reach(first)?;
        self.map(count, Subclusters::ALLOCATED)
    }

    /// Writes into what was [placed](Self::place).
    ///
    /// # Errors
    /// What the storage says.
    pub fn write_at(&mut self, offset: HostOffset, data: &[u8]) -> Result<()> {
        self.out.put_at(offset.get(), data)
    }

    /// Puts what was packed of a guest cluster, behind those that were told of before, into the
    /// file. Returns `false` where no entry can name the place: then it must be
    /// [placed](Self::place).
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn put_packed(&mut self, cluster: GuestCluster, packed: &[u8]) -> Result<bool> {
        self.reach(cluster)?;
        self.enter(self.geometry().l1_index(cluster))?;
        let (geometry, one, len) = (self.geometry(), ClusterCount::new(1), len_of(packed));
        let shared = self.packed_end.and_then(|end| {
            let host = geometry.host_cluster(end);
            let fits = geometry.host_offset(host + one) >= end.plus_bytes(len);
            let count = self.counts.get(host);
            let has_room = count < geometry.refcount_order().max_count();
            (has_room && (fits || self.head == host + one)).then_some((end, host, count, fits))
        });
        let start = shared.map_or(geometry.host_offset(self.head), |(end, ..)| end);
        let Some(entry) = L2Entry::compressed(start, len, geometry) else { return Ok(false) };
        if let Some((_, host, count, _)) = shared {
            self.counts.set(host, count.saturating_add(1));
        }
        if shared.is_none_or(|(.., fits)| !fits) {
            self.take(one)?;
        }
        let end = start.plus_bytes(len);
        self.packed_end = (!geometry.is_aligned(end)).then_some(end);
        self.out.put_at(start.get(), packed)?;
        self.set_entry(entry);
        self.settle()?;
        Ok(true)
    }

    /// Whether an entry can say that a cluster reads as zeros whatever is below.
    pub fn can_say_zero(&self) -> bool {
        self.options.version == Version::V3 || self.options.backing.is_none()
    }

    /// Says that a run of guest clusters, behind those that were told of before, reads as zeros
    /// whatever is below: where the image [can](Self::can_say_zero) say that.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn zero(&mut self, first: GuestCluster, count: ClusterCount) -> Result<()> {
        if self.options.backing.is_none() {
            return Ok(());
        }
        self.reach(first)?;
        let end = first + count;
        while self.next < end {
            if self.options.preallocation.maps_data() {
                self.reserve(end - self.next, Subclusters::ZERO)?;
            } else {
                self.enter(self.geometry().l1_index(self.next))?;
                self.set_entry(L2Entry::zero(self.geometry()));
            }
        }
        Ok(())
    }

    /// Writes the tables that are left, and the header: the image is `size` large. Does not sync.
    ///
    /// # Errors
    /// [`BadSize`](ErrorKind::BadSize) for a size that clusters of this size cannot map, and as
    /// [`place`](Self::place).
    pub fn finish(mut self, size: VirtualSize) -> Result<()> {
        self.options.virtual_size = size;
        self.options.require_mappable()?;
        let geometry = self.geometry();
        let clusters = geometry.clusters_for(size.bytes());
        self.reach(GuestCluster::new(clusters.get()))?;
        let tables = geometry.l1_entries_for(size.bytes());
        self.enter(tables)?;
        let l1_entries = match self.options.l1_capacity {
            L1Capacity::AsNeeded => tables,
            L1Capacity::WholeClusters => {
                geometry.table_entries_in(geometry.table_clusters(tables.max(1)))
            }
        };
        let l1 = self.take(geometry.table_clusters(l1_entries.max(1)))?;
        let words = self.l1.iter().map(|entry| entry.word());
        put_words(&mut self.out, geometry.host_offset(l1), words)?;
        let refcount_table = self.write_counts()?;
        let tables = Tables { l1, l1_entries, refcount_table };
        let header = header(&self.options, &tables)?.encode();
        self.out.put_at(0, &header.ok_or_else(|| self.options.header_too_long())?)?;
        self.out.finish()?;
        let file_len = geometry.host_offset(self.head).get();
        self.storage.set_len(file_len)?;
        match self.options.preallocation {
            Preallocation::Falloc => self.storage.allocate(0, file_len, Allocation::Reserve),
            _ => Ok(()),
        }
    }

    /// Writes the refcount blocks that are left and the refcount table, and returns where that is.
    fn write_counts(&mut self) -> Result<Range<HostCluster>> {
        let geometry = self.geometry();
        let settled = len_of_list(&self.counts.table);
        let mut blocks = 0u64;
        // Each step can only grow both, and by less than the step before: it ends after a few.
        let table = loop {
            let table = geometry.table_clusters(settled.saturating_add(blocks));
            let all = self.head + ClusterCount::new(blocks) + table;
            let needed = all.get().div_ceil(geometry.refblock_entries()).saturating_sub(settled);
            if needed <= blocks {
                break table;
            }
            blocks = needed;
        };
        let mut at = self.take(ClusterCount::new(blocks))?;
        let refcount_table = self.take(table)?;
        while let Some(block) = self.counts.settle(geometry.host_offset(at))? {
            self.out.put_at(geometry.host_offset(at).get(), block.bytes())?;
            at = at + ClusterCount::new(1);
        }
        let words = self.counts.table.iter().map(|entry| entry.word());
        put_words(&mut self.out, geometry.host_offset(refcount_table), words)?;
        Ok(refcount_table..refcount_table + table)
    }

    /// Goes on with this guest cluster. Those that nothing was told of get what is laid out for them.
    fn reach(&mut self, cluster: GuestCluster) -> Result<()> {
        while self.options.preallocation.maps_data() && self.next < cluster {
            self.reserve(cluster - self.next, Subclusters::UNALLOCATED)?;
        }
        self.next = self.next.max(cluster);
        Ok(())
    }

    /// Gives the next guest clusters host clusters that hold nothing yet.
    fn reserve(&mut self, count: ClusterCount, subclusters: Subclusters) -> Result<()> {
        let (offset, count) = self.map(count, subclusters)?;
        match self.options.preallocation {
            Preallocation::Full => {
                let len = self.geometry().bytes_of(count);
                write_zeros(self.storage, offset.get(), len, self.task.quiet())
            }
            _ => self.task.check(),
        }
    }

    /// Gives the next guest clusters a run of host clusters, no further than their L2 table goes.
    fn map(
        &mut self,
        count: ClusterCount,
        subclusters: Subclusters,
    ) -> Result<(HostOffset, ClusterCount)> {
        let geometry = self.geometry();
        let table = geometry.l1_index(self.next);
        self.enter(table)?;
        let end = geometry.first_cluster_of_table(table.saturating_add(1));
        let count = count.min(end - self.next);
        let start = geometry.host_offset(self.take(count)?);
        let mut host = start;
        for _ in 0..count.get() {
            self.set_entry(L2Entry::reserved(ClusterRef::sole(host), subclusters, geometry));
            host = host.plus_bytes(geometry.cluster_size());
        }
        self.settle()?;
        Ok((start, count))
    }

    /// Writes the entry of the next guest cluster, whose table was [entered](Self::enter).
    fn set_entry(&mut self, entry: L2Entry) {
        let geometry = self.geometry();
        let at = geometry.l2_index(self.next).saturating_mul(geometry.l2_entry_size());
        let stored = self.table.get_mut(index(at)..).unwrap_or_default();
        if let Some((word, rest)) = stored.split_first_chunk_mut() {
            *word = entry.word.to_be_bytes();
            if let Some(bitmap) = rest.first_chunk_mut().filter(|_| geometry.extended_l2()) {
                *bitmap = entry.bitmap.to_be_bytes();
            }
        }
        self.table_used = true;
        self.next = self.next + ClusterCount::new(1);
    }

    /// Goes on with the L2 table of this L1 entry; those before it are written.
    fn enter(&mut self, table: u64) -> Result<()> {
        let geometry = self.geometry();
        if table > MAX_L1_BYTES / ENTRY_SIZE {
            let most = geometry.max_virtual_size();
            let message = format!("the disk has more than the {most} bytes that can be mapped");
            return Err(Error::new(ErrorKind::BadSize, message));
        }
        while len_of_list(&self.l1) < table {
            let entry = match self.table_used || self.options.preallocation != Preallocation::Off {
                true => L1Entry::encode(self.write_table()?),
                false => L1Entry::EMPTY,
            };
            self.l1.push(entry);
            self.settle()?;
        }
        Ok(())
    }

    /// Gives the L2 table a place; one without entries stays a hole.
    fn write_table(&mut self) -> Result<ClusterRef> {
        let place = self.take(ClusterCount::new(1))?;
        let place = self.geometry().host_offset(place);
        if self.table_used {
            self.out.put_at(place.get(), &self.table)?;
            self.table.fill(0);
            self.table_used = false;
        }
        Ok(ClusterRef::sole(place))
    }

    /// Takes the next host clusters: where they begin.
    fn take(&mut self, count: ClusterCount) -> Result<HostCluster> {
        let (start, end) = (self.head, self.head + count);
        if self.geometry().host_offset(end).get() > MAX_HOST_OFFSET {
            let message = format!("needs a file of more than {MAX_HOST_OFFSET} bytes");
            return Err(Error::new(ErrorKind::BadSize, message));
        }
        self.counts.add_ones(start..end);
        self.head = end;
        Ok(start)
    }

    /// Writes the refcount blocks in which nothing changes any more.
    fn settle(&mut self) -> Result<()> {
        let geometry = self.geometry();
        loop {
            let end = self.counts.end_of_first();
            let open = self.packed_end.map(|end| geometry.host_cluster(end));
            if self.head < end || open.is_some_and(|open| open < end) {
                return Ok(());
            }
            let place = geometry.host_offset(self.take(ClusterCount::new(1))?);
            if let Some(block) = self.counts.settle(place)? {
                self.out.put_at(place.get(), block.bytes())?;
            }
        }
    }
}

/// The counts of the clusters that were taken.
struct Counts {
    geometry: Geometry,
    /// Where the blocks are that are written.
    table: Vec<RefcountTableEntry>,
    /// The blocks behind those.
    pending: VecDeque<RefcountBlock>,
}

impl Counts {
    fn new(geometry: Geometry) -> Self {
        Counts { geometry, table: Vec::new(), pending: VecDeque::new() }
    }

    /// The first cluster behind those that the first pending block counts.
    fn end_of_first(&self) -> HostCluster {
        let next = len_of_list(&self.table).saturating_add(1);
        self.geometry.first_cluster_of_refblock(next)
    }

    /// The pending block of a cluster.
    fn block(&mut self, cluster: HostCluster) -> Option<&mut RefcountBlock> {
        let settled = len_of_list(&self.table);
        let place = index(self.geometry.refblock_index(cluster).checked_sub(settled)?);
        while self.pending.len() <= place {
            self.pending.push_back(RefcountBlock::zeroed(self.geometry));
        }
        self.pending.get_mut(place)
    }

    fn add_ones(&mut self, run: Range<HostCluster>) {
        let geometry = self.geometry;
        let mut at = run.start;
        while at < run.end {
            let next = geometry.refblock_index(at).saturating_add(1);
            let end = geometry.first_cluster_of_refblock(next).min(run.end);
            let first = geometry.index_in_refblock(at);
            if let Some(block) = self.block(at) {
                block.fill_ones(first, first.saturating_add((end - at).get()));
            }
            at = end;
        }
    }

    fn get(&mut self, cluster: HostCluster) -> u64 {
        let place = self.geometry.index_in_refblock(cluster);
        self.block(cluster).map_or(0, |block| block.get(place))
    }

    fn set(&mut self, cluster: HostCluster, count: u64) {
        let place = self.geometry.index_in_refblock(cluster);
        if let Some(block) = self.block(cluster) {
            block.set(place, count);
        }
    }

    /// Gives the first pending block a place, if there is one.
    fn settle(&mut self, place: HostOffset) -> Result<Option<RefcountBlock>> {
        let Some(block) = self.pending.pop_front() else { return Ok(None) };
        self.table.push(RefcountTableEntry::encode(place));
        if len_of_list(&self.table).saturating_mul(ENTRY_SIZE) > MAX_REFCOUNT_TABLE_BYTES {
            let message = format!(
                "needs a refcount table of more than {MAX_REFCOUNT_TABLE_BYTES} bytes: choose larger \
                 clusters"
            );
            return Err(Error::new(ErrorKind::BadSize, message));
        }
        Ok(Some(block))
    }
}

fn len_of_list<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

fn put_words(
    out: &mut StreamWriter<'_>,
    at: HostOffset,
    words: impl Iterator<Item = u64>,
) -> Result<()> {
    out.put_at(at.get(), &[])?;
    words.into_iter().try_for_each(|word| out.put(&word.to_be_bytes()))
}
