//! What the fuzzer's bytes mean: an image, and what is done to it.

use arbitrary::Arbitrary;

use crate::block::{CacheConfig, DeviceOptions, Discard};
use crate::qcow2::{CompressionType, Preallocation, Version};
use crate::subject::{PLAIN, Shape, Step};

/// An image and what is done to it.
#[derive(Debug, Arbitrary)]
pub(crate) struct Input {
    layout: u8,
    order: u8,
    v2: bool,
    zstd: bool,
    lazy: bool,
    preallocation: u8,
    below: Option<u16>,
    size: u16,
    discard: u8,
    detect_zeroes: bool,
    /// Words that are written over the image, and where.
    pub(crate) damage: Vec<(u16, u64)>,
    operations: Vec<Operation>,
}

#[derive(Debug, Arbitrary)]
enum Operation {
    Write(u16, u16, u8),
    Pack(u8, u8, u8),
    Zero(u16, u16),
    Discard(u16, u16),
    Flush,
    Reopen,
    Resize(u16),
}

/// An offset or a length on a disk of up to 128 KiB: mostly odd, with small ones and multiples of
/// 512 easily come by.
fn bytes(n: u16) -> u64 {
    match n % 4 {
        0 => u64::from(n / 4) / 64 * 512,
        1 => u64::from(n / 4) % 512,
        _ => u64::from(n) * 2,
    }
}

impl Input {
    pub(crate) fn shape(&self) -> Shape {
        let (cluster_bits, extended) =
            [(9, false), (10, false), (12, false), (14, true)][usize::from(self.layout % 4)];
        let preallocation = match self.preallocation % 3 {
            0 => Preallocation::Off,
            1 => Preallocation::Tables,
            _ => Preallocation::Metadata,
        };
        let discard = match self.discard % 3 {
            0 => Discard::Unmap,
            1 => Discard::Free,
            _ => Discard::KeepAllocated,
        };
        let shape = Shape {
            cluster_bits,
            extended,
            order: u32::from(self.order % 7),
            version: if self.v2 { Version::V2 } else { Version::V3 },
            compression: if self.zstd { CompressionType::Zstd } else { CompressionType::Zlib },
            lazy: self.lazy,
            preallocation,
            below: self.below.map(u64::from),
            size: u64::from(self.size) * 2,
            options: DeviceOptions {
                discard,
                detect_zeroes: self.detect_zeroes,
                cache: CacheConfig { table_bytes: 0, refcount_bytes: 0 },
                ..PLAIN.options
            },
        };
        shape.allowed()
    }

    /// Not more of them than an input is worth.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let steps = self.operations.iter().take(40).map(|operation| match *operation {
            Operation::Write(at, len, value) => {
                let len = usize::try_from(bytes(len).max(1)).expect("a short length");
                Step::Write(bytes(at), len, value)
            }
            Operation::Pack(at, clusters, value) => {
                Step::Pack(at.into(), u64::from(clusters % 8) + 1, value)
            }
            Operation::Zero(at, len) => Step::Zero(bytes(at), bytes(len)),
            Operation::Discard(at, len) => Step::Discard(bytes(at), bytes(len)),
            Operation::Flush => Step::Flush,
            Operation::Reopen => Step::Reopen,
            Operation::Resize(size) => Step::Resize(bytes(size).max(1)),
        });
        steps.collect()
    }
}
