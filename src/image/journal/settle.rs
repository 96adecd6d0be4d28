//! What a writer does about a journal that it finds: complete what it says, or refuse.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::change::{complete, interrupted, make_room, take_back};
use super::format::{Journal, Span, Unusable};
use super::place::{Beside, Place, beside, lies_there};
use crate::block::is_zero;
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at};
use crate::host::{Access, FileStorage, Occupant, resolve};
use crate::task::{Cancel, Silent, Task};

/// No medium tears a smaller piece of a write.
const SECTOR: u64 = 512;
/// The disk is read in pieces of so many bytes.
const PIECE: u64 = 1 << 20;

/// What became of an interrupted change that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Bytes of the disk before the change.
    pub old_size: u64,
    /// Whether the change was completed. Otherwise nothing of it was on the disk yet, there was no
    /// room for it, and it was taken back.
    pub completed: bool,
}

/// A journal that lies beside a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Where it lies.
    pub journal: PathBuf,
    /// What can be done about it.
    pub state: PendingState,
}

/// What can be done about a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingState {
    /// The next writer completes the change.
    Pending,
    /// It does not fit the disk, so nobody writes to the disk before it is taken away. This is why.
    Stale(String),
    /// It could not be read, or the disk could not, so nobody knows. This is why.
    Unknown(String),
}

/// Completes the change that was interrupted on a raw disk, if there was one. `disk` must be locked
/// for writing.
///
/// # Errors
/// [`JournalStale`](ErrorKind::JournalStale), with nothing written, where a journal is there and
/// the disk holds something else than the journal knows of; what the system says. The journal stays
/// then.
pub(crate) fn settle(disk: &FileStorage, task: Task<'_>) -> Result<Option<Settled>> {
    match Beside::of(disk)? {
        Some(place) => settle_at(disk, &place, task).map_err(|error| error.at_path(disk.path())),
        None => Ok(None),
    }
}

/// The same, wherever disk and journal are.
pub(super) fn settle_at(
    storage: &dyn Storage,
    place: &dyn Place,
    task: Task<'_>,
) -> Result<Option<Settled>> {
    let Some(bytes) = place.load()? else { return Ok(None) };
    log::info!("found the journal {}: a change was interrupted", place.name().display());
    let (journal, untouched) = believe(&bytes, storage, place, task)?;
    let settled = Settled { old_size: journal.old_len, completed: true };
    if let Err(error) = make_room(storage, &journal, task) {
        // Else nobody could write to the disk before there is room. What a guest may have written
        // behind the old end is not cut off.
        let behind = || {
            let end = storage.len()?;
            first_written(storage, journal.old_len..end, task)
        };
        if error.kind() == ErrorKind::NoSpace
            && untouched
            && behind().is_ok_and(|written| written.is_none())
            && take_back(storage, place, &journal).is_ok()
        {
            log::info!("took the interrupted change back: there is no room for it");
            return Ok(Some(Settled { completed: false, ..settled }));
        }
        return Err(interrupted(error, place));
    }
    complete(storage, place, &journal)?;
    log::info!("completed the interrupted change");
    Ok(Some(settled))
}

/// Looks for a journal beside the disk at `path`, and whether it fits. Nothing is changed or
/// locked: a writer may be at work.
///
/// # Errors
/// What the system says.
pub fn pending(path: &Path) -> Result<Option<Pending>> {
    let path = resolve(path)?;
    let journal = beside(&path);
    if !lies_there(&journal)? {
        return Ok(None);
    }
    let disk = FileStorage::open(&path, Access::Read)?;
    let Some(place) = Beside::of(&disk)? else { return Ok(None) };
    let cancel = Cancel::new();
    // The journal is told beside it.
    let why = |error: Error| match error.path() == Some(journal.as_path()) {
        true => error.without_path().to_string(),
        false => error.to_string(),
    };
    let fits = |bytes: &[u8]| believe(bytes, &disk, &place, Task::new(&Silent, &cancel)).map(drop);
    let state = match place.load().and_then(|bytes| bytes.map(|bytes| fits(&bytes)).transpose()) {
        Ok(Some(())) => PendingState::Pending,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::JournalStale => PendingState::Stale(why(error)),
        Err(error) => PendingState::Unknown(why(error)),
    };
    // Its writer may have come to the end meanwhile.
    if state != PendingState::Pending && !lies_there(&journal)? {
        return Ok(None);
    }
    Ok(Some(Pending { journal, state }))
}

/// Refuses a disk beside which a journal lies: it is not yet what it is going to be, and whoever
/// opens it to write to it changes it.
///
/// # Errors
/// [`Dirty`](ErrorKind::Dirty), and what the system says.
pub fn refuse_pending(path: &Path) -> Result<()> {
    let path = resolve(path)?;
    if !lies_there(&beside(&path))? {
        return Ok(());
    }
    let message =
        "a change of it was interrupted, and its journal lies beside it: open it to write first";
    Err(Error::new(ErrorKind::Dirty, message).at_path(&path))
}

/// Refuses to make a disk at `target`, where there is none, beside the journal of one that is gone:
/// it would be taken for the new one's.
///
/// # Errors
/// [`JournalStale`](ErrorKind::JournalStale), and what lstat(2) says.
pub fn refuse_orphan(target: &Path) -> Result<()> {
    let journal = beside(target);
    let gone = || Ok(Occupant::of(target)? == Occupant::Nobody);
    if !lies_there(&journal)? || !gone()? {
        return Ok(());
    }
    let message = format!("is the journal of a disk that is gone from {}", target.display());
    let refused = Error::new(ErrorKind::JournalStale, message).at_path(&journal);
    Err(refused.in_case(Case::OrphanedJournal))
}

/// The journal, if it is whole and its disk holds nothing but what it knows of; and whether that is
/// everything as it was before the change.
pub(super) fn believe<'a>(
    bytes: &'a [u8],
    storage: &dyn Storage,
    place: &dyn Place,
    task: Task<'_>,
) -> Result<(Journal<'a>, bool)> {
    let stale = |message: String| Error::new(ErrorKind::JournalStale, message);
    let journal = Journal::decode(bytes).map_err(|error| {
        let refused = stale(error.to_string()).at_path(place.name());
        if error == Unusable::Magic { refused.in_case(Case::NoJournal) } else { refused }
    })?;
    let len = storage.len()?;
    let (old, new) = (journal.old_len, journal.new_len);
    let name = place.name().display();
    if !(old..=new).contains(&len) {
        let message =
            format!("the disk has {len} bytes, and the journal {name} makes {new} bytes of {old}");
        return Err(stale(message));
    }
    let mut untouched = true;
    for span in journal.spans() {
        untouched &= compare(storage, span, task)?.map_err(|offset| {
            let message = format!(
                "the disk was used since the change that its journal {name} would complete: of the \
                 range of {} bytes from {} on, it holds neither the old bytes nor the new ones",
                span.len, span.offset
            );
            stale(message).at_offset(offset)
        })?;
    }
    Ok((journal, untouched))
}

/// Whether the range holds its old content everywhere, or where it holds neither that nor the new
/// one. Each sector, or what of it belongs to the range, has one or the other.
fn compare(storage: &dyn Storage, span: &Span<'_>, task: Task<'_>) -> Result<Result<bool, u64>> {
    if span.stays_zero() {
        // It has any length: the others are as long as what the journal holds of them.
        let written = first_written(storage, span.offset..span.end(), task)?;
        return Ok(written.map_or(Ok(true), Err));
    }
    let mut untouched = true;
    let mut buffer = Vec::new();
    let mut at = span.offset;
    while at < span.end() {
        let end = (at / PIECE).saturating_add(1).saturating_mul(PIECE).min(span.end());
        buffer.resize(usize::try_from(end - at).unwrap_or_default(), 0);
        read_padded_at(storage, at, &mut buffer)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let room = usize::try_from(SECTOR - at % SECTOR).unwrap_or_default();
            let (sector, behind) = rest.split_at(room.min(rest.len()));
            match (
                holds(sector, span.old, at - span.offset),
                holds(sector, span.new, at - span.offset),
            ) {
                (true, _) => {}
                (false, true) => untouched = false,
                (false, false) => return Ok(Err(at)),
            }
            at += u64::try_from(sector.len()).unwrap_or(u64::MAX);
            rest = behind;
        }
    }
    Ok(Ok(untouched))
}

/// The first sector of a range that does not hold zeros: holes, and what is behind the end, are not
/// read.
fn first_written(storage: &dyn Storage, range: Range<u64>, task: Task<'_>) -> Result<Option<u64>> {
    let end = range.end.min(storage.len()?);
    let (mut at, mut buffer) = (range.start, Vec::new());
    while at < end {
        task.check()?;
        let run = storage.run(at, end)?;
        let next = if run.is_hole { run.end } else { run.end.min(at.saturating_add(PIECE)) };
        if !run.is_hole {
            buffer.resize(usize::try_from(next - at).unwrap_or_default(), 0);
            read_padded_at(storage, at, &mut buffer)?;
            if let Some(byte) = buffer.iter().position(|&byte| byte != 0) {
                let found = at.saturating_add(u64::try_from(byte).unwrap_or(u64::MAX));
                return Ok(Some((found - found % SECTOR).max(range.start)));
            }
        }
        at = next;
    }
    Ok(None)
}

/// Whether the bytes are what `content` has at `skipped`.
fn holds(bytes: &[u8], content: Option<&[u8]>, skipped: u64) -> bool {
    let Some(content) = content else { return is_zero(bytes) };
    let rest = usize::try_from(skipped).ok().and_then(|skipped| content.get(skipped..));
    rest.is_some_and(|rest| rest.starts_with(bytes))
}
