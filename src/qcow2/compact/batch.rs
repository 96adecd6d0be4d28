//! What moves together, and the order in which it does.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Mover;
use crate::error::Result;
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::geometry::{ClusterCount, Geometry, HostCluster, HostOffset};
use crate::qcow2::lengths::index;
use crate::qcow2::release::give_back;
use crate::qcow2::runs;

/// A batch is carried out when it has so many changes, or so many bytes to copy.
const MAX_CHANGES: usize = 16 << 10;
const MAX_BYTES: u64 = 64 << 20;
/// The same where the file takes more room for what is copied, until that of what moved is given back:
/// the host may have little.
const MIN_BYTES: u64 = 2 << 20;
/// So many bytes are copied at once.
const PIECE: u64 = 1 << 20;

/// Bytes that are copied.
#[derive(Debug)]
struct Piece {
    from: HostOffset,
    to: HostOffset,
    len: u64,
}

/// How much is copied at once, so that the file takes little more room on the way.
#[derive(Debug)]
pub(super) struct Pace {
    /// Whether something was written where the file had a hole, since room was given back.
    filled: bool,
    /// So many bytes may be copied at once.
    max_bytes: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { filled: false, max_bytes: MIN_BYTES }
    }
}

/// What moves together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whole clusters, from and to.
    copies: Vec<(HostCluster, HostCluster)>,
    /// Bytes within clusters.
    pieces: Vec<Piece>,
    /// How many bytes those are.
    piece_bytes: u64,
    /// By how much counts go up before anything is switched.
    more: BTreeMap<HostCluster, u64>,
    /// What is written where, each in one sector, once everything new is on the medium.
    words: BTreeMap<u64, u64>,
    /// By how much counts go down when all that is on the medium.
    less: BTreeMap<HostCluster, u64>,
}

impl Batch {
    pub(super) fn copy(&mut self, from: HostCluster, to: HostCluster, count: u64) {
        self.copies.push((from, to));
        self.count(to, count);
    }

    /// Neighbours are copied at once, and what they have in common once.
    pub(super) fn copy_bytes(&mut self, from: HostOffset, to: HostOffset, len: u64) {
        let ahead = |last: &Piece| from.get().checked_sub(last.from.get());
        let goes_on = |last: &Piece| {
            let ahead = ahead(last).filter(|ahead| *ahead <= last.len && last.len < PIECE);
            ahead.filter(|ahead| last.to.plus_bytes(*ahead) == to)
        };
        if let Some(last) = self.pieces.last_mut()
            && let Some(ahead) = goes_on(last)
        {
            let longer = ahead.saturating_add(len).saturating_sub(last.len);
            last.len = last.len.saturating_add(longer);
            self.piece_bytes = self.piece_bytes.saturating_add(longer);
            return;
        }
        self.pieces.push(Piece { from, to, len });
        self.piece_bytes = self.piece_bytes.saturating_add(len);
    }

    /// A cluster is referred to so often more.
    pub(super) fn count(&mut self, cluster: HostCluster, times: u64) {
        let more = self.more.entry(cluster).or_default();
        *more = more.saturating_add(times);
    }

    /// How often more a cluster will be referred to.
    pub(super) fn counted(&self, cluster: HostCluster) -> u64 {
        self.more.get(&cluster).copied().unwrap_or_default()
    }

    /// Puts a word in the place of one that lies in one sector.
    pub(super) fn put(&mut self, at: HostOffset, word: u64) {
        self.words.insert(at.get(), word);
    }

    /// A cluster is referred to so often less.
    pub(super) fn give_up(&mut self, cluster: HostCluster, times: u64) {
        let less = self.less.entry(cluster).or_default();
        *less = less.saturating_add(times);
    }

    fn is_full(&self, geometry: Geometry, max_bytes: u64) -> bool {
        let copies = u64::try_from(self.copies.len()).unwrap_or(u64::MAX);
        self.words.len() >= MAX_CHANGES
            || copies.saturating_mul(geometry.cluster_size()).saturating_add(self.piece_bytes)
                >= max_bytes
    }

    fn is_empty(&self) -> bool {
        self.more.is_empty() && self.words.is_empty() && self.less.is_empty()
    }
}

impl Mover<'_> {
    /// Carries the batch out, if it has become large.
    pub(super) fn carry_out_if_full(&mut self) -> Result<()> {
        if self.batch.is_full(self.geometry, self.pace.max_bytes) {
            self.carry_out()
        } else {
            Ok(())
        }
    }

    /// Carries the batch out: everything that was planned is on the medium afterwards, but for what
    /// became free.
    pub(super) fn carry_out(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.task.check()?;
        self.begin_writing()?;
        self.recent = None;
        let mut counts = self.stored_counts();
        for (cluster, more) in &batch.more {
            counts.raise(*cluster, *more)?;
        }
        counts.flush()?;
        // Counts go first: refcount blocks move too, with what they count by now.
        self.copy_clusters(&batch.copies)?;
        for Piece { from, to, len } in &batch.pieces {
            self.copy_bytes(from.get(), to.get(), *len)?;
        }
        if !batch.words.is_empty() {
            self.storage.sync()?;
            put_words(self.storage, &batch.words)?;
            self.storage.sync()?;
        } else if !batch.more.is_empty() {
            self.storage.sync()?;
        }
        let (copies, words) = (batch.copies.len(), batch.words.len());
        log::debug!("copied {copies} clusters, switched {words} references");
        self.learn_moved_counts(&batch.words)?;
        self.lower(&batch.less)
    }

    fn copy_clusters(&mut self, copies: &[(HostCluster, HostCluster)]) -> Result<()> {
        let geometry = self.geometry;
        let most = PIECE.checked_div(geometry.cluster_size()).unwrap_or(1).max(1);
        let mut rest = copies;
        while let [(from, to), ..] = rest {
            let goes_on = |(n, copy): &(u64, &(HostCluster, HostCluster))| {
                *copy == &(*from + ClusterCount::new(*n), *to + ClusterCount::new(*n))
            };
            let len = (0..most).zip(rest).take_while(goes_on).count().max(1);
            let bytes = geometry.bytes_of(ClusterCount::new(u64::try_from(len).unwrap_or(1)));
            self.copy_run(
                geometry.host_offset(*from).get(),
                geometry.host_offset(*to).get(),
                bytes,
            )?;
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn copy_run(&mut self, from: u64, to: u64, len: u64) -> Result<()> {
        let is_hole = |at: u64| -> Result<bool> {
            let end = at.saturating_add(len);
            let run = self.storage.run(at, end)?;
            Ok(run.is_hole && run.end >= end)
        };
        match is_hole(from)? {
            // Room that was laid out and never written stays that.
            true if is_hole(to)? => Ok(()),
            true => self.storage.zero_range(to, len),
            false => self.copy_bytes(from, to, len),
        }
    }

    fn copy_bytes(&mut self, from: u64, to: u64, len: u64) -> Result<()> {
        self.task.check()?;
        self.pace.filled = self.pace.filled || has_hole(self.storage, to, to.saturating_add(len))?;
        let mut bytes = vec![0; index(len)];
        read_padded_at(self.storage, from, &mut bytes)?;
        self.storage.write_at(to, &bytes)
    }

    /// Lowers counts, and gives the room back of what nobody uses any more.
    fn lower(&mut self, less: &BTreeMap<HostCluster, u64>) -> Result<()> {
        let mut counts = self.stored_counts();
        let mut free: Vec<Range<HostCluster>> = Vec::new();
        for (cluster, less) in less {
            if counts.lower(*cluster, *less)? == 0 {
                runs::push(&mut free, *cluster..*cluster + ClusterCount::new(1));
            }
        }
        counts.flush()?;
        // The file takes no more room while it is compacted than before, but for what is in a batch.
        // Otherwise this is left to its end, when most of it is cut off.
        let filled = std::mem::take(&mut self.pace.filled);
        self.pace.max_bytes = if filled { MIN_BYTES } else { MAX_BYTES };
        if filled {
            free.into_iter().for_each(|run| self.give_back(run));
        }
        Ok(())
    }

    /// Gives the room of clusters back that nobody uses. Where the file system keeps it, that is no
    /// reason to fail: nothing is lost.
    pub(super) fn give_back(&self, run: Range<HostCluster>) {
        if let Err(error) = give_back(self.storage, self.geometry, run) {
            log::debug!("room is not given back: {error}");
        }
    }
}

fn has_hole(storage: &dyn Storage, mut at: u64, end: u64) -> Result<bool> {
    while at < end {
        let run = storage.run(at, end)?;
        if run.is_hole {
            return Ok(true);
        }
        at = run.end;
    }
    Ok(false)
}

/// Writes words, those side by side at once: whatever part of that arrives, each is old or new.
fn put_words(storage: &dyn Storage, words: &BTreeMap<u64, u64>) -> Result<()> {
    let mut words = words.iter().peekable();
    while let Some((at, word)) = words.next() {
        let (mut bytes, mut end) = (word.to_be_bytes().to_vec(), at.saturating_add(8));
        while let Some((_, word)) = words.next_if(|(next, _)| **next == end) {
            bytes.extend(word.to_be_bytes());
            end = end.saturating_add(8);
        }
        storage.write_at(*at, &bytes)?;
    }
    Ok(())
}
