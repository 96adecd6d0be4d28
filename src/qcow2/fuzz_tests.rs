//! Runs of bytes as an image and what is done to it: what the fuzzer finds its way with, and the
//! runs that it found worth keeping.

use super::header::{CompressionType, Version};
use super::options::Preallocation;
use super::shape_tests::{Data, PLAIN, Shape};
use super::subject_tests::{Step, Subject};
use super::survive_tests::{Beside, Damage, survive};
use crate::block::{CacheConfig, DeviceOptions, Discard};
use crate::fuzz_tests::Input;
#[cfg(test)]
use crate::fuzz_tests::again;

/// So much is done with one run at most, and so often is an image damaged.
const MOST: usize = 40;

/// Whatever is done to an image, it shows what a run of bytes in memory shows that had the same
/// done to it, and nothing about it is wrong or leaked once it is closed.
pub fn operations(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut subject = Subject::new(input.shape());
    for step in std::iter::from_fn(|| input.step()).take(MOST) {
        if matches!(step, Step::Reopen | Step::Resize(_)) {
            subject.close().expect("the end");
            subject.is_sound();
            subject.open().expect("an image");
        }
        subject.step(step);
        assert!(subject.contents() == subject.model, "{step:?}");
    }
    subject.close().expect("the end");
    subject.is_sound();
}

/// Whatever an image claims: opening, reading, writing, scanning and resizing it answers, without
/// a panic, and with no more work and room than what it is asked for is worth.
pub fn damage(bytes: &[u8]) {
    let mut input = Input(bytes);
    let shape = input.shape();
    let beside = input.byte();
    let beside = Beside { snapshot: beside & 1 != 0, bitmap: beside & 2 != 0 };
    let damages = usize::from(input.byte()) % MOST;
    let damage: Vec<Damage> = (0..damages).map(|_| input.damage()).collect();
    let steps: Vec<Step> = std::iter::from_fn(|| input.step()).take(MOST).collect();
    survive(shape, beside, &damage, &steps);
}

impl Input<'_> {
    /// An offset or a length on a disk of up to 128 KiB: mostly odd, with small ones and multiples
    /// of 512 easily come by.
    fn place(&mut self) -> u64 {
        let n = self.short();
        match n % 4 {
            0 => n / 256 * 512,
            1 => n / 4 % 512,
            _ => n * 2,
        }
    }

    fn shape(&mut self) -> Shape {
        let (layout, kinds, more) = (self.byte(), self.byte(), self.byte());
        let (cluster_bits, extended) =
            [(9, false), (10, false), (12, false), (14, true)][usize::from(layout % 4)];
        let discard = [Discard::Unmap, Discard::Free, Discard::KeepAllocated, Discard::Unmap];
        let bit = |n: u8| kinds >> n & 1 != 0;
        Shape {
            cluster_bits,
            extended,
            order: u32::from(layout / 4 % 7),
            version: if bit(0) { Version::V2 } else { Version::V3 },
            compression: if bit(1) { CompressionType::Zstd } else { CompressionType::Zlib },
            lazy: bit(2),
            preallocation: match more % 3 {
                0 => Preallocation::Off,
                1 => Preallocation::Tables,
                _ => Preallocation::Metadata,
            },
            below: bit(3).then(|| self.short()),
            data: [Data::Inside, Data::Inside, Data::Apart, Data::Raw][usize::from(more / 3 % 4)],
            size: self.short() * 2,
            options: DeviceOptions {
                discard: discard[usize::from(kinds >> 4 & 3)],
                detect_zeroes: bit(6),
                cache: CacheConfig { table_bytes: 0, refcount_bytes: 0 },
                ..PLAIN.options
            },
        }
        .allowed()
    }

    /// Something to do, as long as there are bytes.
    fn step(&mut self) -> Option<Step> {
        if self.is_empty() {
            return None;
        }
        Some(match self.byte() % 9 {
            0 | 1 => Step::Write(self.place(), self.place().max(1) as usize, self.byte()),
            2 => Step::Pack(self.byte().into(), u64::from(self.byte() % 8) + 1, self.byte()),
            3 => Step::Zero(self.place(), self.place()),
            4 => Step::Discard(self.place(), self.place()),
            5 => Step::Flush,
            6 => Step::Reopen,
            7 => Step::Resize(self.place().max(1)),
            _ => Step::ResizeInUse(self.place().max(1)),
        })
    }

    /// A word that means something as offset, flag, count or size, or any, somewhere.
    fn damage(&mut self) -> Damage {
        let kind = self.byte();
        let at = if kind & 1 == 0 { u64::from(self.byte()) * 2 } else { self.short() * 8 };
        let word = match kind >> 1 & 3 {
            0 => self.short() << 9 | u64::from(kind & 8) << 60 | u64::from(kind >> 4 & 3),
            1 => 1 << (self.byte() % 64),
            2 => self.short(),
            _ => self.word(),
        };
        match kind >> 6 {
            0 => Damage::Fill(at, self.byte().into(), word),
            _ => Damage::Word(at, word),
        }
    }
}

/// Runs that reach everything which the fuzzer has reached, and those that once failed.
#[test]
fn what_the_fuzzer_found_is_done_again() {
    again(include_str!("../../tests/data/fuzz/operations.txt"), operations);
    again(include_str!("../../tests/data/fuzz/damage.txt"), damage);
}
