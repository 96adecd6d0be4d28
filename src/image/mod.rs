//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
pub mod gate;
mod open;
pub mod probe;

use crate::block::{BlockDevice, Extent};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::Qcow2;
use crate::raw::Raw;

pub use open::OpenOptions;

/// An open image.
#[derive(Debug)]
pub enum Image {
    /// qcow2, with what is below it.
    Qcow2(Box<Qcow2>),
    /// Raw.
    Raw(Raw),
}

impl Image {
    fn device(&self) -> &dyn BlockDevice {
        match self {
            Image::Qcow2(image) => &**image,
            Image::Raw(image) => image,
        }
    }

    /// Writes whole clusters, compressed: see [`Qcow2::write_compressed`].
    ///
    /// # Errors
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) for raw disks; otherwise as there.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        match self {
            Image::Qcow2(image) => image.write_compressed(offset, data),
            Image::Raw(_) => {
                let message = "a raw disk cannot have compressed clusters";
                Err(Error::new(ErrorKind::UnsupportedFeature, message))
            }
        }
    }
}

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        self.device().size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.device().read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.device().write_at(offset, data)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.device().write_zeroes(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.device().discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.device().flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.device().extent(offset, end)
    }
}
