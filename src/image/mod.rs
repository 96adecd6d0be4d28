//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
pub mod gate;
pub mod probe;

use std::path::Path;

use crate::block::BlockDevice;
use crate::error::Result;
use crate::host::FileStorage;
use crate::qcow2::{Backing, Header, Qcow2};
use crate::raw::Raw;

/// An open image.
#[derive(Debug)]
pub enum Image {
    /// qcow2, with what is below it.
    Qcow2(Box<Qcow2>),
    /// Raw.
    Raw(Raw),
}

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        match self {
            Image::Qcow2(image) => image.size(),
            Image::Raw(image) => image.size(),
        }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self {
            Image::Qcow2(image) => image.read_at(offset, buf),
            Image::Raw(image) => image.read_at(offset, buf),
        }
    }
}

fn open_qcow2(
    path: &Path,
    storage: FileStorage,
    header: Header,
    below: Option<Backing>,
) -> Result<Image> {
    let image = Qcow2::open(Box::new(storage), header, below);
    image.map(|image| Image::Qcow2(Box::new(image))).map_err(|error| error.at_path(path))
}
