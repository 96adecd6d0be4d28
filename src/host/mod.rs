//! The outside world: files, locks, holes, staging and publishing, signals.
//!
//! The only room that names `nix` and `std::fs`, and the only one where `unsafe` may be expected.
//! What differs between systems is in `sys`, one file a system with the same functions in it.
//! Nothing here knows what is inside a disk, and nothing here prints.

mod abilities;
mod file;
mod lock;
mod owner;
mod path;
pub mod recording;
mod signal;
mod stage;
mod stdin;
mod stdout;
pub mod storage;
#[cfg_attr(target_os = "linux", path = "sys/linux.rs")]
#[cfg_attr(target_os = "macos", path = "sys/macos.rs")]
mod sys;
mod walk;

pub use abilities::{Abilities, abilities_of};
pub use file::{Access, FileId, FileInfo, FileKind, FileStorage, read_small_file, resolve};
pub use lock::{LockMode, LockPolicy, LockState, open_locked, open_resolved_locked};
pub use owner::Owner;
pub use path::{Occupant, folder_of, resolve_target};
pub use signal::trip_on_signals;
pub use stage::{DEFAULT_MODE, Publish, Staging, unpublish};
pub use stdin::Stdin;
pub use stdout::{Stdout, terminal_columns};
pub use walk::Walk;
