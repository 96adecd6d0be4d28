//! Whether an image is as a repair left it, so that the repair can be taken back.

use sha2::{Digest, Sha256};

use super::undo::{Hash, Hashed, Replaced, SECTOR, UndoRecord};
use crate::block::is_zero;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::qcow2::geometry::MAX_CLUSTER_SIZE;
use crate::task::Task;

/// So often at most a sector is written on the way: the header's, when it is marked, and when its
/// new refcount table counts.
const MAX_BETWEEN: usize = 2;

impl UndoRecord {
    /// Whether there is nothing to be taken back.
    ///
    /// # Errors
    /// As [`undo`](UndoRecord::undo), before any change.
    pub(super) fn is_taken_back(&self, storage: &dyn Storage, task: Task<'_>) -> Result<bool> {
        self.require_sense()?;
        let len = storage.len()?;
        let (mut begun, mut undone) = (false, len == self.old_len);
        for change in &self.changed {
            task.check()?;
            let mut now = vec![0; change.new.len()];
            read_padded_at(storage, change.offset, &mut now)?;
            change.require_own(&now)?;
            begun |= change.has_begun(&now);
            undone &= now == change.old_padded();
        }
        if undone {
            return Ok(true);
        }
        // What is new was on the medium before anything referred to it. A file that is longer has
        // grown since, whatever its counts say.
        if len > self.new_len || len < self.old_len || begun && len < self.new_len {
            return Err(changed_since(len));
        }
        self.require_own_tail(storage, begun, task)?;
        for known in self.copied.iter().filter(|_| begun) {
            task.check()?;
            known.require_own(storage)?;
        }
        Ok(false)
    }

    /// What a repair leaves makes sense; what somebody else has written need not.
    pub(super) fn require_sense(&self) -> Result<()> {
        let (old_len, new_len) = (self.old_len, self.new_len);
        let sense = old_len <= new_len
            && (!self.changed.is_empty() || self.added.is_empty())
            && ascending(self.changed.iter().map(|change| (change.offset, change.end())))
            && ascending(self.added.iter().map(|added| (added.offset, added.end())))
            && self.changed.iter().all(|change| change.makes_sense(old_len, new_len))
            && self.added.iter().all(|added| added.offset >= old_len)
            && self.added.iter().chain(&self.copied).all(|known| known.makes_sense(new_len));
        let message = "the record of the repair contradicts itself";
        if sense { Ok(()) } else { Err(Error::new(ErrorKind::BadRequest, message)) }
    }

    /// What lies behind the old end is what the repair put there, or, before it had begun, nothing
    /// yet: who wrote there meanwhile would lose that.
    fn require_own_tail(&self, storage: &dyn Storage, begun: bool, task: Task<'_>) -> Result<()> {
        for added in &self.added {
            task.check()?;
            if begun || require_zeros(storage, added.offset, added.end(), task).is_err() {
                added.require_own(storage)?;
            }
        }
        // A change may reach behind the old end in the cluster that was cut there.
        let changed = self.changed.iter().map(|change| (change.offset, change.end()));
        let added = self.added.iter().map(|added| (added.offset, added.end()));
        let mut known: Vec<_> = changed.chain(added).collect();
        known.sort_unstable();
        let mut at = self.old_len;
        for (from, to) in known {
            require_zeros(storage, at, from, task)?;
            at = at.max(to);
        }
        require_zeros(storage, at, storage.len()?, task)
    }
}

impl Replaced {
    /// Where it ends, in bytes from the beginning of the file.
    fn end(&self) -> u64 {
        self.offset.saturating_add(len_of(&self.new))
    }

    fn makes_sense(&self, old_len: u64, new_len: u64) -> bool {
        // In a cluster that was cut, there may have been nothing yet.
        let old_end = self.offset.saturating_add(len_of(&self.old));
        (self.old.is_empty() || old_end <= old_len)
            && self.end() <= new_len
            && self.old.len() <= self.new.len()
            && self.between.len() <= MAX_BETWEEN
            && self.between.iter().all(|state| state.len() == self.new.len())
    }

    fn old_padded(&self) -> Vec<u8> {
        let mut old = self.old.clone();
        old.resize(self.new.len(), 0);
        old
    }

    /// Whether a sector is as it is in the end alone.
    fn has_begun(&self, now: &[u8]) -> bool {
        let old = self.old_padded();
        (0usize..).zip(now.chunks(SECTOR)).any(|(index, sector)| {
            let is = |state: &Vec<u8>| state.chunks(SECTOR).nth(index) == Some(sector);
            is(&self.new) && !is(&old) && !self.between.iter().any(is)
        })
    }

    /// Every sector must be as it was at some point of the repair.
    fn require_own(&self, now: &[u8]) -> Result<()> {
        let old = self.old_padded();
        let states = || [&old, &self.new].into_iter().chain(&self.between);
        for (index, sector) in (0usize..).zip(now.chunks(SECTOR)) {
            let known = states().any(|state| state.chunks(SECTOR).nth(index) == Some(sector));
            if !known {
                let within = u64::try_from(index.saturating_mul(SECTOR)).unwrap_or(u64::MAX);
                return Err(changed_since(self.offset.saturating_add(within)));
            }
        }
        Ok(())
    }
}

impl Hashed {
    /// Where it ends, in bytes from the beginning of the file.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    fn makes_sense(&self, new_len: u64) -> bool {
        self.len <= 2 * MAX_CLUSTER_SIZE && self.end() <= new_len
    }

    fn require_own(&self, storage: &dyn Storage) -> Result<()> {
        let mut now = vec![0; usize::try_from(self.len).unwrap_or_default()];
        read_padded_at(storage, self.offset, &mut now)?;
        let hash: Hash = Sha256::digest(&now).into();
        if hash == self.hash { Ok(()) } else { Err(changed_since(self.offset)) }
    }
}

/// Whether ranges follow one another.
fn ascending(ranges: impl Iterator<Item = (u64, u64)>) -> bool {
    let mut behind = 0;
    ranges.into_iter().all(|(from, to)| std::mem::replace(&mut behind, to) <= from)
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn require_zeros(storage: &dyn Storage, from: u64, to: u64, task: Task<'_>) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut at = from;
    while at < to {
        task.check()?;
        let run = storage.run(at, to)?;
        if run.is_hole {
            at = run.end;
            continue;
        }
        let len = run.end.saturating_sub(at).min(PIECE);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        read_padded_at(storage, at, &mut bytes)?;
        if !is_zero(&bytes) {
            return Err(changed_since(at));
        }
        at = at.saturating_add(len);
    }
    Ok(())
}

fn changed_since(offset: u64) -> Error {
    let message = "the image was written to since the repair, which cannot be taken back any more";
    Error::new(ErrorKind::Corrupt, message).at_offset(offset)
}
