//! What was counted, against what the image stores.

use super::finding::{Finding, Reference, Structure};
use super::scan::Scan;
use super::stored::BlockAt;
use crate::error::Result;
use crate::qcow2::geometry::{ClusterCount, HostCluster};

impl Scan<'_> {
    /// Compares every count, block by block.
    pub(super) fn compare(&mut self) -> Result<()> {
        let blocks = u64::try_from(self.stored.len()).unwrap_or(u64::MAX);
        for index in 0..blocks {
            self.task.check()?;
            self.compare_block(index)?;
        }
        // What no block of the table could count.
        let first = self.geometry.first_cluster_of_refblock(blocks).get();
        for (cluster, found) in self.report.ledger().range(first..=u64::MAX).collect::<Vec<_>>() {
            self.judge(cluster, 0, found);
        }
        Ok(())
    }

    fn compare_block(&mut self, index: u64) -> Result<()> {
        let first = self.geometry.first_cluster_of_refblock(index);
        let at = self.stored.block_at(index);
        let block = match self.stored.load(index) {
            Ok(block) => block.cloned().filter(|block| !block.is_zero()),
            Err(error) => {
                if let BlockAt::Offset(offset) = at {
                    self.unreadable(Reference::to(Structure::RefcountBlock, offset), &error)?;
                }
                self.stored.forget(index);
                None
            }
        };
        let entries = self.geometry.refblock_entries();
        let last = first.get().saturating_add(entries).saturating_sub(1);
        let found: Vec<_> = self.report.ledger().range(first.get()..=last).collect();
        if self.stored.block_at(index) == BlockAt::Unknown {
            if let Some((cluster, _)) = found.last() {
                self.in_use(*cluster);
            }
            return Ok(());
        }
        let Some(block) = block else {
            found.into_iter().for_each(|(cluster, found)| self.judge(cluster, 0, found));
            return Ok(());
        };
        let mut found = found.into_iter().peekable();
        for place in 0..entries {
            let cluster = first + ClusterCount::new(place);
            let found = found.next_if(|(next, _)| *next == cluster).map_or(0, |(_, found)| found);
            self.judge(cluster, block.get(place), found);
        }
        Ok(())
    }

    fn judge(&mut self, cluster: HostCluster, stored: u64, found: u64) {
        if stored == 0 && found == 0 {
            return;
        }
        let host = self.geometry.host_offset(cluster);
        if found == 0 && host.get() >= self.file_len {
            self.report.counted_beyond_file = self.report.counted_beyond_file.saturating_add(1);
            return;
        }
        self.in_use(cluster);
        if stored > found {
            self.report.record(Finding::Leak { host, stored, found });
        } else if stored < found {
            self.report.record(Finding::Undercount { host, stored, found });
        }
    }

    fn in_use(&mut self, cluster: HostCluster) {
        let end = self.geometry.host_offset(cluster + ClusterCount::new(1));
        self.report.end_of_use = self.report.end_of_use.max(end);
    }
}
