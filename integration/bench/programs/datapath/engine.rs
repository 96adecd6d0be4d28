//! The libraries, each behind the same few calls.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::sync_io::Qcow2IoSync;
use qcow2_rs::utils::qcow2_setup_dev_sync;
use vmdisk::block::BlockDevice;
use vmdisk::image::{self, Image};

/// Who reads and writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    Vmdisk,
    Imago,
    Qcow2Rs,
    Raw,
}

/// An open disk.
pub(crate) trait Disk {
    fn size(&self) -> u64;
    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<()>;
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    fn flush(&self) -> Result<()>;
}

impl Engine {
    pub(crate) fn named(name: &str) -> Result<Engine> {
        Ok(match name {
            "vmdisk" => Engine::Vmdisk,
            "imago" => Engine::Imago,
            "qcow2-rs" => Engine::Qcow2Rs,
            "raw" => Engine::Raw,
            _ => return Err(Error::other(format!("{name} is not an engine"))),
        })
    }

    pub(crate) fn open(self, file: &Path, writable: bool) -> Result<Box<dyn Disk>> {
        Ok(match self {
            Engine::Vmdisk => Box::new(open_vmdisk(file, writable)?),
            Engine::Imago => Box::new(open_imago(file, writable)?),
            Engine::Qcow2Rs => Box::new(open_qcow2_rs(file, writable)?),
            Engine::Raw => Box::new(open_raw(file, writable)?),
        })
    }
}

type Imago = FormatAccess<imago::file::File>;
type Qcow2Rs = Qcow2Dev<Qcow2IoSync>;

fn open_vmdisk(file: &Path, writable: bool) -> Result<Image> {
    use image::OpenOptions;
    let options = if writable { OpenOptions::to_write() } else { OpenOptions::to_read() };
    Image::open(file, &options).map_err(Error::other)
}

fn open_imago(file: &Path, writable: bool) -> Result<Imago> {
    let builder = imago::qcow2::Qcow2::<imago::file::File>::builder_path(file).write(writable);
    Ok(FormatAccess::new(builder.open(PermissiveImplicitOpenGate::default())?))
}

fn open_qcow2_rs(file: &Path, writable: bool) -> Result<Qcow2Rs> {
    let params = Qcow2DevParams::new(9, None, None, !writable, false);
    let device = qcow2_setup_dev_sync(file, &params).map_err(told)?;
    at_once(device.qcow2_prep_io()).map_err(told)?;
    Ok(device)
}

fn open_raw(path: &Path, writable: bool) -> Result<File> {
    OpenOptions::new().read(true).write(writable).create(writable).open(path)
}

impl Disk for Image {
    fn size(&self) -> u64 {
        BlockDevice::size(self)
    }

    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<()> {
        self.read_at(offset, memory).map_err(Error::other)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_at(offset, bytes).map_err(Error::other)
    }

    fn flush(&self) -> Result<()> {
        BlockDevice::flush(self).map_err(Error::other)
    }
}

impl Disk for Imago {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<()> {
        self.read(memory, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(bytes, offset)
    }

    fn flush(&self) -> Result<()> {
        self.flush()?;
        self.sync()
    }
}

impl Disk for Qcow2Rs {
    fn size(&self) -> u64 {
        self.info.virtual_size()
    }

    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<()> {
        at_once(self.read_at(memory, offset)).map(|_| ()).map_err(told)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        at_once(self.write_at(bytes, offset)).map_err(told)
    }

    fn flush(&self) -> Result<()> {
        at_once(self.flush_meta()).map_err(told)?;
        at_once(self.fsync_range(0, usize::MAX)).map_err(told)
    }
}

impl Disk for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&self, offset: u64, memory: &mut [u8]) -> Result<()> {
        self.read_exact_at(memory, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&self) -> Result<()> {
        self.sync_data()
    }
}

/// Runs a future that waits for nothing: one thread, and calls that return when they are done.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

fn told(error: impl std::fmt::Debug) -> Error {
    Error::other(format!("{error:?}"))
}
