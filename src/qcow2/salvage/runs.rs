//! Runs of the disk, and giving what is in them.

use super::budget::SMALLEST_PACKED;
use super::cut::was_cut;
use super::{Below, Salvager};
use crate::block::salvage::{LossReason, Rescue};
use crate::error::Result;
use crate::host::storage::{Found, read_past_errors};
use crate::qcow2::entry::CompressedRange;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::lengths::{index, len_of};

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In what is below.
    Below,
    /// Nowhere: they are zeros.
    Zeros,
    /// From here on in the file that has the guest's data.
    File(HostOffset),
    /// In a compressed cluster, so many bytes into it.
    Packed(CompressedRange, u64),
    /// Gone.
    Lost(LossReason),
}

/// A part of the disk with one source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    start: u64,
    end: u64,
    source: Source,
}

impl Run {
    /// The bytes of the disk from `start` to `end`.
    pub(super) fn new(start: u64, end: u64, source: Source) -> Run {
        Run { start, end, source }
    }

    fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Both as one where `next` goes on with what this is; else this one again.
    pub(super) fn joined(self, next: &Run) -> Result<Run, Run> {
        /// So much is given between two looks at the wish to stop.
        const LONGEST: u64 = 64 << 20;
        let goes_on = match (self.source, next.source) {
            (Source::File(here), Source::File(there)) => {
                here.plus_bytes(self.len()) == there && self.len() < LONGEST
            }
            (Source::Packed(..), _) => false,
            (here, there) => here == there,
        };
        if goes_on { Ok(Run { end: next.end, ..self }) } else { Err(self) }
    }
}

impl Salvager {
    /// Gives what is in a run.
    pub(super) fn emit(&mut self, run: Run, to: &mut dyn Rescue) -> Result<()> {
        to.reached(run.start)?;
        match run.source {
            Source::Zeros => Ok(()),
            Source::Lost(reason) => {
                to.lost(run.start, run.len(), reason);
                Ok(())
            }
            Source::Below => match &mut self.below {
                Below::Nothing => Ok(()),
                Below::Missing => {
                    to.lost(run.start, run.len(), LossReason::Backing);
                    Ok(())
                }
                Below::Disk(disk) => {
                    let end = run.end.min(disk.size());
                    let range = run.start..end;
                    if range.is_empty() { Ok(()) } else { disk.salvage(range, &mut InBacking(to)) }
                }
            },
            Source::File(host) => self.emit_file(run, host, to),
            Source::Packed(range, within) => self.emit_packed(run, range, within, to),
        }
    }

    fn emit_file(&mut self, run: Run, host: HostOffset, to: &mut dyn Rescue) -> Result<()> {
        let ends_early = self.ends_early(host, run.len())?;
        let data = self.data_file.as_deref().unwrap_or(&*self.storage);
        if !self.budget.allows(data, 0)? {
            to.lost(run.start, run.len(), LossReason::Overclaimed);
            return Ok(());
        }
        let range = host.get()..host.plus_bytes(run.len()).get();
        read_past_errors(data, range, |offset, found| {
            let at = run.start.saturating_add(offset.saturating_sub(host.get()));
            to.reached(at)?;
            match found {
                // Holes cost nothing.
                Found::Data(bytes) if !self.budget.allows(data, len_of(bytes))? => {
                    to.lost(at, len_of(bytes), LossReason::Overclaimed);
                }
                Found::Data(bytes) => to.data(at, bytes)?,
                Found::Unreadable(len) => to.lost(at, len, LossReason::Unreadable),
                Found::BeyondFile(_) if ends_early => {}
                Found::BeyondFile(len) => to.lost(at, len, LossReason::BeyondFile),
            }
            Ok(())
        })
    }

    /// Whether this run of the file has the file's end in its last cluster, and that was never
    /// wholly written.
    fn ends_early(&mut self, host: HostOffset, len: u64) -> Result<bool> {
        let geometry = self.header.geometry;
        let data = self.data_file.as_deref().unwrap_or(&*self.storage);
        let (file_len, end) = (data.len()?, host.plus_bytes(len).get());
        let last_end = file_len.next_multiple_of(geometry.cluster_size());
        let begins = geometry.host_offset(geometry.host_cluster(host)).get() < file_len;
        if end <= file_len || end > last_end || !begins {
            return Ok(false);
        }
        // Nothing counts the clusters of a data file.
        if self.data_file.is_none() && self.was_cut.is_none() {
            self.was_cut = Some(was_cut(&*self.storage, &self.header)?);
        }
        Ok(self.was_cut != Some(true))
    }

    fn emit_packed(
        &mut self,
        run: Run,
        range: CompressedRange,
        within: u64,
        to: &mut dyn Rescue,
    ) -> Result<()> {
        match self.unpack(range)? {
            Ok(cluster) => {
                let part = index(within)..index(within.saturating_add(run.len()));
                to.data(run.start, cluster.get(part).unwrap_or_default())
            }
            Err(reason) => {
                to.lost(run.start, run.len(), reason);
                Ok(())
            }
        }
    }

    /// The cluster that is packed in this range. What follows on its end does not matter, so
    /// it may be missing.
    fn unpack(&mut self, range: CompressedRange) -> Result<Result<Vec<u8>, LossReason>> {
        let storage = &*self.storage;
        if !self.budget.allows(storage, SMALLEST_PACKED)? {
            return Ok(Err(LossReason::Overclaimed));
        }
        let mut unpacker = self.codec.unpacker();
        unpacker.packed.clear();
        let mut missing = None;
        let end = range.offset.plus_bytes(range.len).get();
        read_past_errors(storage, range.offset.get()..end, |offset, found| {
            let so_far = index(offset.saturating_sub(range.offset.get()));
            match found {
                _ if missing.is_some() => {}
                Found::Data(data) => {
                    // What it was not shown is a hole.
                    unpacker.packed.resize(so_far, 0);
                    unpacker.packed.extend_from_slice(data);
                }
                Found::Unreadable(_) => missing = Some(LossReason::Unreadable),
                Found::BeyondFile(_) if so_far == 0 => missing = Some(LossReason::BeyondFile),
                Found::BeyondFile(_) => {}
            }
            Ok(())
        })?;
        let mut cluster = vec![0; self.header.geometry.cluster_len()];
        let unpacked = unpacker.unpack(&mut cluster);
        self.codec.keep_unpacker(unpacker);
        let reason = missing.unwrap_or(LossReason::Compressed);
        Ok(unpacked.map(|_| cluster).map_err(|_| reason))
    }
}

/// Whatever is lost was in a backing file.
struct InBacking<'a>(&'a mut dyn Rescue);

impl Rescue for InBacking<'_> {
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.data(offset, data)
    }

    fn lost(&mut self, offset: u64, len: u64, _: LossReason) {
        self.0.lost(offset, len, LossReason::Backing);
    }

    fn reached(&mut self, offset: u64) -> Result<()> {
        self.0.reached(offset)
    }
}
