//! What the guest sees: a run of bytes at guest offsets.

use crate::error::Result;

/// A disk as its guest sees it. Offsets and lengths are in bytes.
pub trait BlockDevice {
    /// The size of the disk.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset`. What nothing was ever written to reads as zeros.
    ///
    /// # Errors
    /// [`BadRequest`](crate::ErrorKind::BadRequest) when the range reaches beyond [`size`](Self::size);
    /// otherwise whatever the storage below says.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}
