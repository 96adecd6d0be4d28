//! Whether the clusters of an image were laid out before anything was written to them.

use super::open::Qcow2;
use super::refcounts::Refcounts;
use super::table::read_refcount_table;
use crate::error::Result;

impl Qcow2 {
    /// Whether the image counts more clusters as used than `allocated_bytes`, what the host has
    /// allocated for the file, can hold: more than a ninth more, and two at least. Then its entries
    /// do not tell what was written: the holes of the file do. The rule is QEMU's.
    ///
    /// # Errors
    /// What the storage says, and [`Corrupt`](crate::ErrorKind::Corrupt).
    pub fn is_laid_out_ahead(&self, allocated_bytes: u64) -> Result<bool> {
        let geometry = self.header.geometry;
        let real = allocated_bytes >> geometry.cluster_bits().get();
        let ninth = real.saturating_mul(10) / 9;
        let threshold = ninth.max(real.saturating_add(2));
        let end = geometry.host_cluster_after(self.storage.len()?);
        let table = read_refcount_table(&*self.storage, &self.header)?;
        let mut counts = Refcounts::new(&*self.storage, geometry, &table);
        let used = counts.used(end, threshold)?;
        Ok(used.is_some_and(|used| used >= threshold))
    }
}
