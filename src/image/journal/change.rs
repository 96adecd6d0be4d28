//! Changing a raw disk by a journal: what is there is read, the journal is published, the file gets
//! its new length, and the stages are written one by one. This file alone knows the order.

use super::format::{Journal, MAX_LEN, Span};
use super::place::Place;
use crate::block::{Patch, PatchContent, is_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Allocation, Storage, clear, read_exact_at};
use crate::raw::{RawAllocation, allocate};
use crate::task::{Cancel, Silent, Task};

/// What is there is looked at, and remembered, in pieces of so many bytes: most of it is zeros.
const PIECE: u64 = 64 << 10;

/// The file's length before a change and afterwards, in bytes, and what is allocated for the
/// difference.
#[derive(Debug, Clone, Copy)]
pub(in crate::image) struct Lens {
    pub(in crate::image) old: u64,
    pub(in crate::image) new: u64,
    pub(in crate::image) allocation: RawAllocation,
}

/// Gives the file its new length and writes `stages` to it, so that whatever happens, the disk is
/// the old one, the new one, or can be made the new one by [`settle`](super::settle()). The patches
/// do not meet and lie on the new disk, which is not smaller.
///
/// # Errors
/// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for a change that is too large;
/// [`Cancelled`](ErrorKind::Cancelled); what the system says. Unless it is
/// [`changed`](Error::changed), disk and folder are as they were; else the journal lies there, and
/// the next writer completes the change.
pub(in crate::image) fn change(
    storage: &dyn Storage,
    place: &dyn Place,
    Lens { old: old_len, new: new_len, allocation }: Lens,
    stages: &[Vec<Patch<'_>>],
    task: Task<'_>,
) -> Result<()> {
    let len = storage.len()?;
    if len != old_len {
        let message = format!("the file has {len} bytes, and had {old_len} when it was opened");
        return Err(Error::new(ErrorKind::Io, message));
    }
    let pieces: Vec<Vec<_>> = stages.iter().map(|stage| in_pieces(stage, old_len)).collect();
    let old = Old::read(storage, &pieces, old_len, task)?;
    let stages = old.stages(&pieces);
    let journal = Journal { old_len, new_len, allocation, stages };
    if !journal.fits() {
        return Err(too_large());
    }
    log::info!(
        "plan: {} -> {} bytes, and {} ranges change in {} stages, by a journal",
        journal.old_len,
        journal.new_len,
        journal.spans().count(),
        journal.stages.len()
    );
    task.check()?;
    if let Err(error) = place.publish(&journal) {
        return Err(match error.changed() {
            false => error,
            true => taken_back(error, place.remove(), place),
        });
    }
    if let Err(error) = make_room(storage, &journal, task) {
        return Err(taken_back(error, take_back(storage, place, &journal), place));
    }
    complete(storage, place, &journal)
}

/// The file's new length, and room for everything that will be written, so that it does not run out
/// half-way. Nothing of what the guest sees inside its old disk is changed by it.
pub(super) fn make_room(
    storage: &dyn Storage,
    journal: &Journal<'_>,
    task: Task<'_>,
) -> Result<()> {
    let present = storage.len()?;
    if let Some(added) = journal.new_len.checked_sub(present).filter(|&added| added > 0) {
        allocate(storage, present, added, journal.allocation, task)?;
    }
    for span in journal.spans().filter(|span| span.new.is_some()) {
        match storage.allocate(span.offset, span.len, Allocation::Reserve) {
            // Then it shows when it is written.
            Err(error) if error.kind() == ErrorKind::UnsupportedFeature => break,
            reserved => reserved?,
        }
    }
    storage.sync()
}

/// Ends a change of which nothing but the length was made: the disk is as before it.
pub(super) fn take_back(
    storage: &dyn Storage,
    place: &dyn Place,
    journal: &Journal<'_>,
) -> Result<()> {
    storage.set_len(journal.old_len)?;
    // What is left of the change must not come back once nobody knows how to end it.
    storage.sync()?;
    place.remove()
}

/// Writes the stages to a file that has its new length, and takes the journal away. It is not
/// stopped on request: little is left to be done.
///
/// # Errors
/// What the system says, [`changed`](Error::changed).
pub(super) fn complete(
    storage: &dyn Storage,
    place: &dyn Place,
    journal: &Journal<'_>,
) -> Result<()> {
    let written = || {
        for (number, stage) in (1..).zip(&journal.stages) {
            write(storage, stage)?;
            log::debug!("stage {number} of {} is on the medium", journal.stages.len());
        }
        place.remove()
    };
    written().map_err(|error| interrupted(error, place))
}

/// Returns once the stage is on the medium.
fn write(storage: &dyn Storage, stage: &[Span<'_>]) -> Result<()> {
    let cancel = Cancel::new();
    for span in stage.iter().filter(|span| !span.stays_zero()) {
        match span.new {
            Some(bytes) => storage.write_at(span.offset, bytes)?,
            None => clear(storage, span.offset, span.len, Task::new(&Silent, &cancel))?,
        }
    }
    match stage.iter().all(Span::stays_zero) {
        true => Ok(()),
        false => storage.sync(),
    }
}

/// The error for a change that the next writer completes.
pub(super) fn interrupted(error: Error, place: &dyn Place) -> Error {
    let message = format!(
        "the change was interrupted; whoever opens the disk to write to it next completes it, from \
         {}",
        place.name().display()
    );
    Error::new(error.kind(), message).with_source(error).after_changes()
}

/// The error for a change that `error` made end before it began.
fn taken_back(error: Error, ended: Result<()>, place: &dyn Place) -> Error {
    match ended {
        Err(_) => interrupted(error, place),
        // It may say that something was changed, which is not so any more.
        Ok(()) if error.changed() => {
            Error::new(error.kind(), "nothing was changed").with_source(error)
        }
        Ok(()) => error,
    }
}

fn too_large() -> Error {
    let message = format!(
        "so much of the guest's data changes that its journal would be larger than {MAX_LEN} bytes"
    );
    Error::new(ErrorKind::UnsupportedFeature, message)
}

/// The patches in pieces that end at multiples of [`PIECE`], and where the disk ends. Behind that,
/// everything is zeros, and nothing has to be looked at.
fn in_pieces<'a>(stage: &[Patch<'a>], old_len: u64) -> Vec<Patch<'a>> {
    let mut pieces = Vec::new();
    for patch in stage {
        let mut at = patch.offset;
        while at < patch.end() {
            let next = (at / PIECE).saturating_add(1).saturating_mul(PIECE).min(old_len);
            let end = if at < old_len { next.min(patch.end()) } else { patch.end() };
            pieces.push(part(patch, at, end));
            at = end;
        }
    }
    pieces
}

/// What of the patch lies between two offsets inside of it.
fn part<'a>(patch: &Patch<'a>, start: u64, end: u64) -> Patch<'a> {
    let content = match patch.content {
        PatchContent::Zeros(_) => PatchContent::Zeros(end - start),
        PatchContent::Bytes(bytes) => {
            let at = |offset: u64| usize::try_from(offset - patch.offset).unwrap_or(usize::MAX);
            PatchContent::Bytes(bytes.get(at(start)..at(end)).unwrap_or_default())
        }
    };
    Patch { offset: start, content }
}

/// What the pieces of each stage hold before the change; nothing for zeros.
struct Old(Vec<Vec<Vec<u8>>>);

impl Old {
    fn read(
        storage: &dyn Storage,
        stages: &[Vec<Patch<'_>>],
        old_len: u64,
        task: Task<'_>,
    ) -> Result<Old> {
        let mut held = 0;
        let mut read = |piece: &Patch<'_>| {
            task.check()?;
            if piece.offset >= old_len {
                return Ok(Vec::new());
            }
            let mut bytes = vec![0; usize::try_from(piece.len()).unwrap_or_default()];
            read_exact_at(storage, piece.offset, &mut bytes)?;
            if is_zero(&bytes) {
                return Ok(Vec::new());
            }
            held += piece.len();
            if held <= MAX_LEN { Ok(bytes) } else { Err(too_large()) }
        };
        let mut read_stage =
            |stage: &Vec<Patch<'_>>| stage.iter().map(&mut read).collect::<Result<_>>();
        Ok(Old(stages.iter().map(&mut read_stage).collect::<Result<_>>()?))
    }

    fn stages<'a>(&'a self, stages: &[Vec<Patch<'a>>]) -> Vec<Vec<Span<'a>>> {
        stages.iter().zip(&self.0).map(|(stage, old)| spans(stage, old)).collect()
    }
}

/// The spans of a stage; those that follow each other and stay zeros are one.
fn spans<'a>(stage: &[Patch<'a>], old: &'a [Vec<u8>]) -> Vec<Span<'a>> {
    let mut spans: Vec<Span<'a>> = Vec::new();
    for (piece, old) in stage.iter().zip(old) {
        let new = match piece.content {
            PatchContent::Bytes(bytes) => Some(bytes).filter(|bytes| !is_zero(bytes)),
            PatchContent::Zeros(_) => None,
        };
        let old = Some(old.as_slice()).filter(|old| !old.is_empty());
        let span = Span { offset: piece.offset, len: piece.len(), old, new };
        let joins =
            |last: &Span<'_>| last.end() == span.offset && last.stays_zero() && span.stays_zero();
        match spans.last_mut().filter(|last| joins(last)) {
            Some(last) => last.len = last.len.saturating_add(span.len),
            None => spans.push(span),
        }
    }
    spans
}
