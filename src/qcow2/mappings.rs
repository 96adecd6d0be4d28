//! What a disk is mapped to, from one end to the other: tables are read in large pieces, past the
//! cache, which is for what is asked for here and there.

use super::entry::{ClusterRef, L1Entry, Mapping};
use super::error::FormatError;
use super::geometry::{GuestCluster, GuestOffset, HostOffset};
use super::lookup::Run;
use super::open::Qcow2;
use super::table::read_words;
use crate::block::{ExtentKind, require_run};
use crate::error::Result;
use crate::host::storage::Run as StoredRun;

/// So many bytes of tables are read at a time, at most. They stay in the processor's cache.
const READ: u64 = 256 << 10;
/// So many entries of the L1 table are read at a time.
const L1_PIECE: u64 = 8192;

/// A run of a disk's bytes, and what they are mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Where it begins on the disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// What it is.
    pub kind: ExtentKind,
    /// Where the file keeps room for it, in bytes, if that is not its data: it reads as zeros, or as
    /// what is below.
    pub reserved: Option<u64>,
}

/// What an image is mapped to, asked for in order. An image that may change meanwhile is asked by
/// way of its cache each time; of one that is only read, tables are read in large pieces.
#[derive(Debug)]
pub struct Mappings<'a> {
    image: &'a Qcow2,
    /// Entries of the L1 table from this one on.
    l1: (u64, Vec<L1Entry>),
    /// What the file has of L2 tables from this offset on.
    tables: (HostOffset, Vec<u8>),
}

impl Qcow2 {
    /// What the disk is mapped to, to be asked for in order.
    pub fn mappings(&self) -> Mappings<'_> {
        Mappings { image: self, l1: (0, Vec::new()), tables: (HostOffset::ZERO, Vec::new()) }
    }

    /// What the file that holds the guest's data has from an offset on: see
    /// [`Storage::run`](crate::host::storage::Storage::run).
    ///
    /// # Errors
    /// What the storage says.
    pub fn stored(&self, host_offset: u64, end: u64) -> Result<StoredRun> {
        self.data().run(host_offset, end)
    }

    /// The part of a run from `at`, which lies in its first cluster, that is of one kind.
    pub(super) fn mapped(&self, at: GuestOffset, run: Run) -> Mapped {
        let geometry = self.header.geometry;
        let within = geometry.within_cluster(at);
        let place = |host: ClusterRef| host.offset.plus_bytes(within).get();
        let data = |host: ClusterRef| ExtentKind::Data { host_offset: place(host) };
        let mut len = u64::try_from(self.room_in(run, at)).unwrap_or(u64::MAX);
        let (kind, reserved) = match run.mapping {
            Mapping::Unallocated => (ExtentKind::Unallocated, None),
            Mapping::Zero(host) => (ExtentKind::Zero, host),
            Mapping::Compressed(_) => (ExtentKind::Compressed, None),
            Mapping::Data(host) => (data(host), None),
            Mapping::Mixed(host, subclusters) => {
                let start = geometry.subcluster_start(within);
                len = geometry.subcluster_size().saturating_sub(within.saturating_sub(start));
                let subcluster = geometry.subcluster(within);
                match host.filter(|_| subclusters.has_data(subcluster)) {
                    Some(host) => (data(host), None),
                    None if subclusters.is_zero(subcluster) => (ExtentKind::Zero, host),
                    None => (ExtentKind::Unallocated, host),
                }
            }
        };
        Mapped { offset: at.get(), len, kind, reserved: reserved.map(place) }
    }
}

impl Mappings<'_> {
    /// What the run that begins at `offset` is, at most to `end`, as
    /// [`extent`](crate::block::BlockDevice::extent) has it.
    ///
    /// # Errors
    /// As there.
    pub fn from(&mut self, offset: u64, end: u64) -> Result<Mapped> {
        let image = self.image;
        let wanted = require_run(image.header.virtual_size, offset, end)?;
        let geometry = image.header.geometry;
        let first = geometry.guest_cluster(GuestOffset::new(offset));
        let last = geometry.guest_cluster_after(GuestOffset::new(end));
        let most = last.get().saturating_sub(first.get());
        let run = self.run(first, most).map_err(|error| error.at_guest_offset(offset))?;
        let found = image.mapped(GuestOffset::new(offset), run);
        Ok(Mapped { len: found.len.min(wanted), ..found })
    }

    fn run(&mut self, cluster: GuestCluster, most: u64) -> Result<Run> {
        let image = self.image;
        if image.options.writable {
            return image.run(cluster, most).map(|(_, run)| run);
        }
        let geometry = image.header.geometry;
        let index = geometry.l1_index(cluster);
        if index >= u64::from(image.header.l1.count) {
            return Ok(Run { mapping: Mapping::Unallocated, clusters: most });
        }
        self.load_l1(index)?;
        let entries = self.l1_from(index);
        let first = entries.first().copied().unwrap_or_default();
        let Some(table) = first.decode(geometry).map_err(FormatError::into_error)? else {
            let empty = entries.iter().take_while(|entry| **entry == first).count();
            let next = index.saturating_add(u64::try_from(empty).unwrap_or(1));
            let clusters = geometry.first_cluster_of_table(next).get();
            let clusters = clusters.saturating_sub(cluster.get()).min(most);
            return Ok(Run { mapping: Mapping::Unallocated, clusters });
        };
        let within = geometry.l2_index(cluster).saturating_mul(geometry.l2_entry_size());
        let (at, rest) =
            (table.offset.plus_bytes(within), geometry.cluster_size().saturating_sub(within));
        if self.entries(at, rest).is_none() {
            self.load_tables(index, table, at)?;
        }
        match self.entries(at, rest) {
            Some(stored) => image.run_of(stored, most),
            // The file ends before it.
            None => image.run(cluster, most).map(|(_, run)| run),
        }
    }

    /// The L1 entries in memory from this one on.
    fn l1_from(&self, index: u64) -> &[L1Entry] {
        let (from, entries) = &self.l1;
        let place = index.checked_sub(*from).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| entries.get(place..)).unwrap_or_default()
    }

    fn load_l1(&mut self, index: u64) -> Result<()> {
        if self.l1_from(index).is_empty() {
            let image = self.image;
            let count = u64::from(image.header.l1.count).saturating_sub(index).min(L1_PIECE);
            let words = read_words(&*image.storage, image.l1_offset(index), count)?;
            self.l1 = (index, words.into_iter().map(L1Entry::from_word).collect());
        }
        Ok(())
    }

    /// The entries of a table from this place in the file on, as far as they are in memory, where the
    /// first of them is. The table ends `rest` bytes further on.
    fn entries(&self, at: HostOffset, rest: u64) -> Option<&[u8]> {
        let (from, bytes) = &self.tables;
        let place = usize::try_from(at.get().checked_sub(from.get())?).ok()?;
        let stored = bytes.get(place..)?;
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let stored = stored.get(..rest).unwrap_or(stored);
        let entry = usize::try_from(self.image.header.geometry.l2_entry_size()).ok()?;
        (stored.len() >= entry).then_some(stored)
    }

    /// Reads a table from this place in the file on, and with it those of the next entries that
    /// follow on it there.
    fn load_tables(&mut self, index: u64, table: ClusterRef, at: HostOffset) -> Result<()> {
        let geometry = self.image.header.geometry;
        let mut end = table.offset.plus_bytes(geometry.cluster_size());
        for entry in self.l1_from(index.saturating_add(1)) {
            if end.get().saturating_sub(at.get()) >= READ || entry.offset_bits() != end {
                break;
            }
            end = end.plus_bytes(geometry.cluster_size());
        }
        let (from, bytes) = &mut self.tables;
        *from = at;
        let len = end.get().saturating_sub(at.get()).min(READ);
        // OK to default: it is small.
        bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
        let found = self.image.storage.read_at(at.get(), bytes);
        bytes.truncate(*found.as_ref().unwrap_or(&0));
        found.map(drop)
    }
}
