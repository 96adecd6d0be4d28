//! What is done to a piece before it is written: read, looked through for zeros, compared with what
//! lies below, packed.

use std::ops::Range;

use super::super::compare::read_padded;
use super::{Base, CopyOptions, Target};
use crate::block::{BlockDevice, is_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::{CompressionType, Packer, Version};

/// Bytes of a piece: as many, or a cluster.
const PIECE: usize = 1 << 20;
/// Zeros are looked for in blocks of this size, where a hole has no smaller parts.
const BLOCK: usize = 4096;
/// The unit of the smallest hole that can be asked for.
const SECTOR: usize = 512;

/// A part of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: usize,
}

/// What a guest cluster becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing: what is below shows through, and is the same.
    Below,
    /// Zeros, which are not what is below.
    Zero,
    /// Its bytes.
    Data,
    /// What it was packed to, in the desk's `packed`.
    Packed(Range<usize>),
}

/// What a worker has for itself.
pub(super) struct Desk {
    /// The bytes of the piece, continued with zeros to whole clusters.
    pub(super) data: Vec<u8>,
    /// Those that must be written, in order: all others are zeros.
    pub(super) runs: Vec<Range<usize>>,
    /// What the clusters of an image become.
    pub(super) states: Vec<State>,
    pub(super) packed: Vec<u8>,
    below: Vec<u8>,
    packer: Option<Packer>,
}

/// How pieces are worked on.
pub(super) struct Recipe<'a> {
    pub(super) base: Option<Base<'a>>,
    pub(super) piece_len: usize,
    /// Bytes a cluster of an image.
    cluster_len: Option<usize>,
    packing: Option<(CompressionType, Option<u8>)>,
    /// Whether a cluster can be said to be zeros above a base.
    can_say_zero: bool,
    zeros: Zeros,
}

/// What becomes of zeros that are data of the source.
#[derive(Debug, Clone, Copy)]
enum Zeros {
    /// They are written, and so are those that are none.
    Full,
    /// They are written.
    Written,
    /// So many of them become a hole.
    Holes(usize),
}

impl<'a> Recipe<'a> {
    /// How pieces are made for `target`.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) and
    /// [`BadRequest`](ErrorKind::BadRequest).
    pub(super) fn of(target: &Target, options: &CopyOptions<'a>) -> Result<Recipe<'a>> {
        let refuse = |message: &str| Err(Error::new(ErrorKind::IncompatibleOptions, message));
        let mut recipe = Recipe { base: options.base, ..Recipe::plain() };
        match target {
            Target::Raw { .. } if options.packing.is_some() => {
                return refuse("a raw disk cannot have compressed clusters");
            }
            Target::Raw { .. } if options.base.is_some() => {
                return refuse("a raw disk cannot have a backing file");
            }
            Target::Raw { .. } => {}
            Target::Qcow2(create) => {
                if options.packing.is_some() && create.preallocation.maps_data() {
                    return refuse("compressed clusters cannot be preallocated");
                }
                if options.base.is_some() != create.backing.is_some() {
                    return refuse(
                        "what lies below the new image and its backing file go together",
                    );
                }
                let cluster = create.geometry.cluster_len();
                recipe.cluster_len = Some(cluster);
                recipe.piece_len = PIECE.max(cluster);
                recipe.can_say_zero = create.version == Version::V3;
                recipe.packing = options.packing.map(|packing| (create.compression, packing.level));
            }
        }
        recipe.zeros = match options.sparse_size {
            _ if target.is_full() => Zeros::Full,
            0 => Zeros::Written,
            size => Zeros::Holes(hole_of(size)?),
        };
        Ok(recipe)
    }

    /// Every byte as it is, from a disk to a stream.
    pub(super) fn plain() -> Recipe<'a> {
        Recipe {
            base: None,
            piece_len: PIECE,
            cluster_len: None,
            packing: None,
            can_say_zero: true,
            zeros: Zeros::Written,
        }
    }

    /// The memory that a worker takes, in bytes.
    pub(super) fn desk_bytes(&self) -> usize {
        let buffers = [true, self.base.is_some(), self.packing.is_some()];
        self.piece_len * buffers.iter().filter(|needed| **needed).count()
    }

    pub(super) fn desk(&self) -> Desk {
        let cluster_len = self.cluster_len.unwrap_or_default();
        let packer = self.packing.map(|(kind, level)| Packer::new(kind, level, cluster_len));
        Desk {
            data: Vec::new(),
            runs: Vec::new(),
            states: Vec::new(),
            packed: Vec::new(),
            below: Vec::new(),
            packer,
        }
    }

    /// Makes a piece ready to be written; without a `device` it is on the desk already.
    pub(super) fn prepare(
        &self,
        device: Option<&dyn BlockDevice>,
        piece: &Piece,
        desk: &mut Desk,
    ) -> Result<()> {
        let len = piece.len.next_multiple_of(self.cluster_len.unwrap_or(1));
        desk.data.resize(len, 0);
        desk.data[piece.len..].fill(0);
        desk.runs.clear();
        match device {
            Some(device) => read(device, piece, desk)?,
            None => desk.runs.push(0..piece.len),
        }
        match self.zeros {
            Zeros::Full => desk.runs = vec![0..piece.len],
            Zeros::Written => {}
            Zeros::Holes(hole) => {
                let runs = std::mem::take(&mut desk.runs);
                let block = if hole.is_multiple_of(BLOCK) { BLOCK } else { SECTOR };
                for run in runs {
                    split_at_zeros(&desk.data, run, block, hole, &mut desk.runs);
                }
            }
        }
        match self.cluster_len {
            Some(cluster) => self.judge(cluster, piece, desk),
            None => Ok(()),
        }
    }

    /// Decides what each cluster becomes.
    fn judge(&self, cluster: usize, piece: &Piece, desk: &mut Desk) -> Result<()> {
        if let Some(base) = self.base {
            read_padded(base.disk, piece.offset, desk.data.len(), &mut desk.below)?;
        }
        desk.states.clear();
        desk.packed.clear();
        let mut runs = desk.runs.iter().peekable();
        for start in (0..desk.data.len()).step_by(cluster) {
            let end = start + cluster;
            while runs.next_if(|run| run.end <= start).is_some() {}
            let has_data = runs.peek().is_some_and(|run| run.start < end);
            let plain = &desk.data[start..end];
            let state = match desk.below.get(start..end) {
                Some(below) if below == plain => State::Below,
                None if !has_data => State::Below,
                Some(_) if !has_data && self.can_say_zero => State::Zero,
                _ => match desk.packer.as_mut().and_then(|packer| packer.pack(plain)) {
                    Some(packed) => {
                        let from = desk.packed.len();
                        desk.packed.extend_from_slice(packed);
                        State::Packed(from..desk.packed.len())
                    }
                    None => State::Data,
                },
            };
            desk.states.push(state);
        }
        Ok(())
    }
}

/// The size of the smallest hole.
fn hole_of(size: u64) -> Result<usize> {
    let hole = usize::try_from(size).ok().filter(|&hole| hole <= PIECE && hole % SECTOR == 0);
    hole.ok_or_else(|| {
        let message = format!(
            "sparse size {size} bytes: allowed are 0 and multiples of {SECTOR} up to {PIECE} bytes"
        );
        Error::new(ErrorKind::BadRequest, message).in_field("sparse_size")
    })
}

/// Reads what of a piece may be other than zeros.
fn read(device: &dyn BlockDevice, piece: &Piece, desk: &mut Desk) -> Result<()> {
    let end = device.size().min(piece.offset + piece.len as u64);
    let mut at = piece.offset;
    while at < end {
        let content = device.content(at, end)?;
        // OK: all of it lies within the piece.
        let run = (at - piece.offset) as usize..(content.end - piece.offset) as usize;
        if content.is_zero {
            desk.data[run].fill(0);
        } else {
            device.read_at(at, &mut desk.data[run.clone()])?;
            match desk.runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => desk.runs.push(run),
            }
        }
        at = content.end;
    }
    let read = at.max(piece.offset) - piece.offset;
    desk.data[read as usize..].fill(0);
    Ok(())
}

/// What of a run is left when zeros become holes: those at its ends, which may go on beyond it, and
/// those that are `hole` bytes long.
fn split_at_zeros(
    data: &[u8],
    run: Range<usize>,
    block: usize,
    hole: usize,
    left: &mut Vec<Range<usize>>,
) {
    let mut open: Option<Range<usize>> = None;
    let mut at = run.start;
    while at < run.end {
        // Blocks are those of the disk: pieces begin at a multiple of them.
        let next = run.end.min((at / block + 1) * block);
        if !is_zero(&data[at..next]) {
            open = match open {
                Some(open) if at - open.end < hole => Some(open.start..next),
                other => {
                    left.extend(other);
                    Some(at..next)
                }
            };
        }
        at = next;
    }
    left.extend(open);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(data: &[(usize, u8)], hole: usize) -> Vec<Range<usize>> {
        let bytes: Vec<u8> =
            data.iter().flat_map(|&(blocks, byte)| vec![byte; blocks * BLOCK]).collect();
        let mut left = Vec::new();
        split_at_zeros(&bytes, 0..bytes.len(), BLOCK, hole, &mut left);
        left.iter().map(|run| run.start / BLOCK..run.end / BLOCK).collect()
    }

    #[test]
    fn zeros_become_holes_from_their_size_on_and_at_the_ends() {
        let data = [(1, 0), (2, 7), (3, 0), (1, 7), (2, 0)];
        assert_eq!(runs(&data, BLOCK), [1..3, 6..7]);
        assert_eq!(runs(&data, 3 * BLOCK), [1..3, 6..7]);
        assert_eq!(runs(&data, 4 * BLOCK), [1..7]);
        assert!(runs(&[(5, 0)], 16 * BLOCK).is_empty());
    }
}
