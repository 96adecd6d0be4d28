//! Reading guest data: find each cluster's mapping, then take its bytes from where they are.

use std::sync::PoisonError;

use super::compress::unpack;
use super::entry::{ClusterRef, CompressedRange, L2Entry, Mapping, Subclusters};
use super::error::FormatError;
use super::geometry::{GuestCluster, GuestOffset, SUBCLUSTERS};
use super::open::Qcow2;
use super::table::L2Table;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::read_padded_at;

impl BlockDevice for Qcow2 {
    fn size(&self) -> u64 {
        self.header.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > self.size()) {
            let message = format!("read of {} bytes beyond the disk's end", buf.len());
            return Err(Error::new(ErrorKind::BadRequest, message).at_offset(offset));
        }
        self.read_mapped(GuestOffset::new(offset), buf)
    }
}

impl Qcow2 {
    /// Reads what the tables map, also beyond the virtual size.
    pub(super) fn read_mapped(&self, mut offset: GuestOffset, mut buf: &mut [u8]) -> Result<()> {
        let geometry = self.header.geometry;
        while !buf.is_empty() {
            let within = geometry.within_cluster(offset);
            let room = geometry.cluster_size().saturating_sub(within);
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) =
                std::mem::take(&mut buf).split_at_mut_checked(len).unwrap_or_default();
            self.read_in_cluster(offset, within, part)
                .map_err(|error| error.at_offset(offset.get()))?;
            offset = offset.plus_bytes(u64::try_from(len).unwrap_or(u64::MAX));
            buf = rest;
        }
        Ok(())
    }

    /// What the L2 entry of a guest cluster says.
    pub(super) fn mapping(&self, cluster: GuestCluster) -> Result<Mapping> {
        let entry = self.l2_entry(cluster)?;
        entry.decode(self.header.geometry).map_err(FormatError::into_error)
    }

    fn l2_entry(&self, cluster: GuestCluster) -> Result<L2Entry> {
        let geometry = self.header.geometry;
        let l1_entry = self.l1_entry(geometry.l1_index(cluster))?;
        let Some(table) = l1_entry.decode(geometry).map_err(FormatError::into_error)? else {
            return Ok(L2Entry::UNALLOCATED);
        };
        // OK to ignore poison: the table is replaced in one step.
        let mut recent = self.recent_table.lock().unwrap_or_else(PoisonError::into_inner);
        let index = geometry.l2_index(cluster);
        if let Some((offset, entries)) = recent.as_ref()
            && *offset == table.offset
        {
            return Ok(entries.get(index));
        }
        let entries = L2Table::read(&*self.storage, table.offset, geometry)?;
        let entry = entries.get(index);
        *recent = Some((table.offset, entries));
        Ok(entry)
    }

    fn read_in_cluster(&self, offset: GuestOffset, within: u64, buf: &mut [u8]) -> Result<()> {
        match self.mapping(self.header.geometry.guest_cluster(offset))? {
            Mapping::Unallocated => self.read_below(offset, buf),
            Mapping::Zero(_) => {
                buf.fill(0);
                Ok(())
            }
            Mapping::Data(host) => {
                read_padded_at(&*self.storage, host.offset.plus_bytes(within).get(), buf)
            }
            Mapping::Mixed(host, subclusters) => {
                self.read_subclusters(offset, within, host, subclusters, buf)
            }
            Mapping::Compressed(range) => {
                let cluster = self.unpack(range)?;
                let within = usize::try_from(within).unwrap_or(usize::MAX);
                buf.copy_from_slice(
                    within
                        .checked_add(buf.len())
                        .and_then(|end| cluster.get(within..end))
                        .ok_or_else(|| Error::new(ErrorKind::Internal, "read beyond a cluster"))?,
                );
                Ok(())
            }
        }
    }

    fn read_subclusters(
        &self,
        mut offset: GuestOffset,
        mut within: u64,
        host: Option<ClusterRef>,
        subclusters: Subclusters,
        mut buf: &mut [u8],
    ) -> Result<()> {
        let size = self.header.geometry.cluster_size() / SUBCLUSTERS;
        while !buf.is_empty() {
            let in_subcluster = within.checked_rem(size).unwrap_or_default();
            let bit = 1u32.checked_shl(
                u32::try_from(within.checked_div(size).unwrap_or(u64::MAX)).unwrap_or(u32::MAX),
            );
            let bit = bit.unwrap_or_default();
            let room = size.saturating_sub(in_subcluster);
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) =
                std::mem::take(&mut buf).split_at_mut_checked(len).unwrap_or_default();
            match host.filter(|_| subclusters.allocated & bit != 0) {
                Some(host) => {
                    read_padded_at(&*self.storage, host.offset.plus_bytes(within).get(), part)?;
                }
                None if subclusters.zero & bit != 0 => part.fill(0),
                None => self.read_below(offset, part)?,
            }
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            (offset, within, buf) = (offset.plus_bytes(len), within.saturating_add(len), rest);
        }
        Ok(())
    }

    /// The backing file's bytes, zeros beyond its end.
    fn read_below(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let Some(backing) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        let there = backing.size().saturating_sub(offset.get());
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        let (below, beyond) = buf.split_at_mut_checked(there).unwrap_or_default();
        beyond.fill(0);
        if below.is_empty() { Ok(()) } else { backing.read_at(offset.get(), below) }
    }

    fn unpack(&self, range: CompressedRange) -> Result<Vec<u8>> {
        // A descriptor cannot claim more than two clusters.
        let mut packed = vec![0; usize::try_from(range.len).unwrap_or_default()];
        let found = self.storage.read_at(range.offset.get(), &mut packed)?;
        packed.truncate(found);
        let len = self.header.geometry.cluster_len();
        unpack(&packed, self.header.compression, len).map_err(FormatError::into_error)
    }
}
