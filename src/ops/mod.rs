//! The verbs: a request in, a report out, one file each. The only room that sees both an image
//! and a guest. Requests and reports are the contract: the library, the command line and the
//! protocol all speak them.

mod backing;
mod context;
mod create;
mod ensure;
mod existing;
mod fits;
mod info;
mod options;
mod payload;
mod preset;
mod resize;
mod wire;

pub use context::Context;
pub use create::{BackingReport, CreateReport, GuestReport, create};
pub use ensure::{EnsureReport, ensure};
pub use info::{InfoReport, InfoRequest, Qcow2Report, SnapshotReport, info};
pub use options::{
    BackingOptions, BackingStore, Compat, Compression, CreateRequest, Format, Guest, GuestOptions,
    IfExists, LayoutOptions, Preallocation, Preset,
};
pub use resize::{ResizeReport, ResizeRequest, TargetSize, resize};
pub use wire::{bytes_hex, lossy};
