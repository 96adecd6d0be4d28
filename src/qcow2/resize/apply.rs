//! Carrying a resize out, in the order that keeps a crash harmless.

use super::plan::{EdgeWrite, L1Write, Plan, TailWrite};
use super::rewrite::Rewrites;
use crate::error::{Error, Result};
use crate::host::storage::{Allocation, clear, write_zeros};
use crate::qcow2::entry::{L1Entry, L2Entry};
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::{ClusterCount, ENTRY_SIZE};
use crate::qcow2::open::Qcow2;
use crate::qcow2::options::Preallocation;
use crate::qcow2::release::Releaser;
use crate::qcow2::stream::StreamWriter;
use crate::qcow2::table::encode_words;
use crate::task::Task;

impl Qcow2 {
    /// Writes what is new, switches, releases what was dropped; returns the bytes freed.
    pub(super) fn apply(
        &self,
        plan: Plan,
        preallocation: Option<Preallocation>,
        rewrites: &Rewrites<'_>,
        task: Task<'_>,
    ) -> Result<u64> {
        self.write_added(&plan, preallocation, rewrites, task)?;
        self.switch(plan, preallocation.is_some()).map_err(Error::after_changes)
    }

    /// Everything that lies behind what is used. If it cannot all be written, a file is cut back to
    /// what it was; on a device, it is what nobody uses, as before.
    fn write_added(
        &self,
        plan: &Plan,
        preallocation: Option<Preallocation>,
        rewrites: &Rewrites<'_>,
        task: Task<'_>,
    ) -> Result<()> {
        let added = plan.growth.added();
        if added.is_empty() {
            return Ok(());
        }
        let storage = &*self.storage;
        if !storage.can_grow() {
            self.write_clusters(plan, preallocation, task)?;
            return self.write_shadow(plan, rewrites, task);
        }
        let old_len = storage.len()?;
        let new_len = plan.header.geometry.host_offset(added.end).get();
        let written = storage
            .set_len(new_len.max(old_len))
            .and_then(|()| self.write_clusters(plan, preallocation, task))
            .and_then(|()| self.write_shadow(plan, rewrites, task));
        written.map_err(|error| error.after_changes_if(storage.set_len(old_len).is_err()))
    }

    fn write_clusters(
        &self,
        plan: &Plan,
        preallocation: Option<Preallocation>,
        task: Task<'_>,
    ) -> Result<()> {
        let (storage, geometry) = (&*self.storage, plan.header.geometry);
        let at = |cluster| geometry.host_offset(cluster).get();
        let len = geometry.bytes_of(plan.data.end - plan.data.start);
        match preallocation {
            _ if !storage.can_grow() => {
                // What nobody wrote is not zeros.
                let start = at(plan.growth.rest());
                clear(storage, start, at(plan.data.end).saturating_sub(start), task)?;
            }
            Some(Preallocation::Falloc) if len > 0 => {
                storage.allocate(at(plan.data.start), len, Allocation::Reserve)?;
            }
            Some(Preallocation::Full) => write_zeros(storage, at(plan.data.start), len, task)?,
            _ => {}
        }
        self.write_tables(plan, task)?;
        if let L1Write::Moved(to) = plan.l1_write {
            let words = plan.l1.iter().copied().map(L1Entry::word);
            storage.write_at(at(to), &encode_words(words))?;
        }
        if let EdgeWrite::Moved(to, table) = &plan.edge {
            storage.write_at(at(*to), table.bytes())?;
        }
        if let TailWrite::Copy(to, bytes) = &plan.tail {
            storage.write_at(at(*to), bytes)?;
        }
        plan.growth.write_added(storage, &plan.refcount_table, |_, _| {})
    }

    /// Guest data that changes, and the tables that lead to it.
    fn write_shadow(&self, plan: &Plan, rewrites: &Rewrites<'_>, task: Task<'_>) -> Result<()> {
        let (storage, geometry) = (&*self.storage, plan.header.geometry);
        for (cluster, host) in &plan.shadow.data {
            task.check()?;
            let content = rewrites.content(self, *cluster)?;
            storage.write_at(geometry.host_offset(*host).get(), &content)?;
        }
        for (host, table) in &plan.shadow.tables {
            storage.write_at(geometry.host_offset(*host).get(), table.bytes())?;
        }
        Ok(())
    }

    /// From the first write into what the image has already.
    fn switch(&self, plan: Plan, grows: bool) -> Result<u64> {
        let storage = &*self.storage;
        if let L1Write::InPlace(first) = plan.l1_write {
            let skip = usize::try_from(first).unwrap_or(usize::MAX);
            let words = encode_words(plan.l1.iter().skip(skip).map(|entry| entry.word()));
            let offset = plan.header.l1.offset.plus_bytes(first.saturating_mul(ENTRY_SIZE));
            storage.write_at(offset.get(), &words)?;
        }
        plan.growth.raise_existing(storage, &plan.refcount_table)?;
        if grows {
            self.clean_tail(&plan)?;
        }
        switch_header(storage, &plan.header)?;
        if !grows {
            // Only now is it behind the disk's end.
            self.clean_tail(&plan)?;
            if let EdgeWrite::Trimmed(at, table) = &plan.edge {
                // The references go before the counts do.
                storage.write_at(at.get(), table.bytes())?;
                storage.sync()?;
            }
        }
        let table = plan.growth.table(&plan.refcount_table);
        let mut releaser = Releaser::new(storage, plan.header.geometry, table);
        for run in plan.released.metadata {
            releaser.release_run(run)?;
        }
        for word in plan.released.entries {
            releaser.release_entry(L2Entry { word, bitmap: 0 })?;
        }
        for table in plan.released.tables {
            releaser.release_table(table)?;
        }
        if grows {
            return releaser.finish();
        }
        let freed_bytes = releaser.finish_and_cut(&plan.header, plan.kept_end)?;
        storage.sync()?;
        Ok(freed_bytes)
    }

    /// The L2 tables for what is added, one behind the other.
    fn write_tables(&self, plan: &Plan, task: Task<'_>) -> Result<()> {
        let geometry = plan.header.geometry;
        let start = geometry.host_offset(plan.tables.start).get();
        let mut out = StreamWriter::new(&*self.storage, start);
        let count = plan.fill.end() - plan.tables_from;
        let total = geometry.bytes_of(count);
        let mut done = ClusterCount::ZERO;
        while done < count {
            task.step("metadata", geometry.bytes_of(done), total)?;
            let run = plan.fill.run(plan.tables_from + done);
            out.put_entries(run, geometry)?;
            done = done + run.count;
        }
        out.finish()
    }

    fn clean_tail(&self, plan: &Plan) -> Result<()> {
        if let TailWrite::Zeros(at, len) = plan.tail {
            let zeros = vec![0; usize::try_from(len).unwrap_or_default()];
            self.storage.write_at(at.get(), &zeros)?;
        }
        Ok(())
    }
}
