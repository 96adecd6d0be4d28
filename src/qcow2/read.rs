//! Reading guest data: find each cluster's mapping, then take its bytes from where they are.

use std::sync::PoisonError;

use super::compress::unpack;
use super::entry::{ClusterRef, CompressedRange, Mapping, Subclusters};
use super::error::FormatError;
use super::geometry::{GuestOffset, SUBCLUSTERS};
use super::open::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::read_padded_at;

impl Qcow2 {
    /// Reads what the tables map, also beyond the virtual size.
    pub(super) fn read_mapped(&self, mut offset: GuestOffset, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            // Held while the data is read: until then nobody frees the clusters.
            let (live, run) = self.run_for(offset, buf.len())?;
            let room = self.room_in(run, offset).min(buf.len());
            let (part, rest) =
                std::mem::take(&mut buf).split_at_mut_checked(room).unwrap_or_default();
            self.read_as(run.mapping, offset, part)
                .map_err(|error| error.at_offset(offset.get()))?;
            drop(live);
            offset = offset.plus_bytes(u64::try_from(room).unwrap_or(u64::MAX));
            buf = rest;
        }
        Ok(())
    }

    /// Reads bytes of a run that is mapped like this.
    pub(super) fn read_as(
        &self,
        mapping: Mapping,
        offset: GuestOffset,
        buf: &mut [u8],
    ) -> Result<()> {
        let within = self.header.geometry.within_cluster(offset);
        match mapping {
            Mapping::Unallocated => self.read_below(offset, buf),
            Mapping::Zero(_) => {
                buf.fill(0);
                Ok(())
            }
            Mapping::Data(host) => {
                read_padded_at(self.data(), host.offset.plus_bytes(within).get(), buf)
            }
            Mapping::Mixed(host, subclusters) => {
                self.read_subclusters(offset, within, host, subclusters, buf)
            }
            Mapping::Compressed(range) => self.read_packed(range, within, buf),
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
                    read_padded_at(self.data(), host.offset.plus_bytes(within).get(), part)?;
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
            if self.header.backing.is_some() {
                let message = "the backing file is needed, and was not opened";
                return Err(Error::new(ErrorKind::BackingRefused, message));
            }
            buf.fill(0);
            return Ok(());
        };
        let there = backing.size().saturating_sub(offset.get());
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        let (below, beyond) = buf.split_at_mut_checked(there).unwrap_or_default();
        beyond.fill(0);
        if below.is_empty() { Ok(()) } else { backing.read_at(offset.get(), below) }
    }

    fn read_packed(&self, range: CompressedRange, within: u64, buf: &mut [u8]) -> Result<()> {
        let within = usize::try_from(within).unwrap_or(usize::MAX);
        let wanted = within..within.saturating_add(buf.len());
        // OK to ignore poison: it is replaced in one step.
        let recent = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cluster)) = recent().as_ref().filter(|(at, _)| *at == range.offset)
            && let Some(part) = cluster.get(wanted.clone())
        {
            buf.copy_from_slice(part);
            return Ok(());
        }
        let cluster = self.unpack(range)?;
        let part = cluster.get(wanted);
        buf.copy_from_slice(
            part.ok_or_else(|| Error::new(ErrorKind::Internal, "read beyond a cluster"))?,
        );
        if buf.len() < cluster.len() {
            // Whoever reads in small pieces comes back.
            *recent() = Some((range.offset, cluster));
        }
        Ok(())
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
