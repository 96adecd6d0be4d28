//! The boot2docker contract: a disk that begins with a tar archive asks its guest to format it and
//! to install the SSH keys in the archive.
//!
//! The guest recognises the disk by its first 29 bytes ([`MAGIC`], which is also the name of the
//! archive's first entry), keeps the first [`Profile::budget_bytes`] bytes, makes a partition table
//! and a filesystem, and unpacks what it kept into the user's home at every boot. Whatever does not
//! fit in those bytes is cut, and nobody is told: hence the limits here.

mod keys;
mod layout;
mod payload;
mod profile;
#[cfg(test)]
mod tests;

pub use keys::PublicKeys;
pub use layout::{Layout, MAGIC};
pub use payload::Payload;
pub use profile::Profile;
