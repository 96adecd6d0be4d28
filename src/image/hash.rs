//! What a disk reads as, in 32 bytes: the same for every format, and for every way to store it.
//!
//! The definition, for whoever computes it elsewhere. All digests are SHA-256. The disk is continued
//! with zeros to a multiple of 16 MiB and cut into groups of that size, each of them 256 blocks of
//! 64 KiB. The digest of a group is that of the 256 digests of its blocks, one after the other (8192
//! bytes). The hash of the disk is the digest of the text `vmdisk-hash-1` and a line feed, the
//! disk's size in bytes (before it was continued) as 8 bytes, the most significant first, and the
//! digests of its groups, one after the other.
//!
//! So a block of zeros, and a group of them, are hashed once, however many there are.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::compare::{read_padded, zeros_of};
use super::in_order::{Steps, in_order, workers};
use crate::block::{BlockDevice, is_zero};
use crate::error::Result;
use crate::task::Task;

/// Bytes a block.
const BLOCK: u64 = 64 << 10;
/// Blocks a group.
const BLOCKS: u64 = 256;
/// Bytes a group.
const GROUP: u64 = BLOCK * BLOCKS;
/// Bytes that are read at once: whole blocks.
const READ: u64 = 1 << 20;
/// What the last digest begins with.
const NAME: &[u8] = b"vmdisk-hash-1\n";
/// The memory for all that is read, in bytes.
const BUDGET: usize = 32 << 20;

type Sum = [u8; 32];

/// The hash of what a disk reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(Sum);

impl ContentHash {
    /// The name of the definition.
    pub const ALGORITHM: &'static str = "vmdisk-hash-1";

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Display for ContentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a worker has for itself.
struct Desk {
    data: Vec<u8>,
    sum: Sum,
}

/// Hashes what a disk reads as, with all cores.
///
/// # Errors
/// What reading it says; [`Cancelled`](crate::ErrorKind::Cancelled).
pub fn hash(disk: &dyn BlockDevice, task: Task<'_>) -> Result<ContentHash> {
    let size = disk.size();
    let zeros = Zeros::new();
    let mut whole = Sha256::new();
    whole.update(NAME);
    whole.update(size.to_be_bytes());
    let (mut at, mut hashed) = (0, 0);
    let groups = size.div_ceil(GROUP);
    let steps = Steps {
        next: |_: &mut Desk| {
            while at < groups {
                task.check()?;
                // Every group up to where zeros end is all zeros.
                let zeros = zeros_of(disk, at * GROUP, groups * GROUP)? / GROUP;
                if zeros <= at {
                    break;
                }
                at = zeros;
            }
            at += 1;
            Ok((at <= groups).then(|| at - 1))
        },
        prepare: |desk: &mut Desk, &group: &u64| {
            desk.sum = group_of(disk, group * GROUP, &zeros, &mut desk.data, task)?;
            Ok(())
        },
        deliver: |desk: &mut Desk, group| {
            zeros.add_groups(&mut whole, group - hashed);
            whole.update(desk.sum);
            hashed = group + 1;
            task.step("hash", size.min(hashed * GROUP), size)?;
            Ok(ControlFlow::Continue(()))
        },
    };
    let desk = || Desk { data: Vec::new(), sum: Sum::default() };
    in_order(workers(READ as usize, BUDGET), desk, steps)?;
    zeros.add_groups(&mut whole, groups - hashed);
    task.step("hash", size, size)?;
    Ok(ContentHash(whole.finalize().into()))
}

/// The digest of the group that begins at `start`.
fn group_of(
    disk: &dyn BlockDevice,
    start: u64,
    zeros: &Zeros,
    data: &mut Vec<u8>,
    task: Task<'_>,
) -> Result<Sum> {
    let mut group = Sha256::new();
    let (mut at, end) = (start, start + GROUP);
    while at < end {
        task.check()?;
        let known = (zeros_of(disk, at, end)? - at) / BLOCK;
        (0..known).for_each(|_| group.update(zeros.block));
        at += known * BLOCK;
        let next = end.min((at / READ + 1) * READ);
        // OK: a piece fits in memory.
        read_padded(disk, at, (next - at) as usize, data)?;
        for block in data.chunks(BLOCK as usize) {
            match is_zero(block) {
                true => group.update(zeros.block),
                false => group.update(Sha256::digest(block)),
            }
        }
        at = next;
    }
    Ok(group.finalize().into())
}

/// The digests of what is all zeros.
struct Zeros {
    block: Sum,
    group: Sum,
}

impl Zeros {
    fn new() -> Self {
        let block: Sum = Sha256::digest([0; BLOCK as usize]).into();
        let group = (0..BLOCKS).fold(Sha256::new(), |group, _| group.chain_update(block));
        Zeros { block, group: group.finalize().into() }
    }

    fn add_groups(&self, whole: &mut Sha256, count: u64) {
        (0..count).for_each(|_| whole.update(self.group));
    }
}
