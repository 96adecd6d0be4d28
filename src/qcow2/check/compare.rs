//! What was counted, against what the image stores.

use super::finding::{Finding, Reference, Structure};
use super::scan::Scan;
use super::stored::BlockAt;
use crate::error::Result;
use crate::qcow2::geometry::{ClusterCount, HostCluster};
use crate::qcow2::refblock::RefcountBlock;

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
        let Some(block) = block else {
            self.compare_missing_block(index);
            return Ok(());
        };
        let expected = self.report.ledger().block(self.geometry, index);
        if let Some(place) = expected.as_ref().and_then(RefcountBlock::last_used) {
            self.in_use(first + ClusterCount::new(place));
        }
        // Where a count does not fit, all are looked at.
        let places: Box<dyn Iterator<Item = u64>> = match &expected {
            Some(expected) if *expected == block => return Ok(()),
            Some(expected) => Box::new(block.differences(expected)),
            None => Box::new(0..self.geometry.refblock_entries()),
        };
        for place in places {
            let cluster = first + ClusterCount::new(place);
            let found = self.report.ledger().get(cluster);
            self.judge(cluster, block.get(place), found);
        }
        Ok(())
    }

    /// No count is stored, or none that can be known.
    fn compare_missing_block(&mut self, index: u64) {
        let first = self.geometry.first_cluster_of_refblock(index).get();
        let last = first.saturating_add(self.geometry.refblock_entries()).saturating_sub(1);
        let found: Vec<_> = self.report.ledger().range(first..=last).collect();
        for (cluster, found) in found {
            match self.stored.block_at(index) {
                BlockAt::Unknown => self.in_use(cluster),
                _ => self.judge(cluster, 0, found),
            }
        }
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
            self.record(Finding::Leak { host, stored, found });
        } else if stored < found {
            self.record(Finding::Undercount { host, stored, found });
        }
    }

    fn in_use(&mut self, cluster: HostCluster) {
        let end = self.geometry.host_offset(cluster + ClusterCount::new(1));
        self.report.end_of_use = self.report.end_of_use.max(end);
    }
}
