//! Persistent dirty bitmaps: which parts of the disk were written since some moment.
//!
//! `directory` is what the image says of each, `chunks` reads their bits, `decide` says what becomes
//! of them, `place` where what is new goes, and `change` carries that out. Bits are not kept up to
//! date write by write: who writes to the disk takes back that the image vouches for its bitmaps, as
//! the format has it (`flush`), unless all that is going to be written is marked first (`announce`).

mod announce;
mod change;
mod chunks;
#[cfg(test)]
mod crash_tests;
mod decide;
mod directory;
mod place;
#[cfg(test)]
mod tests;

pub use announce::{Announced, DirtyRanges};
pub use change::BitmapsChanged;
pub use chunks::dirty_bytes;
pub use decide::{BitmapChange, BitmapSource};
pub use directory::{Bitmap, Granularity, MAX_BITMAP_NAME, MAX_BITMAPS, read_bitmaps};

#[cfg(test)]
pub(crate) use tests::bitmaps_of;

pub(super) use chunks::data_words;
pub(super) use directory::{
    BEHIND_THE_LAST, MAX_DIRECTORY, MAX_TABLE_ENTRIES, RawEntry, is_plausible, table_places,
};
