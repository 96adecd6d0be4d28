//! Reading a disk past its damage: what can be read is given, what cannot is named.

use std::ops::Range;

use crate::error::Result;

/// Why a part of a disk cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// The medium does not give it back, or not the table that leads to it.
    Unreadable,
    /// It lies behind the end of the file, or the table that leads to it does.
    BeyondFile,
    /// The entry that leads to it breaks a rule of the format.
    Malformed,
    /// It is compressed and does not unpack.
    Compressed,
    /// It is in a backing file that was not opened, or that is damaged there.
    Backing,
    /// More of the disk claims the same part of the file than the file can hold.
    Overclaimed,
}

/// Receives what a salvage finds. Offsets are those of the disk, in bytes, and never go backwards
/// for data, nor for losses.
pub trait Rescue {
    /// These bytes are at `offset`. What is neither given nor lost reads as zeros.
    ///
    /// # Errors
    /// What keeping them says; the salvage ends with it.
    fn data(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// So many bytes at `offset` cannot be read. Where bytes were given for them, they are zeros.
    fn lost(&mut self, offset: u64, len: u64, reason: LossReason);

    /// Everything before `offset` was given or lost.
    ///
    /// # Errors
    /// [`Cancelled`](crate::ErrorKind::Cancelled) to stop here.
    fn reached(&mut self, offset: u64) -> Result<()>;
}

/// A disk that is read past its damage, from its beginning to its end.
pub trait Salvage {
    /// The size of the disk, in bytes.
    fn size(&self) -> u64;

    /// Gives what can be read of the range, which lies on the disk and not before an earlier one.
    ///
    /// # Errors
    /// What `to` says, and failures of the system that are not the medium's.
    fn salvage(&mut self, range: Range<u64>, to: &mut dyn Rescue) -> Result<()>;
}
