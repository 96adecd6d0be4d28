//! Disks of local virtual machines: boot2docker-ready qcow2 and raw images, created, grown and
//! inspected without QEMU, root, mounts or a daemon.
//!
//! The verbs are in [`ops`]: a request in, a report out. Nothing is printed; what is done on the way is
//! told to the facade [`log`], for a program that takes it.
//!
//! ```
//! use vmdisk::host::LockPolicy;
//! use vmdisk::image::gate::Trust;
//! use vmdisk::ops::{self, Context, CreateRequest};
//! use vmdisk::task::{Cancel, Silent};
//! use vmdisk::units::ByteSize;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let context = Context {
//!     progress: &Silent,
//!     cancel: &Cancel::new(),
//!     trust: &Trust::default(),
//!     locks: &LockPolicy::default(),
//! };
//! let size = ByteSize::parse_with_unit("20G")?;
//! let request = CreateRequest::new(folder.path().join("disk.qcow2"), Some(size));
//! let report = ops::create(&request, context)?;
//! assert_eq!(report.virtual_size_bytes, 20 << 30);
//! # Ok::<(), vmdisk::Error>(())
//! ```
//!
//! The disks themselves are in [`image`]: opened by their path, locked, read and written as their
//! guest sees them by any number of threads, whatever the format. What else there is to know of an
//! open disk is told at [`image::Image`].
//!
//! ```
//! use vmdisk::block::BlockDevice;
//! use vmdisk::image::{Image, OpenOptions};
//! # use vmdisk::ops::{self, Context, CreateRequest};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("disk.qcow2");
//! # let context = Context {
//! #     progress: &vmdisk::task::Silent,
//! #     cancel: &vmdisk::task::Cancel::new(),
//! #     trust: &vmdisk::image::gate::Trust::default(),
//! #     locks: &vmdisk::host::LockPolicy::default(),
//! # };
//! # let size = vmdisk::units::ByteSize::parse_with_unit("20G")?;
//! # ops::create(&CreateRequest::new(&path, Some(size)), context)?;
//!
//! let image = Image::open(&path, &OpenOptions::to_write())?;
//! image.write_at(1 << 30, b"any offset, any length")?;
//! image.write_zeroes(2 << 30, 1 << 20)?;
//! image.flush()?; // Everything written so far is on the medium.
//! image.discard(1 << 30, 64 << 10)?;
//! image.close()?; // And this as well.
//!
//! let image = Image::open(&path, &OpenOptions::to_read())?;
//! let mut sector = [1; 512];
//! image.read_at(1 << 30, &mut sector)?;
//! assert_eq!(sector, [0; 512]);
//! for extent in image.extents(0..image.size()) {
//!     let extent = extent?;
//!     println!("{} bytes at {}: {:?}", extent.len, extent.offset, extent.kind);
//! }
//! # Ok::<(), vmdisk::Error>(())
//! ```
#![doc = include_str!("README.md")]

pub mod block;
pub mod cli;
mod error;
#[cfg(test)]
mod fuzz_tests;
pub mod guest;
pub mod host;
pub mod image;
pub mod ops;
pub mod protocol;
pub mod qcow2;
pub mod raw;
pub mod task;
pub mod units;

pub use error::{Error, ErrorKind, Holder, Result};
