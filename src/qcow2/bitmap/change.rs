//! Carrying a change out: everything new is written where nothing refers to it, one write to the
//! header makes it true, and then what it replaces is released.

use std::ops::Range;

use super::chunks::{Chunk, ChunkEntry};
use super::decide::{BitmapChange, Decision, FreshEntry, decide, directory_run};
use super::directory::{Bitmap, encode_directory, read_bitmaps};
use super::place::{self, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, refuse_read_only};
use crate::qcow2::check::scan;
use crate::qcow2::entry::RefcountTableEntry;
use crate::qcow2::extension::BitmapDirectory;
use crate::qcow2::feature::Incompatible;
use crate::qcow2::geometry::{ClusterCount, HostCluster};
use crate::qcow2::header::{Header, TableRef};
use crate::qcow2::header_change::HeaderChange;
use crate::qcow2::lengths::len_of;
use crate::qcow2::open::Qcow2;
use crate::qcow2::release::Releaser;
use crate::qcow2::stream::StreamWriter;
use crate::qcow2::table::{encode_words, read_refcount_table};
use crate::task::Task;

/// What a change of bitmaps did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BitmapsChanged {
    /// Whether anything was written; `false` where all was as it should be already.
    pub changed: bool,
    /// Bytes of the file whose clusters were freed.
    pub freed_bytes: u64,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

impl Qcow2 {
    /// The bitmaps that the image vouched for when it was opened, or changed as a whole since.
    ///
    /// # Errors
    /// As [`read_bitmaps`].
    pub fn bitmaps(&self) -> Result<Vec<Bitmap>> {
        read_bitmaps(&*self.storage, &self.header)
    }

    /// Changes the bitmaps of the image. The reference counts of a dirty image are rebuilt first; the
    /// metadata of any is checked first, for what a damaged one calls free may hold the only copy of
    /// something. The caller must hold the image's lock. Everything written before is on the medium
    /// afterwards; bitmaps are vouched for as of now.
    ///
    /// A crash leaves the old bitmaps or the new ones, and at worst leaked clusters. So does a failure:
    /// where its error is not [`changed`](Error::changed), the image is used on as it was.
    ///
    /// # Errors
    /// Before anything is changed: [`Permission`](crate::ErrorKind::Permission) for a storage that cannot be
    /// written, [`Corrupt`](crate::ErrorKind::Corrupt), [`NotFound`](crate::ErrorKind::NotFound) and
    /// [`Exists`](crate::ErrorKind::Exists) of names, [`Dirty`](crate::ErrorKind::Dirty) for a bitmap that is
    /// [in use](super::Bitmap::is_in_use), [`BadSize`](crate::ErrorKind::BadSize) for a granularity that is too
    /// fine, or a source of another size, [`BadRequest`](crate::ErrorKind::BadRequest) for a name that is not
    /// allowed, [`UnsupportedFeature`](crate::ErrorKind::UnsupportedFeature) of version 2 and beyond the
    /// format's limits, [`NoSpace`](crate::ErrorKind::NoSpace) on a block device. Afterwards what the storage
    /// says.
    pub fn change_bitmaps(
        &mut self,
        change: &BitmapChange<'_>,
        task: Task<'_>,
    ) -> Result<BitmapsChanged> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.settle()?;
        let rebuilt = self.header.incompatible.contains(Incompatible::DIRTY);
        if rebuilt {
            // What would be refused afterwards is refused before anything is written.
            if decide(&*self.storage, &self.header, change, task)?.is_none() {
                return Ok(BitmapsChanged::default());
            }
            self.rebuild_refcounts(task)?;
        }
        let changed = self.change_whole(|image| {
            let changed = change_clean(&*image.storage, &image.header, change, task);
            if rebuilt { changed.map_err(Error::after_changes) } else { changed }
        })?;
        Ok(BitmapsChanged { rebuilt, ..changed })
    }
}

/// Returns the header after the switch, too.
fn change_clean(
    storage: &dyn Storage,
    header: &Header,
    change: &BitmapChange<'_>,
    task: Task<'_>,
) -> Result<(Header, BitmapsChanged)> {
    let Some(decision) = decide(storage, header, change, task)? else {
        return Ok((header.clone(), BitmapsChanged::default()));
    };
    let end = require_sound(storage, header, task)?;
    let mut plan = Plan::new(storage, header, decision, end)?;
    plan.write_new(storage, task)?;
    let freed_bytes = plan.switch(storage).map_err(Error::after_changes)?;
    let changed = BitmapsChanged { changed: true, freed_bytes, rebuilt: false };
    Ok((plan.switch.header().clone(), changed))
}

/// Refuses a damaged image. Returns where the use of the file ends.
fn require_sound(storage: &dyn Storage, header: &Header, task: Task<'_>) -> Result<HostCluster> {
    let found = scan(storage, header, task)?;
    found.require_sound()?;
    Ok(header.geometry.host_cluster_after(found.end_of_use.get()))
}

/// A change, ready to be carried out.
struct Plan<'a> {
    decision: Decision<'a>,
    /// New clusters and their counts: the directory, the table, then the bits.
    place: Place,
    refcount_table: Vec<RefcountTableEntry>,
    directory: Vec<u8>,
    data_at: HostCluster,
    switch: HeaderChange,
    released: Vec<Range<HostCluster>>,
}

impl<'a> Plan<'a> {
    fn new(
        storage: &dyn Storage,
        header: &Header,
        mut decision: Decision<'a>,
        end: HostCluster,
    ) -> Result<Plan<'a>> {
        let geometry = header.geometry;
        let refcount_table = read_refcount_table(storage, header)?;
        let dir_clusters = geometry.clusters_for(len_of(&encode_directory(&decision.bitmaps)));
        let fresh = decision.fresh.as_ref();
        let table_clusters = fresh
            .map_or(ClusterCount::ZERO, |fresh| geometry.table_clusters(len_of(&fresh.entries)));
        let data_clusters = fresh.map_or(ClusterCount::ZERO, |fresh| fresh.data_clusters());
        let len = dir_clusters + table_clusters + data_clusters;
        let place = place::find(storage, geometry, &refcount_table, end, len)?;
        let directory_at = place.growth.rest();
        let table_at = directory_at + dir_clusters;
        if let Some(fresh) = &decision.fresh
            && let Some(bitmap) = decision.bitmaps.get_mut(fresh.index)
        {
            let count = u32::try_from(fresh.entries.len()).unwrap_or(u32::MAX);
            bitmap.table = TableRef { offset: geometry.host_offset(table_at), count };
        }
        let directory = encode_directory(&decision.bitmaps);
        let extension = (!directory.is_empty()).then(|| BitmapDirectory {
            count: u32::try_from(decision.bitmaps.len()).unwrap_or(u32::MAX),
            size_bytes: len_of(&directory),
            offset: geometry.host_offset(directory_at).get(),
        });
        let mut new_header = header.with_bitmaps(extension);
        let mut released = std::mem::take(&mut decision.released);
        released.extend(directory_run(header));
        if let Some(table) = place.growth.table_ref() {
            let old = header.refcount_table;
            let first = geometry.host_cluster(old.offset);
            released.push(first..first + ClusterCount::new(old.count.into()));
            new_header.refcount_table = table;
        }
        let switch = HeaderChange::plan(storage, &new_header)?;
        let data_at = table_at + table_clusters;
        Ok(Plan { decision, place, refcount_table, directory, data_at, switch, released })
    }

    /// Everything that nothing refers to yet. If it cannot all be written, a file that became longer
    /// is cut back to what it was.
    fn write_new(&mut self, storage: &dyn Storage, task: Task<'_>) -> Result<()> {
        let added = self.place.growth.added();
        log::info!("plan: {} new clusters", (added.end - added.start).get());
        if added.is_empty() {
            return Ok(());
        }
        if !self.place.is_behind || !storage.can_grow() {
            // Nobody uses what was written to, but it is not as it was.
            return self.write_clusters(storage, task).map_err(Error::after_changes);
        }
        let geometry = self.switch.header().geometry;
        let old_len = storage.len()?;
        let new_len = geometry.host_offset(added.end).get().max(old_len);
        let written = storage.set_len(new_len).and_then(|()| self.write_clusters(storage, task));
        written.map_err(|error| error.after_changes_if(storage.set_len(old_len).is_err()))
    }

    fn write_clusters(&mut self, storage: &dyn Storage, task: Task<'_>) -> Result<()> {
        let geometry = self.switch.header().geometry;
        let cluster = geometry.cluster_len();
        self.place.growth.write_added(storage, &self.refcount_table, |_, _| {})?;
        let start = geometry.host_offset(self.place.growth.rest()).get();
        let mut out = StreamWriter::new(storage, start);
        let mut directory = self.directory.clone();
        directory.resize(directory.len().next_multiple_of(cluster), 0);
        out.put(&directory)?;
        let Some(fresh) = &mut self.decision.fresh else { return out.finish() };
        let mut next = self.data_at;
        let words = fresh.entries.iter().map(|entry| match entry {
            FreshEntry::Known(entry) => entry.word(),
            FreshEntry::New => {
                let at = geometry.host_offset(next);
                next = next + ClusterCount::new(1);
                ChunkEntry::Data(at).word()
            }
        });
        let mut table = encode_words(words);
        table.resize(table.len().next_multiple_of(cluster), 0);
        out.put(&table)?;
        let chunks = len_of(&fresh.entries);
        let Some(merge) = &mut fresh.merge else { return out.finish() };
        for (chunk, entry) in (0..).zip(&fresh.entries) {
            task.step("merge", chunk, chunks)?;
            if *entry != FreshEntry::New {
                continue;
            }
            let Chunk::Bits(bits) = merge.chunk(chunk)? else {
                let message = "what is dirty in a bitmap is not what it was a moment ago";
                return Err(Error::new(ErrorKind::Internal, message));
            };
            out.put(&bits)?;
        }
        out.finish()
    }

    /// From the first write into what the image has already. Returns the bytes freed.
    fn switch(&mut self, storage: &dyn Storage) -> Result<u64> {
        let geometry = self.switch.header().geometry;
        self.place.growth.raise_existing(storage, &self.refcount_table)?;
        self.switch.apply(storage)?;
        let table = self.place.growth.table(&self.refcount_table);
        let mut releaser = Releaser::new(storage, geometry, table);
        for run in std::mem::take(&mut self.released) {
            releaser.release_run(run)?;
        }
        releaser.finish()
    }
}
