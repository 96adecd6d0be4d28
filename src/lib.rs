//! Disks of local virtual machines: boot2docker-ready qcow2 and raw images.
#![doc = include_str!("README.md")]

pub mod block;
mod error;
pub mod guest;
pub mod host;
pub mod qcow2;
pub mod task;
pub mod units;

pub use error::{Error, ErrorKind, Holder, Result};
