//! Carrying a resize out, in the order that keeps a crash harmless.

use super::plan::{L1Write, Plan, TailWrite};
use super::survey::Survey;
use crate::error::{Error, Result};
use crate::host::storage::{Allocation, write_zeros};
use crate::qcow2::create::Preallocation;
use crate::qcow2::entry::L1Entry;
use crate::qcow2::flush::switch_header;
use crate::qcow2::geometry::{ClusterCount, GuestCluster};
use crate::qcow2::open::Qcow2;
use crate::qcow2::release::Releaser;
use crate::qcow2::stream::StreamWriter;
use crate::qcow2::table::encode_words;
use crate::task::Task;

impl Qcow2 {
    /// Writes what is new, switches, releases what was dropped; returns the bytes freed.
    pub(super) fn apply(
        &self,
        survey: &Survey,
        plan: Plan,
        preallocation: Option<Preallocation>,
        task: Task<'_>,
    ) -> Result<u64> {
        let storage = &*self.storage;
        self.write_new(survey, &plan, preallocation, task).map_err(Error::after_changes)?;
        let grows = preallocation.is_some();
        if grows {
            self.clean_tail(&plan).map_err(Error::after_changes)?;
        }
        switch_header(storage, &plan.header).map_err(Error::after_changes)?;
        if !grows {
            // Only now is it behind the disk's end.
            self.clean_tail(&plan).map_err(Error::after_changes)?;
        }
        let table = plan.growth.table(&survey.refcount_table);
        let mut releaser = Releaser::new(storage, plan.header.geometry, table);
        for run in plan.released.metadata {
            releaser.release_run(run).map_err(Error::after_changes)?;
        }
        for entry in plan.released.entries {
            releaser.release_entry(entry).map_err(Error::after_changes)?;
        }
        for table in plan.released.tables {
            releaser.release_table(table).map_err(Error::after_changes)?;
        }
        let freed_bytes = releaser.finish(&plan.header).map_err(Error::after_changes)?;
        if !grows {
            storage.sync().map_err(Error::after_changes)?;
        }
        Ok(freed_bytes)
    }

    /// Everything that nothing refers to yet.
    fn write_new(
        &self,
        survey: &Survey,
        plan: &Plan,
        preallocation: Option<Preallocation>,
        task: Task<'_>,
    ) -> Result<()> {
        let (storage, geometry) = (&*self.storage, plan.header.geometry);
        let at = |cluster| geometry.host_offset(cluster).get();
        let added = plan.growth.added();
        if !added.is_empty() {
            storage.set_len(at(added.end).max(storage.len()?))?;
            let len = geometry.bytes_of(plan.data.end - plan.data.start);
            match preallocation {
                Some(Preallocation::Falloc) if len > 0 => {
                    storage.allocate(at(plan.data.start), len, Allocation::Reserve)?;
                }
                Some(Preallocation::Full) => write_zeros(storage, at(plan.data.start), len, task)?,
                _ => {}
            }
            plan.growth.write(storage, &survey.refcount_table, |_, _| {})?;
        }
        match plan.l1_write {
            L1Write::Nothing => {}
            L1Write::InPlace(first) => {
                let skip = usize::try_from(first).unwrap_or(usize::MAX);
                let words = encode_words(plan.l1.iter().skip(skip).map(|entry| entry.word()));
                let offset = plan.header.l1.offset.plus_bytes(first.saturating_mul(8));
                storage.write_at(offset.get(), &words)?;
            }
            L1Write::Moved(to) => {
                let words = plan.l1.iter().copied().map(L1Entry::word);
                storage.write_at(at(to), &encode_words(words))?;
            }
        }
        if let Some((to, table)) = &plan.edge {
            storage.write_at(at(*to), &table.encode(geometry))?;
        }
        if let TailWrite::Copy(to, bytes) = &plan.tail {
            storage.write_at(at(*to), bytes)?;
        }
        self.write_tables(plan, task)
    }

    /// The L2 tables for what is added, one behind the other.
    fn write_tables(&self, plan: &Plan, task: Task<'_>) -> Result<()> {
        let geometry = plan.header.geometry;
        let mut out = StreamWriter::new(&*self.storage);
        out.seek(geometry.host_offset(plan.tables.start).get())?;
        let count = (plan.fill.end() - plan.tables_from).get();
        let total = geometry.bytes_of(ClusterCount::new(count));
        let mut cluster: GuestCluster = plan.tables_from;
        while cluster < plan.fill.end() {
            let done = cluster - plan.tables_from;
            if done.get() & 0xf_ffff == 0 {
                task.step("metadata", geometry.bytes_of(done), total)?;
            }
            let entry = plan.fill.entry(cluster);
            out.put(&entry.word.to_be_bytes())?;
            if geometry.extended_l2() {
                out.put(&entry.bitmap.to_be_bytes())?;
            }
            cluster = cluster + ClusterCount::new(1);
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
