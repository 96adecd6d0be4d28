//! Reading guest data: find each cluster's mapping, then take its bytes from where they are.

use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

use super::entry::{ClusterRef, CompressedRange, Mapping, Subclusters};
use super::error::FormatError;
use super::geometry::{GuestOffset, HostOffset};
use super::open::Qcow2;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::read_padded_at;

impl Qcow2 {
    /// Reads what the tables map, also beyond the virtual size.
    pub(super) fn read_mapped(&self, mut offset: GuestOffset, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let here = |error: Error| error.at_guest_offset(offset.get());
            // Held while the data is read: until then nobody frees the clusters.
            let (live, run) = self.run_for(offset, buf.len()).map_err(here)?;
            let room = self.room_in(run, offset).min(buf.len());
            let (part, rest) =
                std::mem::take(&mut buf).split_at_mut_checked(room).unwrap_or_default();
            match run.mapping {
                Mapping::Compressed(range) => {
                    let within = self.header.geometry.within_cluster(offset);
                    self.read_packed(range, within, part, live)
                }
                mapping => self.read_as(mapping, offset, part),
            }
            .map_err(here)?;
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
            Mapping::Compressed(range) => self.read_packed(range, within, buf, ()),
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
        let geometry = self.header.geometry;
        while !buf.is_empty() {
            let subcluster = geometry.subcluster(within);
            let end = geometry.subcluster_start(within).saturating_add(geometry.subcluster_size());
            let room = end.saturating_sub(within);
            let len = usize::try_from(room).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) =
                std::mem::take(&mut buf).split_at_mut_checked(len).unwrap_or_default();
            match host.filter(|_| subclusters.has_data(subcluster)) {
                Some(host) => {
                    read_padded_at(self.data(), host.offset.plus_bytes(within).get(), part)?;
                }
                None if subclusters.is_zero(subcluster) => part.fill(0),
                None => self.read_below(offset, part)?,
            }
            let len = u64::try_from(len).unwrap_or(u64::MAX);
            (offset, within, buf) = (offset.plus_bytes(len), within.saturating_add(len), rest);
        }
        Ok(())
    }

    /// The backing file's bytes, zeros beyond its end.
    pub(super) fn read_below(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<()> {
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

    /// Reads bytes of a packed cluster. `held`, which keeps the packed bytes where they are, is
    /// given up before they are unpacked: that takes longer than everything else.
    fn read_packed<G>(
        &self,
        range: CompressedRange,
        within: u64,
        buf: &mut [u8],
        held: G,
    ) -> Result<()> {
        let within = usize::try_from(within).unwrap_or(usize::MAX);
        let wanted = within..within.saturating_add(buf.len());
        let recent = self.recent();
        if recent.read(range.offset, wanted.clone(), buf) {
            return Ok(());
        }
        let writes = recent.writes;
        drop(recent);
        let mut unpacker = self.codec.unpacker();
        // A descriptor cannot claim more than two clusters.
        unpacker.packed.resize(usize::try_from(range.len).unwrap_or_default(), 0);
        let found = self.storage.read_at(range.offset.get(), &mut unpacker.packed)?;
        unpacker.packed.truncate(found);
        drop(held);
        let cluster_len = self.header.geometry.cluster_len();
        if buf.len() == cluster_len {
            unpacker.unpack(buf).map_err(FormatError::into_error)?;
        } else {
            let mut cluster = vec![0; cluster_len];
            unpacker.unpack(&mut cluster).map_err(FormatError::into_error)?;
            // Whoever reads in small pieces comes back.
            let mut recent = self.recent();
            if recent.writes == writes {
                recent.cluster = Some((range.offset, cluster));
                recent.read(range.offset, wanted, buf);
            } else if let Some(part) = cluster.get(wanted) {
                buf.copy_from_slice(part);
            }
        }
        self.codec.keep_unpacker(unpacker);
        Ok(())
    }

    /// The compressed cluster that was unpacked last.
    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        // OK to ignore poison: it is replaced in one step.
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The compressed cluster that was unpacked last.
#[derive(Default)]
pub(super) struct Recent {
    /// With where it begins in the file.
    cluster: Option<(HostOffset, Vec<u8>)>,
    /// Counts what was packed: from then on something else may lie in the same place.
    writes: u64,
}

impl Recent {
    /// Copies a part of the cluster that is packed at `offset`, if it is this one.
    fn read(&self, offset: HostOffset, wanted: Range<usize>, buf: &mut [u8]) -> bool {
        let cluster = self.cluster.as_ref().filter(|(at, _)| *at == offset);
        let Some(part) = cluster.and_then(|(_, cluster)| cluster.get(wanted)) else { return false };
        buf.copy_from_slice(part);
        true
    }

    /// Something was packed.
    pub(super) fn forget(&mut self) {
        self.cluster = None;
        self.writes = self.writes.wrapping_add(1);
    }
}
