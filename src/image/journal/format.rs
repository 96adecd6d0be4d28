//! The bytes of a journal, and what they mean. Numbers are big-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `VMDJRNL` and a line feed |
//! | 4 | version: 1 |
//! | 1 | format of the disk: 1, raw |
//! | 1 | what is allocated for what is added: 0 nothing, 1 reserved, 2 zeros |
//! | 8, 8 | length of the file before and afterwards |
//! | 4 | stages; of each: 4 bytes, its spans; of each span: |
//! | 8, 8, 1 | offset, length (not 0), and which contents follow: bit 0 the old, bit 1 the new; what does not follow is zeros |
//! | | the contents that follow |
//! | 32 | SHA-256 of everything before |
//!
//! No two spans meet, none reaches behind the new end, and behind the old end the old content is
//! zeros.

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::error::Result;
use crate::raw::RawAllocation;
use crate::units::VirtualSize;

const MAGIC: [u8; 8] = *b"VMDJRNL\n";
const VERSION: u32 = 1;
const RAW: u8 = 1;
const HASH_LEN: usize = 32;
const OLD: u8 = 1;
const NEW: u8 = 2;

/// The longest journal that is written and read, in bytes: it is held in memory.
pub(super) const MAX_LEN: u64 = 64 << 20;
/// The most stages and the most spans of all of them that are written and read: in memory, a span
/// takes more than the 17 bytes that it may have in a journal.
const MAX_STAGES: u32 = 16;
const MAX_SPANS: u64 = 1 << 20;

/// A change of a raw disk that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Journal<'a> {
    /// Length of the file before, in bytes.
    pub(super) old_len: u64,
    /// Length of the file afterwards, in bytes; not less.
    pub(super) new_len: u64,
    /// What is allocated for what is added.
    pub(super) allocation: RawAllocation,
    /// What is written, first to last: each is on the medium before the next begins.
    pub(super) stages: Vec<Vec<Span<'a>>>,
}

/// A range of the disk that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span<'a> {
    /// Where, in bytes.
    pub(super) offset: u64,
    /// How long, in bytes.
    pub(super) len: u64,
    /// What it held; `None` for zeros.
    pub(super) old: Option<&'a [u8]>,
    /// What it is to hold; `None` for zeros.
    pub(super) new: Option<&'a [u8]>,
}

/// Why bytes are no journal that can be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Unusable {
    #[error("is no journal of vmdisk")]
    Magic,
    #[error("is of version {0}, and this program knows version {VERSION} alone")]
    Version(u32),
    #[error("is not whole: its checksum is wrong")]
    NotWhole,
    #[error("is about a disk of format {0}, and this program knows format {RAW} (raw) alone")]
    Format(u8),
    #[error("contradicts itself")]
    Contradiction,
}

impl Span<'_> {
    /// Where it ends, in bytes.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Whether it holds zeros before and afterwards, so that nothing is to be written.
    pub(super) fn stays_zero(&self) -> bool {
        self.old.is_none() && self.new.is_none()
    }
}

impl<'a> Journal<'a> {
    /// All spans.
    pub(super) fn spans(&self) -> impl Iterator<Item = &Span<'a>> {
        self.stages.iter().flatten()
    }

    /// How many bytes [`encode`](Self::encode) makes.
    pub(super) fn encoded_len(&self) -> u64 {
        let content = |content: Option<&[u8]>| content.map_or(0, len_of);
        let spans = self.spans().map(|span| 17 + content(span.old) + content(span.new));
        // The fixed part, the stages' counts, the checksum.
        34 + 4 * len_of(&self.stages) + spans.sum::<u64>() + 32
    }

    /// Whether it is one that is written and read.
    pub(super) fn fits(&self) -> bool {
        let spans = self.stages.iter().map(|stage| len_of(stage)).sum::<u64>();
        self.encoded_len() <= MAX_LEN && spans <= MAX_SPANS && count(&self.stages) <= MAX_STAGES
    }

    /// Gives the journal's bytes to `out`, piece by piece.
    ///
    /// # Errors
    /// What `out` says.
    pub(super) fn encode(&self, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            out(bytes)
        };
        put(&MAGIC)?;
        put(&VERSION.to_be_bytes())?;
        put(&[RAW, allocation_code(self.allocation)])?;
        put(&self.old_len.to_be_bytes())?;
        put(&self.new_len.to_be_bytes())?;
        put(&count(&self.stages).to_be_bytes())?;
        for stage in &self.stages {
            put(&count(stage).to_be_bytes())?;
            for span in stage {
                put(&span.offset.to_be_bytes())?;
                put(&span.len.to_be_bytes())?;
                let follows = |content: Option<_>, bit| if content.is_some() { bit } else { 0 };
                put(&[follows(span.old, OLD) | follows(span.new, NEW)])?;
                put(span.old.unwrap_or_default())?;
                put(span.new.unwrap_or_default())?;
            }
        }
        out(&hash.finalize())
    }

    /// Reads a journal whose every byte is what was written, and which makes sense.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Journal<'a>, Unusable> {
        let mut rest = Rest(bytes);
        if rest.array() != Some(MAGIC) {
            return Err(Unusable::Magic);
        }
        match rest.u32().ok_or(Unusable::NotWhole)? {
            VERSION => {}
            version => return Err(Unusable::Version(version)),
        }
        let (signed, hash) = bytes.split_last_chunk::<HASH_LEN>().ok_or(Unusable::NotWhole)?;
        if Sha256::digest(signed)[..] != hash[..] {
            return Err(Unusable::NotWhole);
        }
        rest.0 = rest.0.get(..rest.0.len() - HASH_LEN).ok_or(Unusable::NotWhole)?;
        match rest.u8().ok_or(Unusable::Contradiction)? {
            RAW => {}
            format => return Err(Unusable::Format(format)),
        }
        let journal = rest.journal().filter(|journal| rest.0.is_empty() && journal.makes_sense());
        journal.ok_or(Unusable::Contradiction)
    }

    fn makes_sense(&self) -> bool {
        let mut ranges: Vec<_> = self.spans().map(|span| (span.offset, span.end())).collect();
        ranges.sort_unstable();
        let meet = ranges.iter().zip(ranges.iter().skip(1)).any(|(a, b)| a.1 > b.0);
        let sensible = |span: &Span<'_>| {
            let end = span.offset.checked_add(span.len);
            let inside = end.is_some_and(|end| end <= self.new_len);
            span.len > 0 && inside && (span.old.is_none() || span.end() <= self.old_len)
        };
        let len_fits = self.new_len <= VirtualSize::MAX.bytes();
        len_fits && self.old_len <= self.new_len && !meet && self.spans().all(sensible)
    }
}

/// What was not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Everything behind the format.
    fn journal(&mut self) -> Option<Journal<'a>> {
        let allocation = match self.u8()? {
            0 => RawAllocation::Sparse,
            1 => RawAllocation::Reserve,
            2 => RawAllocation::Zeros,
            _ => return None,
        };
        let (old_len, new_len) = (self.u64()?, self.u64()?);
        // Collected one by one: a count that the bytes do not bear out ends where they do.
        let stages = Some(self.u32()?).filter(|stages| *stages <= MAX_STAGES)?;
        let stages = (0..stages).map(|_| self.stage()).collect::<Option<_>>()?;
        Some(Journal { old_len, new_len, allocation, stages })
    }

    fn stage(&mut self) -> Option<Vec<Span<'a>>> {
        let spans = Some(self.u32()?).filter(|spans| u64::from(*spans) <= MAX_SPANS)?;
        (0..spans).map(|_| self.span()).collect()
    }

    fn span(&mut self) -> Option<Span<'a>> {
        let (offset, len, follows) = (self.u64()?, self.u64()?, self.u8()?);
        if follows & !(OLD | NEW) != 0 {
            return None;
        }
        let mut content = |bit| match follows & bit != 0 {
            true => self.take(usize::try_from(len).ok()?).map(Some),
            false => Some(None),
        };
        let (old, new) = (content(OLD)?, content(NEW)?);
        Some(Span { offset, len, old, new })
    }
}

fn allocation_code(allocation: RawAllocation) -> u8 {
    match allocation {
        RawAllocation::Sparse => 0,
        RawAllocation::Reserve => 1,
        RawAllocation::Zeros => 2,
    }
}

fn len_of<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// A journal within [`MAX_LEN`] has fewer.
fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
