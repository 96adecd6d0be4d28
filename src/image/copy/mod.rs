//! Writing what the guest sees of a disk as a new file, raw or qcow2: read, looked through for zeros
//! and packed by all cores, put in its place in the order of the disk, so that the same disk becomes
//! the same bytes every time.
//!
//! The file is one that nobody sees yet ([`Staging`]): nothing is synced here.

mod piece;
mod sink;
mod source;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::ops::ControlFlow;

use self::piece::{Desk, Recipe};
use self::sink::{Qcow2Sink, RawSink, Sink, StreamSink};
use self::source::{DeviceSource, Source, StreamSource};
use super::in_order::{Steps, in_order, workers};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{FileStorage, Staging};
use crate::qcow2::{Composer, CreateOptions, Preallocation};
use crate::raw::{self, RawAllocation};
use crate::task::Task;
use crate::units::{ByteSize, VirtualSize};

/// The memory for all pieces that are worked on, in bytes.
const BUDGET: usize = 36 << 20;

/// The file that is written.
#[derive(Debug, Clone)]
pub enum Target {
    /// An image of this kind. Its size is at least the source's.
    Qcow2(CreateOptions),
    /// A raw disk of this size in bytes, which is at least the source's.
    Raw {
        /// In bytes.
        size: u64,
        /// What of its room is taken from the host.
        allocation: RawAllocation,
    },
}

/// How clusters are packed, in the way that the image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packing {
    /// The level; that of QEMU by default.
    pub level: Option<u8>,
}

/// What lies below a new image.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// Its disk: what reads the same there is left out of the new image.
    pub disk: &'a dyn BlockDevice,
    /// Whether it is also what lies below the source, so that what the source leaves to it need not
    /// be read.
    pub is_below_source: bool,
}

impl std::fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = &self.is_below_source;
        f.debug_struct("Base").field("is_below_source", shared).finish_non_exhaustive()
    }
}

/// How a disk is copied. Name the fields that matter and take the others from
/// `CopyOptions::default()`.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions<'a> {
    /// What lies below the new image, where that is one with a backing file.
    pub base: Option<Base<'a>>,
    /// Whether clusters are packed.
    pub packing: Option<Packing>,
    /// So many bytes of zeros, one after the other, become a hole, and clusters of zeros are left
    /// out: a multiple of 512. With 0, nothing is looked through, and only what the source is known
    /// to have as zeros is left out.
    pub sparse_size: u64,
}

impl Default for CopyOptions<'_> {
    fn default() -> Self {
        CopyOptions { base: None, packing: None, sparse_size: 4096 }
    }
}

/// Whether a target and options go together: what [`copy`] would say, before there is a file.
///
/// # Errors
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) and [`BadRequest`](ErrorKind::BadRequest).
pub fn check(target: &Target, options: &CopyOptions<'_>) -> Result<()> {
    Recipe::of(target, options).map(drop)
}

/// Writes what the guest sees of `from` into `to`, an empty file. Does not sync.
///
/// # Errors
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for what does not go together,
/// [`BadSize`](ErrorKind::BadSize) for a target that is smaller than the source or cannot be so large,
/// and as [`qcow2::create`](crate::qcow2::create()); then nothing was written.
/// [`Cancelled`](ErrorKind::Cancelled), and what reading and writing say.
pub fn copy(
    from: &dyn BlockDevice,
    to: &dyn Storage,
    target: &Target,
    options: &CopyOptions<'_>,
    task: Task<'_>,
) -> Result<()> {
    let (size, room) = (from.size(), target.size());
    if size > room {
        let message = format!("{size} bytes do not fit into a disk of {room} bytes");
        return Err(Error::new(ErrorKind::BadSize, message));
    }
    let recipe = Recipe::of(target, options)?;
    log::info!("copying a disk of {size} bytes");
    // Above a base, what lies behind the source's end must read as zeros too.
    let end = if options.base.is_some() { room } else { size };
    let source = DeviceSource::new(from, end, &recipe);
    match target {
        Target::Qcow2(create) => {
            let mut sink = Qcow2Sink::new(Composer::begin(to, create.clone(), task)?);
            run(source, &mut sink, &recipe, task)?;
            sink.finish(create.virtual_size)
        }
        Target::Raw { size, allocation } => {
            raw::allocate(to, 0, *size, *allocation, task)?;
            run(source, &mut RawSink::new(to), &recipe, task)
        }
    }
}

/// How a raw disk is copied without being looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InKernel {
    /// The copy shares all blocks of the file.
    Reflink,
    /// The system copies what is no hole.
    Ranges,
}

/// Has the system copy a raw disk into `to`, which is empty. Returns whether it can; where it cannot,
/// what was copied is as in the source.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), and what the system says.
pub fn copy_in_kernel(
    from: &FileStorage,
    to: &mut Staging,
    how: InKernel,
    task: Task<'_>,
) -> Result<bool> {
    /// So many bytes are copied before wishes to stop are heard.
    const STEP: u64 = 64 << 20;
    let size = from.len()?;
    if how == InKernel::Reflink {
        return Ok(to.reflink(from)? && to.storage().len()? == size);
    }
    let to = to.storage();
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        task.step("copy", at, size)?;
        let run = from.run(at, size)?;
        if !run.is_hole {
            let copied = from.copy_range_to(to, at, STEP.min(run.end - at))?;
            if copied == 0 {
                return Ok(false);
            }
            at += copied;
        } else {
            at = run.end;
        }
    }
    task.step("copy", size, size)?;
    Ok(true)
}

/// Writes what `from` has until it ends, as [`copy`] does, and returns how much that was, in bytes.
/// The size of the target follows from that: the one that it has does not matter.
///
/// # Errors
/// As [`copy`]; [`BadSize`](ErrorKind::BadSize) for nothing at all, where an image is to be written,
/// and for more than it can map.
pub fn copy_stream(
    from: &mut (dyn Read + Send),
    to: &dyn Storage,
    target: &Target,
    options: &CopyOptions<'_>,
    task: Task<'_>,
) -> Result<u64> {
    if options.base.is_some() {
        let message =
            "how much comes is not known before: it cannot be compared with what is below";
        return Err(Error::new(ErrorKind::IncompatibleOptions, message));
    }
    let recipe = Recipe::of(target, options)?;
    let mut source = StreamSource::new(from, &recipe);
    match target {
        Target::Qcow2(create) => {
            let mut sink = Qcow2Sink::new(Composer::begin(to, create.clone(), task)?);
            run(&mut source, &mut sink, &recipe, task)?;
            sink.finish(VirtualSize::round_up(ByteSize::from_bytes(source.len()))?)?;
        }
        Target::Raw { allocation, .. } => {
            run(&mut source, &mut RawSink::new(to), &recipe, task)?;
            let len = source.len();
            match allocation {
                RawAllocation::Reserve => raw::allocate(to, 0, len, *allocation, task)?,
                // With `Zeros` nothing was left out.
                RawAllocation::Sparse | RawAllocation::Zeros => to.set_len(len)?,
            }
        }
    }
    Ok(source.len())
}

/// Writes what the guest sees of `from` to `to`, every byte of it.
///
/// # Errors
/// What reading says, [`Io`](ErrorKind::Io) where `to` fails, [`Cancelled`](ErrorKind::Cancelled).
pub fn copy_to_stream(
    from: &dyn BlockDevice,
    to: &mut (dyn Write + Send),
    task: Task<'_>,
) -> Result<()> {
    let recipe = Recipe::plain();
    let mut sink = StreamSink::new(to);
    let written = run(DeviceSource::new(from, from.size(), &recipe), &mut sink, &recipe, task);
    // Who is asked to stop while nobody takes what comes stops for that.
    let written = written.and_then(|()| sink.finish(from.size()));
    written.map_err(|error| task.check().err().unwrap_or(error))
}

impl Target {
    fn size(&self) -> u64 {
        match self {
            Target::Qcow2(options) => options.virtual_size.bytes(),
            Target::Raw { size, .. } => *size,
        }
    }

    /// Whether the file is written from end to end.
    fn is_full(&self) -> bool {
        match self {
            Target::Qcow2(options) => options.preallocation == Preallocation::Full,
            Target::Raw { allocation, .. } => *allocation == RawAllocation::Zeros,
        }
    }
}

/// Brings every piece from the source to the sink.
fn run<'a>(
    mut source: impl Source<'a> + Send,
    sink: &mut (impl Sink + Send),
    recipe: &Recipe<'a>,
    task: Task<'_>,
) -> Result<()> {
    let total = source.total();
    let device = source.device();
    let steps = Steps {
        next: |desk: &mut Desk| {
            task.check()?;
            source.next(desk)
        },
        prepare: |desk: &mut Desk, piece: &_| recipe.prepare(device, piece, desk),
        deliver: |desk: &mut Desk, piece: piece::Piece| {
            sink.deliver(desk, &piece)?;
            let done = piece.offset + piece.len as u64;
            task.step("copy", done, total.max(done))?;
            Ok(ControlFlow::Continue(()))
        },
    };
    in_order(workers(recipe.desk_bytes(), BUDGET), || recipe.desk(), steps)?;
    task.step("copy", total, total)
}
