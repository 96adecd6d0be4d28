//! Disks of local virtual machines: boot2docker-ready qcow2 and raw images, created, grown and
//! inspected without QEMU, root, mounts or a daemon.
//!
//! The verbs are in [`ops`]: a request in, a report out.
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
#![doc = include_str!("README.md")]

pub mod block;
pub mod cli;
mod error;
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
