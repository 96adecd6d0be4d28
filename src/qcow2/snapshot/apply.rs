//! Carrying a change of the snapshots out, in the order that keeps a crash harmless.

use super::plan::{Entry, Flags, Plan, set_counted_flags};
use crate::error::{Error, Result};
use crate::host::storage::{Storage, read_exact_at};
use crate::qcow2::entry::{L1Entry, RefcountTableEntry};
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::{ClusterCount, Geometry};
use crate::qcow2::header::Header;
use crate::qcow2::open::Qcow2;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::release::give_back;
use crate::qcow2::runs::{self, Runs};
use crate::qcow2::stream::StreamWriter;
use crate::qcow2::table::{L2Table, encode_words};
use crate::task::Task;

impl Qcow2 {
    /// Writes what is new, switches, gives back the room of what is not needed any more. Returns
    /// the new header, and by how many bytes what is in use became less.
    pub(super) fn carry_out(&self, mut plan: Plan<'_>, task: Task<'_>) -> Result<(Header, u64)> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        let old_len = storage.len()?;
        let added = plan.room.added();
        log::info!("plan: {} new clusters", (added.end - added.start).get());
        let new_len = geometry.host_offset(added.end).get();
        let grows = storage.can_grow() && new_len > old_len;
        let extended = if grows { storage.set_len(new_len) } else { Ok(()) };
        extended.and_then(|()| self.write_new(&mut plan, task)).map_err(|error| {
            // Where nothing was there before, nothing is there again.
            let behind = grows && geometry.host_offset(added.start).get() >= old_len;
            match behind.then(|| storage.set_len(old_len)) {
                Some(Ok(())) => error,
                _ => error.after_changes(),
            }
        })?;
        switch_header(storage, &plan.header).map_err(Error::after_changes)?;
        // It is done. Room that the file system keeps is no reason to say anything else.
        let freed = plan.give_back(storage, geometry, old_len).unwrap_or_default();
        let net = freed.get().saturating_sub((added.end - added.start).get());
        Ok((plan.header, geometry.bytes_of(ClusterCount::new(net))))
    }

    /// Everything that nothing refers to yet, in one go.
    fn write_new(&self, plan: &mut Plan<'_>, task: Task<'_>) -> Result<()> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        let start = geometry.host_offset(plan.room.added().start).get();
        let mut out = ClusterWriter { out: StreamWriter::new(storage, start), geometry };
        for index in plan.room.blocks() {
            out.put(plan.counts.block(*index)?.bytes())?;
        }
        let table = plan.room.table(plan.counts.table());
        out.put(&encode_words(table.into_iter().map(RefcountTableEntry::word)))?;
        let bytes = |tables: usize| {
            geometry.bytes_of(ClusterCount::new(u64::try_from(tables).unwrap_or(u64::MAX)))
        };
        for (done, new) in plan.tables.iter().enumerate() {
            task.step("snapshot", bytes(done), bytes(plan.tables.len()))?;
            let mut table = L2Table::read_padded(storage, new.from, geometry)?;
            match new.flags {
                Flags::Clear => table.set_copied(0..geometry.l2_entries(), false),
                Flags::AsCounted => set_counted_flags(&self.header, &mut table, &mut plan.counts)?,
            }
            out.put(table.bytes())?;
        }
        let words = |l1: &[L1Entry]| encode_words(l1.iter().copied().map(L1Entry::word));
        if let Some(l1) = &plan.l1 {
            out.put(&words(l1))?;
        }
        out.put(&words(&plan.snapshot_l1))?;
        if let Some(entries) = &plan.entries {
            self.write_entries(&mut out.out, entries)?;
        }
        // A wish to stop is heard up to here.
        task.check()?;
        out.out.finish()
    }

    fn write_entries(&self, out: &mut StreamWriter<'_>, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            let mut bytes = match entry {
                Entry::New(snapshot) => snapshot.encode(),
                Entry::Kept(at, len) => {
                    let mut bytes = vec![0; usize::try_from(*len).unwrap_or_default()];
                    read_exact_at(&*self.storage, *at, &mut bytes)?;
                    bytes
                }
            };
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            out.put(&bytes)?;
        }
        Ok(())
    }
}

/// Writes structures that take whole clusters.
struct ClusterWriter<'a> {
    out: StreamWriter<'a>,
    geometry: Geometry,
}

impl ClusterWriter<'_> {
    /// Appends a structure, and zeros up to the end of its last cluster.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len().next_multiple_of(self.geometry.cluster_len().max(1));
        self.out.put(bytes)?;
        self.out.put(&vec![0; len.saturating_sub(bytes.len())])
    }
}

impl Plan<'_> {
    /// Gives the room of freed clusters back, and ends the file where the last used cluster does,
    /// if it did so before. Returns how many clusters became free.
    fn give_back(
        &mut self,
        storage: &dyn Storage,
        geometry: Geometry,
        old_len: u64,
    ) -> Result<ClusterCount> {
        let mut freed = ClusterCount::ZERO;
        // The old blocks say what is freed: their own room comes last.
        let structures = Runs::of(self.room.replaced().to_vec());
        for index in self.room.blocks().to_vec() {
            for run in self.counts.freed(index)? {
                freed = freed + (run.end - run.start);
                let mut data = Vec::new();
                match structures.meets(&run) {
                    false => data.push(run),
                    true => runs::clusters(run)
                        .filter(|cluster| !structures.holds(*cluster))
                        .for_each(|c| runs::push(&mut data, c..c + ClusterCount::new(1))),
                }
                data.into_iter().try_for_each(|run| give_back(storage, geometry, run))?;
            }
        }
        let replaced = self.room.replaced().to_vec();
        replaced.into_iter().try_for_each(|run| give_back(storage, geometry, run))?;
        if storage.can_grow() && old_len <= geometry.host_offset(self.used).get() {
            let table = self.room.table(self.counts.table());
            let end = Refcounts::new(storage, geometry, &table).end_of_use(Default::default())?;
            let end = geometry.host_offset(end).get();
            if end < storage.len()? {
                storage.set_len(end)?;
            }
        }
        Ok(freed)
    }
}
