//! Guest data that changes together with the size: which clusters that are, and what they hold
//! then.

use std::collections::BTreeMap;

use crate::block::{BlockDevice, ExtentKind, Patch, PatchContent, is_zero};
use crate::error::Result;
use crate::qcow2::geometry::{ClusterCount, GuestCluster, GuestOffset};
use crate::qcow2::open::Qcow2;
use crate::task::Task;

/// What becomes of a guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// It has a host cluster of its own.
    Data,
    /// Its entry says zero (version 3).
    Zero,
}

/// The guest clusters that read otherwise afterwards. What they hold is put together when it is
/// written: memory does not grow with the cluster size.
#[derive(Debug, Default)]
pub(super) struct Rewrites<'a> {
    /// Ascending; no two of them meet.
    patches: Vec<Patch<'a>>,
    /// Where the disk ends, before and afterwards.
    old_size: u64,
    new_size: u64,
    clusters: BTreeMap<GuestCluster, Becomes>,
}

impl<'a> Rewrites<'a> {
    /// Looks at what the patches change. Where the disk ends before them, it reads as zeros.
    ///
    /// # Errors
    /// As [`Patch::in_order`], and what reading the image says.
    pub(super) fn new(
        image: &Qcow2,
        patches: &[Patch<'a>],
        new_size: u64,
        task: Task<'_>,
    ) -> Result<Rewrites<'a>> {
        let patches = Patch::in_order(patches.iter().copied(), new_size)?;
        let old_size = image.header.virtual_size;
        let mut rewrites = Rewrites { patches, old_size, new_size, clusters: BTreeMap::new() };
        for patch in rewrites.patches.clone() {
            rewrites.look_at(image, &patch, task)?;
        }
        Ok(rewrites)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    pub(super) fn contains(&self, cluster: GuestCluster) -> bool {
        self.clusters.contains_key(&cluster)
    }

    /// What changes, in the order of the disk.
    pub(super) fn iter(&self) -> impl Iterator<Item = (GuestCluster, Becomes)> {
        self.clusters.iter().map(|(cluster, becomes)| (*cluster, *becomes))
    }

    fn look_at(&mut self, image: &Qcow2, patch: &Patch<'_>, task: Task<'_>) -> Result<()> {
        let geometry = image.header.geometry;
        let mut at = patch.offset;
        while at < patch.end() {
            task.check()?;
            if let Some(end) = self.zeros_until(image, patch, at)? {
                at = end;
                continue;
            }
            let cluster = geometry.guest_cluster(GuestOffset::new(at));
            let next = geometry.guest_offset(cluster + ClusterCount::new(1)).get();
            if !self.contains(cluster) {
                self.add(image, cluster)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Where zeros end that are to become zeros, if that is so from `at` on.
    fn zeros_until(&self, image: &Qcow2, patch: &Patch<'_>, at: u64) -> Result<Option<u64>> {
        let PatchContent::Zeros(_) = patch.content else { return Ok(None) };
        if at >= self.old_size {
            return Ok(Some(patch.end()));
        }
        let extent = image.extent(at, patch.end().min(self.old_size))?;
        let reads_as_zeros = match extent.kind {
            ExtentKind::Zero => true,
            ExtentKind::Unallocated => image.header.backing.is_none(),
            ExtentKind::Data { .. } | ExtentKind::Compressed => false,
        };
        Ok(reads_as_zeros.then_some(extent.offset.saturating_add(extent.len)))
    }

    fn add(&mut self, image: &Qcow2, cluster: GuestCluster) -> Result<()> {
        let old = self.old_content(image, cluster)?;
        let new = self.put_over(image, cluster, old.clone());
        if new == old {
            return Ok(());
        }
        let can_say_zero = image.header.may_say_zero();
        let becomes = if can_say_zero && is_zero(&new) { Becomes::Zero } else { Becomes::Data };
        self.clusters.insert(cluster, becomes);
        Ok(())
    }

    /// What a cluster is to hold.
    pub(super) fn content(&self, image: &Qcow2, cluster: GuestCluster) -> Result<Vec<u8>> {
        Ok(self.put_over(image, cluster, self.old_content(image, cluster)?))
    }

    /// What it holds, and zeros behind the end of the old disk.
    fn old_content(&self, image: &Qcow2, cluster: GuestCluster) -> Result<Vec<u8>> {
        let geometry = image.header.geometry;
        let offset = geometry.guest_offset(cluster);
        let mut bytes = vec![0; geometry.cluster_len()];
        let there = self.old_size.min(self.new_size).saturating_sub(offset.get());
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(bytes.len());
        if let Some(part) = bytes.get_mut(..there).filter(|part| !part.is_empty()) {
            image.read_mapped(offset, part)?;
        }
        Ok(bytes)
    }

    fn put_over(&self, image: &Qcow2, cluster: GuestCluster, mut bytes: Vec<u8>) -> Vec<u8> {
        let geometry = image.header.geometry;
        let offset = geometry.guest_offset(cluster).get();
        let end = geometry.guest_offset(cluster + ClusterCount::new(1)).get();
        let first = self.patches.partition_point(|patch| patch.end() <= offset);
        let patches = self.patches.iter().skip(first).take_while(|patch| patch.offset < end);
        patches.for_each(|patch| patch.put_over(offset, &mut bytes));
        bytes
    }
}
