//! Committing: what an image holds goes into one that lies below it.
//!
//! Until everything is on the medium of the lower image, no byte of the upper one changes: whatever
//! is written below lies where the upper one, or one between, has something of its own, so that the
//! upper disk shows the same at every point. Only then is the upper image emptied, by one write.
//! What an earlier commit that was interrupted left leaked is freed on the way, and the bitmaps of the
//! lower image have what is written as dirty before it is.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod subject_tests;

use std::ops::Range;

use super::opened::{Disk, Image};
use crate::block::{BlockDevice, Layers, Shown, is_zero};
use crate::error::Result;
use crate::qcow2::{Announced, BackingName, DirtyRanges, Emptied};
use crate::task::Task;
use crate::units::{ByteSize, VirtualSize};

/// So much is read at once, in bytes.
const PIECE: u64 = 2 << 20;
/// Bytes that are looked at for zeros together where the lower disk has no clusters.
const BLOCK: u64 = 64 << 10;

/// An image, and what it is committed into: each opened alone, without what is below it, but for the
/// last.
#[derive(Debug)]
pub struct Commit {
    /// The uppermost.
    pub top: Image,
    /// Those between, nearest to the uppermost first. They are read alone.
    pub between: Vec<Image>,
    /// The one that is written, with all that is below it.
    pub base: Image,
}

/// What becomes of the uppermost image, once the lower one has what it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then<'a> {
    /// It stays as it is.
    Keep,
    /// It is emptied. With images between, it lies above the lower one from then on, by this name:
    /// that has what they show, too.
    Empty(Option<&'a BackingName>),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Committed {
    /// Bytes of data that were written to the lower image.
    pub data_bytes: u64,
    /// Bytes that were made zeros in it.
    pub zero_bytes: u64,
    /// Its size before, in bytes.
    pub old_base_size: u64,
    /// Its size now, in bytes.
    pub base_size: u64,
    /// Bytes of clusters that an interrupted change had left leaked in either image, and that were
    /// freed first.
    pub leaked_bytes: u64,
    /// What became of the lower image's bitmaps.
    pub bitmaps: Announced,
    /// Of the uppermost image.
    pub emptied: Emptied,
    /// Whether the uppermost image lies above another one now.
    pub moved: bool,
}

impl Committed {
    /// Whether anything was written.
    pub fn changed(&self) -> bool {
        let below = self.data_bytes > 0 || self.zero_bytes > 0;
        let emptied = self.emptied.freed_bytes > 0 || self.emptied.rebuilt;
        let prepared = self.leaked_bytes > 0 || self.bitmaps.changed;
        prepared || below || self.base_size != self.old_base_size || emptied || self.moved
    }
}

impl Commit {
    /// Writes what the upper images hold into the lower one, which is made larger first where it is
    /// smaller than the uppermost; then, when everything is on the medium, `then`. Returns the
    /// uppermost, still locked.
    ///
    /// # Errors
    /// Before anything is changed, as [`Qcow2::require_emptiable`](crate::qcow2::Qcow2::require_emptiable); as [`Image::resize`] and
    /// [`BlockDevice::write_at`] of the lower image, of reading the others, and of emptying;
    /// [`Cancelled`](crate::ErrorKind::Cancelled) between two pieces. Whatever it is, and where the power
    /// goes meanwhile, the uppermost disk shows what it showed before; the lower one may show a part
    /// of it, which the error says ([`changed`](crate::Error::changed)).
    pub fn run(self, then: Then<'_>, task: Task<'_>) -> Result<(Image, Committed)> {
        let Commit { mut top, between, base } = self;
        if let Then::Empty(backing) = then {
            top.require_emptiable(backing, task.quiet())?;
        }
        let size = base.size();
        let mut done = Committed { old_base_size: size, base_size: size, ..Committed::default() };
        let written = write_base(&top, &between, base, &mut done, task)
            .and_then(|()| empty(&mut top, then, &mut done, task));
        written.map_err(|error| error.after_changes_if(done.changed()))?;
        Ok((top, done))
    }
}

/// Returns when everything is on the lower image's medium.
fn write_base(
    top: &Image,
    between: &[Image],
    mut base: Image,
    done: &mut Committed,
    task: Task<'_>,
) -> Result<()> {
    if top.size() > base.size() {
        let size = VirtualSize::round_up(ByteSize::from_bytes(top.size()))?;
        base.resize(size, task.quiet())?;
    }
    done.base_size = base.size();
    done.leaked_bytes = base.free_leaks(task)?;
    let own = Own { layers: layers(top, between), size: top.size() };
    if let Disk::Qcow2(image) = &mut base.disk {
        let announced = image.announce_writes(&own, task);
        done.bitmaps = base.of_file(announced)?;
    }
    copy_down(&own, &base, done, task)?;
    let (data, zeros) = (done.data_bytes, done.zero_bytes);
    log::info!("wrote into {}: {data} bytes of data, {zeros} of zeros", base.path().display());
    base.close()
}

/// Above the lower image, the uppermost shows the same as above those between; and empty, the same as
/// full.
fn empty(top: &mut Image, then: Then<'_>, done: &mut Committed, task: Task<'_>) -> Result<()> {
    let Then::Empty(backing) = then else { return Ok(()) };
    done.leaked_bytes += top.free_leaks(task)?;
    if let Some(backing) = backing {
        top.rename_backing(Some(backing))?;
        done.moved = true;
    }
    done.emptied = top.make_empty(task)?;
    Ok(())
}

impl Image {
    /// Frees leaked clusters: see [`Qcow2::free_leaks`](crate::qcow2::Qcow2::free_leaks). A raw disk
    /// has none.
    ///
    /// # Errors
    /// As there.
    pub fn free_leaks(&mut self, task: Task<'_>) -> Result<u64> {
        let freed = match &mut self.disk {
            Disk::Qcow2(image) => image.free_leaks(task),
            Disk::Raw(_) => Ok(0),
        };
        self.of_file(freed)
    }

    /// Drops everything that the image has of its own, at once: see [`Qcow2::make_empty`](crate::qcow2::Qcow2::make_empty).
    ///
    /// # Errors
    /// [`UnsupportedFeature`](crate::ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn make_empty(&mut self, task: Task<'_>) -> Result<Emptied> {
        self.with_qcow2(|image| image.make_empty(task))
    }

    /// Refuses what [`make_empty`](Self::make_empty) would refuse, a damaged image, and another
    /// backing file whose name has no room: see [`Qcow2::require_emptiable`](crate::qcow2::Qcow2::require_emptiable).
    ///
    /// # Errors
    /// As there, and as [`make_empty`](Self::make_empty).
    fn require_emptiable(&mut self, backing: Option<&BackingName>, task: Task<'_>) -> Result<()> {
        self.with_qcow2(|image| image.require_emptiable(backing, task))
    }
}

fn layers<'a>(top: &'a Image, between: &'a [Image]) -> Layers<'a> {
    let uppermost: &dyn BlockDevice = top;
    let below = between.iter().map(|image| image as &dyn BlockDevice);
    Layers::new([uppermost].into_iter().chain(below).collect())
}

/// What the upper images have of their own, as far as the uppermost goes.
#[derive(Debug)]
struct Own<'a> {
    layers: Layers<'a>,
    size: u64,
}

impl DirtyRanges for Own<'_> {
    fn each(&self, range: Range<u64>, visit: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let (mut at, end) = (range.start, range.end.min(self.size));
        while at < end {
            let (shown, run_end) = self.layers.run(at, end)?;
            if shown != Shown::Nothing {
                visit(at..run_end);
            }
            at = run_end;
        }
        Ok(())
    }
}

/// Writes what the layers show of their own.
fn copy_down(own: &Own<'_>, base: &Image, done: &mut Committed, task: Task<'_>) -> Result<()> {
    let Own { layers, size } = own;
    let (mut at, size) = (0, *size);
    let mut buffer = Vec::new();
    while at < size {
        task.step("commit", at, size)?;
        let (shown, end) = layers.run(at, size)?;
        match shown {
            Shown::Nothing => at = end,
            Shown::Zero => {
                write_zeros(base, at..end, done)?;
                at = end;
            }
            Shown::Data(layer) => {
                // Pieces end where clusters do.
                let end = end.min((at / PIECE + 1) * PIECE);
                buffer.resize((end - at) as usize, 0);
                layers.read_at(layer, at, &mut buffer)?;
                write_data(base, at, &buffer, done)?;
                at = end;
            }
        }
    }
    task.step("commit", size, size)
}

/// Writes data, and what of it is zeros as such.
fn write_data(base: &Image, at: u64, data: &[u8], done: &mut Committed) -> Result<()> {
    let unit = base.cluster_size().unwrap_or(BLOCK);
    let first = (unit - at % unit).min(data.len() as u64) as usize;
    let (head, rest) = data.split_at(first);
    let units: Vec<_> = std::iter::once(head).chain(rest.chunks(unit as usize)).collect();
    let mut from = 0;
    for run in units.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().map(|unit| unit.len()).sum();
        let start = at + from as u64;
        if run.first().is_some_and(|unit| is_zero(unit)) {
            write_zeros(base, start..start + len as u64, done)?;
        } else {
            base.write_at(start, &data[from..from + len])?;
            done.data_bytes += len as u64;
        }
        from += len;
    }
    Ok(())
}

/// Makes the range read as zeros where it does not by itself.
fn write_zeros(base: &Image, range: Range<u64>, done: &mut Committed) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let content = base.content(at, range.end)?;
        if !content.is_zero {
            base.write_zeroes(at, content.end - at)?;
            done.zero_bytes += content.end - at;
        }
        at = content.end;
    }
    Ok(())
}
