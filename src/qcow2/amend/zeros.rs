//! Clusters that say zero, for a reader that does not know them.

use crate::block::{BlockDevice, ExtentKind, is_zero};
use crate::error::Result;
use crate::host::storage::clear;
use crate::qcow2::entry::{L2Entry, Mapping};
use crate::qcow2::error::FormatError;
use crate::qcow2::geometry::{GuestCluster, GuestOffset};
use crate::qcow2::lengths;
use crate::qcow2::open::Qcow2;
use crate::qcow2::table::L2Table;
use crate::task::Task;

impl Qcow2 {
    /// Bytes of the disk that its entries say are zeros.
    pub(super) fn said_zero(&self, task: Task<'_>) -> Result<u64> {
        let mut bytes = 0u64;
        for extent in self.extents(0..self.size()) {
            let extent = extent?;
            task.check()?;
            if extent.kind == ExtentKind::Zero {
                bytes = bytes.saturating_add(extent.len);
            }
        }
        Ok(bytes)
    }

    /// Lets no entry say zero: where nothing shows through, or what does is zeros, the cluster is
    /// unallocated, else it holds the zeros. The disk reads the same at every moment.
    pub(super) fn say_no_zero(&self, task: Task<'_>) -> Result<()> {
        let cluster_size = self.header.geometry.cluster_size();
        let mut at = 0;
        while at < self.size() {
            task.step("zeros", at, self.size())?;
            let extent = self.extent(at, self.size())?;
            let end = at.saturating_add(extent.len);
            if extent.kind == ExtentKind::Zero {
                self.write_or_forget(at, cluster_size.min(extent.len))?;
                at = at.saturating_add(cluster_size.min(extent.len));
            } else {
                at = end;
            }
        }
        task.step("zeros", self.size(), self.size())
    }

    /// Lets no entry behind the end of the disk say zero either.
    pub(super) fn forget_zeros_behind(&self, task: Task<'_>) -> Result<()> {
        let geometry = self.header.geometry;
        let end = geometry.guest_cluster_after(GuestOffset::new(self.size()));
        for (index, entry) in (0..).zip(self.l1()?).skip(lengths::index(geometry.l1_index(end))) {
            task.check()?;
            let table = entry.decode(geometry).map_err(FormatError::into_error)?;
            let Some(table) = table else { continue };
            let first = geometry.first_cluster_of_table(index).get();
            let table = L2Table::read_padded(&*self.storage, table.offset, geometry)?;
            for (cluster, entry) in
                (first..).zip(table.entries()).skip_while(|(n, _)| *n < end.get())
            {
                let mapping = self.header.mapping(entry).map_err(FormatError::into_error)?;
                if matches!(mapping, Mapping::Zero(_)) {
                    let cluster = GuestCluster::new(cluster);
                    self.changing(|live| {
                        self.forget_cluster(live, cluster, mapping, L2Entry::UNALLOCATED)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The same for the cluster that begins at `at` and has `len` bytes on the disk.
    fn write_or_forget(&self, at: u64, len: u64) -> Result<()> {
        let (offset, mut bytes) = (GuestOffset::new(at), self.below_at(at, len)?);
        if is_zero(&bytes) {
            let cluster = self.header.geometry.guest_cluster(offset);
            return self.changing(|live| {
                let mapping = self.mapping_now(live, GuestCluster::new(cluster.get()))?;
                self.forget_cluster(live, cluster, mapping, L2Entry::UNALLOCATED)
            });
        }
        bytes.fill(0);
        self.write_mapped(offset, &bytes)
    }

    /// What is below there.
    fn below_at(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let Some(below) = &self.backing else { return Ok(bytes) };
        let inside = usize::try_from(below.size().saturating_sub(at)).unwrap_or(usize::MAX);
        let inside = inside.min(bytes.len());
        if let Some(inside) = bytes.get_mut(..inside).filter(|inside| !inside.is_empty()) {
            below.read_at(at, inside)?;
        }
        Ok(bytes)
    }

    /// Lets the external data file be the disk, byte for byte: zeros where nothing of it is referred
    /// to, and as long as the disk.
    pub(super) fn fill_data_file(&self, task: Task<'_>) -> Result<()> {
        let data = self.data();
        let size = self.size();
        if data.can_grow() && data.len()? < size {
            data.set_len(size)?;
        }
        for extent in self.extents(0..size) {
            let extent = extent?;
            if matches!(extent.kind, ExtentKind::Zero | ExtentKind::Unallocated) {
                clear(data, extent.offset, extent.len, task.quiet())?;
            }
            task.step("zeros", extent.offset.saturating_add(extent.len), size)?;
        }
        data.sync()
    }
}
