//! Damaging an image on purpose, so that what is done about damage can be tried: by the tests of
//! this crate, and by whoever builds on it. A seed decides where; the same image, kind and seed
//! make the same wounds.

mod dice;
mod entries;
mod header;
mod places;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use self::dice::Dice;
use self::places::Places;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};

/// What is done to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A cluster is counted once more than it is used.
    Leak,
    /// A cluster is counted once less than it is used.
    Undercount,
    /// Every count is zero.
    NoCounts,
    /// A refcount block is not referred to any more.
    LostBlock,
    /// A COPIED flag is the other way round.
    CopiedFlag,
    /// Two guest clusters have one host cluster.
    Shared,
    /// An entry leads to metadata.
    Overlap,
    /// A table refers to itself.
    Loop,
    /// An entry leads between clusters.
    Misaligned,
    /// An entry leads behind the end of the file.
    BeyondFile,
    /// An entry has a bit that must be zero.
    ReservedBit,
    /// A compressed cluster does not unpack, or its entry claims too much.
    Compressed,
    /// A subcluster has data and is zero.
    Subclusters,
    /// The file ends before its end.
    Cut,
    /// Some bits of the tables are flipped.
    TableBits,
    /// A word of a table is any other, or what another word says.
    TableWord,
    /// Some bits of the header are flipped.
    HeaderBits,
    /// A field of the header claims a lot.
    Claim,
    /// The table of snapshots, or the directory of bitmaps, is garbled.
    Directory,
}

impl FromStr for Damage {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Damage::ALL.iter().find(|damage| damage.name() == name);
        known.copied().ok_or_else(|| Error::new(ErrorKind::BadRequest, "no kind of damage"))
    }
}

impl Damage {
    /// Every kind.
    pub const ALL: &'static [Damage] = &[
        Damage::Leak,
        Damage::Undercount,
        Damage::NoCounts,
        Damage::LostBlock,
        Damage::CopiedFlag,
        Damage::Shared,
        Damage::Overlap,
        Damage::Loop,
        Damage::Misaligned,
        Damage::BeyondFile,
        Damage::ReservedBit,
        Damage::Compressed,
        Damage::Subclusters,
        Damage::Cut,
        Damage::TableBits,
        Damage::TableWord,
        Damage::HeaderBits,
        Damage::Claim,
        Damage::Directory,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Damage::Leak => "leak",
            Damage::Undercount => "undercount",
            Damage::NoCounts => "no-counts",
            Damage::LostBlock => "lost-block",
            Damage::CopiedFlag => "copied-flag",
            Damage::Shared => "shared",
            Damage::Overlap => "overlap",
            Damage::Loop => "loop",
            Damage::Misaligned => "misaligned",
            Damage::BeyondFile => "beyond-file",
            Damage::ReservedBit => "reserved-bit",
            Damage::Compressed => "compressed",
            Damage::Subclusters => "subclusters",
            Damage::Cut => "cut",
            Damage::TableBits => "table-bits",
            Damage::TableWord => "table-word",
            Damage::HeaderBits => "header-bits",
            Damage::Claim => "claim",
            Damage::Directory => "directory",
        }
    }

    /// Where the image in `storage` would be damaged, and how; empty where it has nothing that can
    /// be damaged like this. Nothing is written.
    ///
    /// # Errors
    /// What the storage says.
    pub fn plan(self, storage: &dyn Storage, header: &Header, seed: u64) -> Result<Vec<Wound>> {
        let mut dice = Dice::new(seed);
        let places = Places::new(storage, header)?;
        match self {
            Damage::Leak => places.recount(&mut dice, |count| count.checked_add(1)),
            Damage::Undercount => places.recount(&mut dice, |count| count.checked_sub(1)),
            Damage::NoCounts => places.without_counts(),
            Damage::LostBlock => places.without_block(&mut dice),
            Damage::CopiedFlag => entries::flip_copied(&places, &mut dice),
            Damage::Shared => entries::share(&places, &mut dice),
            Damage::Overlap => entries::overlap(&places, &mut dice),
            Damage::Loop => entries::refer_to_itself(&places, &mut dice),
            Damage::Misaligned => entries::misalign(&places, &mut dice),
            Damage::BeyondFile => entries::lead_beyond_file(&places, &mut dice),
            Damage::ReservedBit => entries::set_reserved_bit(&places, &mut dice),
            Damage::Compressed => entries::break_compressed(&places, &mut dice),
            Damage::Subclusters => entries::contradict(&places, &mut dice),
            Damage::Cut => places.cut(&mut dice),
            Damage::TableBits => places.flip_bits(&mut dice),
            Damage::TableWord => places.change_word(&mut dice),
            Damage::HeaderBits => header::flip_bits(storage, &mut dice),
            Damage::Claim => header::claim(storage, header, &mut dice),
            Damage::Directory => header::garble_directory(storage, header, &mut dice),
        }
    }
}

/// One thing that is done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wound {
    /// Bytes become others.
    Bytes {
        /// Where, in bytes from the beginning of the file.
        offset: u64,
        /// What is there.
        old: Vec<u8>,
        /// What comes there; as many bytes.
        new: Vec<u8>,
    },
    /// The file is cut.
    Cut {
        /// Its length, in bytes.
        old_len: u64,
        /// Its length then, in bytes.
        new_len: u64,
    },
}

impl Wound {
    /// Bytes at `offset` that become `new`.
    fn bytes(storage: &dyn Storage, offset: u64, new: Vec<u8>) -> Result<Wound> {
        let mut old = vec![0; new.len()];
        read_exact_at(storage, offset, &mut old)?;
        Ok(Wound::Bytes { offset, old, new })
    }

    /// A word at `offset` that becomes `new`.
    fn word(storage: &dyn Storage, offset: u64, new: u64) -> Result<Wound> {
        Wound::bytes(storage, offset, new.to_be_bytes().to_vec())
    }

    /// Does it.
    ///
    /// # Errors
    /// What the storage says.
    pub fn inflict(&self, storage: &dyn Storage) -> Result<()> {
        match self {
            Wound::Bytes { offset, new, .. } => storage.write_at(*offset, new),
            Wound::Cut { new_len, .. } => storage.set_len(*new_len),
        }
    }
}
