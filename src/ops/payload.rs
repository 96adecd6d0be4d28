//! From keys and profile to the bytes that the guest finds at the beginning of its disk.

use std::path::Path;

use super::choices::Guest;
use super::context::Context;
use super::options::GuestOptions;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::guest::boot2docker::{Payload, Profile, PublicKeys};
use crate::guest::{Contents, identify};
use crate::host::read_small_file;

/// The most that is read of a file with keys, in bytes.
pub(super) const MAX_KEY_FILE: u64 = 64 << 10;
/// The most that is read of a ready archive, in bytes: far above what any guest reads.
pub(super) const MAX_USERDATA: u64 = 1 << 20;

/// What will be written for the guest.
pub(super) struct Prepared {
    pub(super) profile: Profile,
    pub(super) payload: Payload,
}

impl GuestOptions {
    /// Reads keys or archive and builds the payload; `None` when nothing is to be written.
    ///
    /// # Errors
    /// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions) for keys without a guest or
    /// beside an archive, and as [`PublicKeys::parse`], [`Payload::with_keys`] and
    /// [`Payload::from_userdata`].
    pub(super) fn prepare(&self, backing: bool, context: Context<'_>) -> Result<Option<Prepared>> {
        let incompatible = |why: &str| Err(Error::new(ErrorKind::IncompatibleOptions, why));
        let asks = self.has_keys() || self.userdata_file.is_some();
        if self.userdata_file.is_some() && self.has_keys() {
            return incompatible(
                "userdata and ssh keys exclude each other: put the keys into the archive",
            );
        }
        let profile = match self.profile {
            Some(Guest::None) if asks => {
                return incompatible(
                    "guest none has no use for keys or userdata: leave it or them away",
                );
            }
            Some(Guest::None) => return Ok(None),
            None if backing && !asks => return Ok(None),
            Some(Guest::Boot2docker) | None => Profile::Boot2docker,
            Some(Guest::Minikube) => Profile::Minikube,
            Some(Guest::Rancheros) => Profile::Rancheros,
        };
        let payload = match &self.userdata_file {
            Some(path) => {
                let archive = read_small_file(path, MAX_USERDATA, context.cancel)?;
                Payload::from_userdata(profile, archive).map_err(|error| error.at_path(path))?
            }
            None if !self.has_keys() => Payload::magic_only(),
            None => Payload::with_keys(profile, &self.read_keys(context)?)?,
        };
        Ok(Some(Prepared { profile, payload }))
    }

    fn read_keys(&self, context: Context<'_>) -> Result<PublicKeys> {
        let given = self.ssh_keys.iter().enumerate();
        let given = given.map(|(n, text)| (format!("ssh_keys[{n}]"), text.as_bytes().to_vec()));
        let mut keys: Vec<_> = given.collect();
        for path in &self.ssh_key_files {
            let contents = read_small_file(path, MAX_KEY_FILE, context.cancel)?;
            keys.push((path.display().to_string(), contents));
        }
        let keys: Vec<_> = keys.iter().map(|(l, c)| (l.as_str(), c.as_slice())).collect();
        PublicKeys::parse(&keys)
    }
}

impl Prepared {
    /// The bytes for the beginning of an overlay: the payload, zeros where an older payload may
    /// show, then what is below up to `len`, which must be at least the payload's length.
    ///
    /// # Errors
    /// [`GuestNotEmpty`](ErrorKind::GuestNotEmpty) when the guest has formatted what is below,
    /// unless `overwrite`.
    pub(super) fn above(
        &self,
        below: &dyn BlockDevice,
        path: &Path,
        overwrite: bool,
        len: u64,
    ) -> Result<Vec<u8>> {
        let contents = identify(below).map_err(|error| error.at_path(path))?;
        if !overwrite && !matches!(contents, Contents::Empty | Contents::Payload) {
            let message =
                format!("the disk below begins with {contents}, which keys would overwrite");
            return Err(Error::new(ErrorKind::GuestNotEmpty, message).at_path(path));
        }
        let len_in_memory = usize::try_from(len).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len_in_memory];
        let there = usize::try_from(below.size()).unwrap_or(usize::MAX).min(bytes.len());
        below.read_at(0, &mut bytes[..there])?;
        let footprint = self.payload.footprint_bytes(self.profile);
        let footprint = usize::try_from(footprint).unwrap_or(usize::MAX).min(bytes.len());
        bytes[..footprint].fill(0);
        let payload = self.payload.bytes();
        let Some(place) = bytes.get_mut(..payload.len()) else {
            let message = format!("a disk of {len} bytes is smaller than the payload");
            return Err(Error::new(ErrorKind::BadSize, message));
        };
        place.copy_from_slice(payload);
        Ok(bytes)
    }
}
