//! Reading an image past its damage. Nothing of it is believed but the header: whatever leads
//! nowhere, or does not come back from the medium, costs the part of the disk that it stands for
//! and nothing else. Work is bounded by what the file holds, not by what it claims: holes and empty
//! L1 entries are skipped whole, and what is claimed again and again is given up.

mod budget;
mod cut;
mod runs;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::budget::Budget;
use self::runs::{Run, Source};
use self::table::TablePiece;
use super::compress::Codec;
use super::entry::{ClusterRef, L1Entry, L2Entry, Mapping, Subclusters};
use super::geometry::{ENTRY_SIZE, GuestCluster, GuestOffset, HostOffset};
use super::header::Header;
use super::lengths::index as index_of;
use super::table::{first_word, stored_entry};
use crate::block::salvage::{LossReason, Rescue, Salvage};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;

/// So many bytes of the L1 table are in memory at once.
const L1_PIECE: u64 = 64 << 10;

/// What is below an image.
pub enum Below {
    /// Nothing: what the image does not have reads as zeros.
    Nothing,
    /// Something that was not opened: what the image does not have is lost.
    Missing,
    /// This disk.
    Disk(Box<dyn Salvage>),
}

impl std::fmt::Debug for Below {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Below::Nothing => "Nothing",
            Below::Missing => "Missing",
            Below::Disk(_) => "Disk",
        })
    }
}

/// An image that is read past its damage.
pub struct Salvager {
    storage: Box<dyn Storage>,
    /// The external data file, where the image has one.
    data_file: Option<Box<dyn Storage>>,
    header: Header,
    below: Below,
    codec: Codec,
    budget: Budget,
    l1: Option<TablePiece>,
    /// The L2 table that was looked at last, and the L1 entry that led there.
    table: Option<(u64, Result<TablePiece, LossReason>)>,
    /// Whether the file was cut short, once that matters.
    was_cut: Option<bool>,
}

impl std::fmt::Debug for Salvager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Salvager").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Salvager {
    /// The image in `storage`, whose header was [read](Header::read_past_damage) before; its guest
    /// data is in `data_file` if it keeps them apart.
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for encrypted images,
    /// [`BadRequest`](ErrorKind::BadRequest) where a data file is missing, or given and not used.
    pub fn new(
        storage: Box<dyn Storage>,
        data_file: Option<Box<dyn Storage>>,
        header: Header,
        below: Below,
    ) -> Result<Salvager> {
        header.require_not_encrypted()?;
        if header.has_external_data() != data_file.is_some() {
            let message = "an external data file is needed, or not used";
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        let codec = Codec::new(header.compression, header.geometry.cluster_len());
        let budget = Budget::default();
        let (l1, table, was_cut) = (None, None, None);
        Ok(Salvager { storage, data_file, header, below, codec, budget, l1, table, was_cut })
    }
}

impl Salvage for Salvager {
    fn size(&self) -> u64 {
        self.header.virtual_size
    }

    fn salvage(&mut self, range: Range<u64>, to: &mut dyn Rescue) -> Result<()> {
        let geometry = self.header.geometry;
        let mut at = range.start;
        while at < range.end {
            to.reached(at)?;
            let index = geometry.l1_index(geometry.guest_cluster(GuestOffset::new(at)));
            let root = self.root(index)?;
            let next = match root {
                // Whatever is behind it is gone as well.
                Root::End(_) => range.end,
                _ => {
                    let next = geometry.first_cluster_of_table(index.saturating_add(1));
                    geometry.guest_offset(next).get().min(range.end)
                }
            };
            match root {
                Root::End(reason) | Root::Lost(reason) => {
                    to.lost(at, next.saturating_sub(at), reason);
                }
                Root::Empty => self.emit(Run::new(at, next, Source::Below), to)?,
                Root::Table(table) => self.table(index, table, at..next, to)?,
            }
            at = next;
        }
        Ok(())
    }
}

/// What an L1 entry says.
enum Root {
    /// Neither it nor any behind it is there.
    End(LossReason),
    /// It cannot be read, or makes no sense.
    Lost(LossReason),
    /// There is no table.
    Empty,
    /// The table is here.
    Table(ClusterRef),
}

impl Salvager {
    /// What the L1 entry at `index` says.
    fn root(&mut self, index: u64) -> Result<Root> {
        if index >= u64::from(self.header.l1.count) {
            return Ok(Root::End(LossReason::Malformed));
        }
        let from = index.saturating_mul(ENTRY_SIZE);
        let at = self.header.l1.offset.plus_bytes(from);
        if at.plus_bytes(ENTRY_SIZE).get() > self.storage.len()? {
            return Ok(Root::End(LossReason::BeyondFile));
        }
        let begins = from.saturating_sub(from % L1_PIECE);
        let piece = self.header.l1.offset.plus_bytes(begins);
        if self.l1.as_ref().is_none_or(|l1| l1.at() != piece) {
            let all = u64::from(self.header.l1.count).saturating_mul(ENTRY_SIZE);
            let len = all.saturating_sub(begins).min(L1_PIECE);
            self.l1 = Some(TablePiece::read(&*self.storage, piece, index_of(len))?);
        }
        let Some(l1) = &self.l1 else { return Ok(Root::Empty) };
        let word = match l1.entry(from % L1_PIECE, ENTRY_SIZE) {
            Ok(stored) => first_word(stored).unwrap_or_default(),
            Err(reason) => return Ok(Root::Lost(reason)),
        };
        Ok(match L1Entry::from_word(word).decode(self.header.geometry) {
            Ok(None) => Root::Empty,
            Ok(Some(table)) => Root::Table(table),
            Err(_) => Root::Lost(LossReason::Malformed),
        })
    }

    /// Gives what the L2 table of an L1 entry maps of the range.
    fn table(
        &mut self,
        index: u64,
        table: ClusterRef,
        range: Range<u64>,
        to: &mut dyn Rescue,
    ) -> Result<()> {
        let piece = match self.table.take() {
            Some((last, piece)) if last == index => piece,
            _ => self.read_table(table.offset)?,
        };
        let walked = match &piece {
            Ok(piece) if piece.is_hole() => {
                self.emit(Run::new(range.start, range.end, Source::Below), to)
            }
            Ok(piece) => self.walk(piece, range, to),
            Err(reason) => {
                to.lost(range.start, range.end.saturating_sub(range.start), *reason);
                Ok(())
            }
        };
        self.table = Some((index, piece));
        walked
    }

    fn read_table(&mut self, at: HostOffset) -> Result<Result<TablePiece, LossReason>> {
        if at.get() >= self.storage.len()? {
            return Ok(Err(LossReason::BeyondFile));
        }
        if !self.budget.allows_table(at) {
            return Ok(Err(LossReason::Overclaimed));
        }
        let piece = TablePiece::read(&*self.storage, at, self.header.geometry.cluster_len())?;
        if !piece.is_hole() {
            self.budget.walked(at);
        }
        Ok(Ok(piece))
    }

    /// Gives what the entries of an L2 table map of the range, neighbours of a kind at once.
    fn walk(&mut self, table: &TablePiece, range: Range<u64>, to: &mut dyn Rescue) -> Result<()> {
        let geometry = self.header.geometry;
        let entry_size = geometry.l2_entry_size();
        let mut held: Option<Run> = None;
        let mut at = range.start;
        while at < range.end {
            let cluster = geometry.guest_cluster(GuestOffset::new(at));
            let next = geometry.guest_offset(next_of(cluster)).get().min(range.end);
            let from = geometry.l2_index(cluster).saturating_mul(entry_size);
            let entry = table.entry(from, entry_size).map(stored_entry);
            let mapping = entry.and_then(|entry| self.mapping(entry));
            for run in self.runs_of(mapping, at..next) {
                held = match held.take().map(|held| held.joined(&run)) {
                    None => Some(run),
                    Some(Ok(joined)) => Some(joined),
                    Some(Err(held)) => {
                        self.emit(held, to)?;
                        Some(run)
                    }
                };
            }
            at = next;
        }
        held.map_or(Ok(()), |held| self.emit(held, to))
    }

    fn mapping(&self, entry: L2Entry) -> Result<Mapping, LossReason> {
        if entry.is_empty() {
            return Ok(Mapping::Unallocated);
        }
        match self.header.mapping(entry) {
            Ok(Mapping::Compressed(_)) if self.data_file.is_some() => Err(LossReason::Malformed),
            Ok(mapping) => Ok(mapping),
            Err(_) => Err(LossReason::Malformed),
        }
    }

    /// The runs of a part of a cluster that is mapped like this.
    fn runs_of(&self, mapping: Result<Mapping, LossReason>, part: Range<u64>) -> Vec<Run> {
        let within = self.header.geometry.within_cluster(GuestOffset::new(part.start));
        let source = match mapping {
            Err(reason) => Source::Lost(reason),
            Ok(Mapping::Unallocated) => Source::Below,
            Ok(Mapping::Zero(_)) => Source::Zeros,
            Ok(Mapping::Data(host)) => Source::File(host.offset.plus_bytes(within)),
            Ok(Mapping::Compressed(range)) => Source::Packed(range, within),
            Ok(Mapping::Mixed(host, states)) => return self.subcluster_runs(host, states, part),
        };
        vec![Run::new(part.start, part.end, source)]
    }

    fn subcluster_runs(
        &self,
        host: Option<ClusterRef>,
        states: Subclusters,
        part: Range<u64>,
    ) -> Vec<Run> {
        let geometry = self.header.geometry;
        let (mut runs, mut at) = (Vec::new(), part.start);
        while at < part.end {
            let within = geometry.within_cluster(GuestOffset::new(at));
            let subcluster = geometry.subcluster(within);
            let begins = geometry.subcluster_start(within);
            let rest = geometry.subcluster_size().saturating_sub(within.saturating_sub(begins));
            let next = at.saturating_add(rest.max(1)).min(part.end);
            let source = match host.filter(|_| states.has_data(subcluster)) {
                Some(host) => Source::File(host.offset.plus_bytes(within)),
                None if states.is_zero(subcluster) => Source::Zeros,
                None => Source::Below,
            };
            runs.push(Run::new(at, next, source));
            at = next;
        }
        runs
    }
}

fn next_of(cluster: GuestCluster) -> GuestCluster {
    GuestCluster::new(cluster.get().saturating_add(1))
}
