//! The bytes at the start of a disk that ask the guest to format it.

use super::layout::{BLOCK, END, u64_from};
use super::{Layout, MAGIC, Profile, PublicKeys};
use crate::error::{Error, ErrorKind, Result};

/// Where a boot sector has its signature, in bytes. An old `fdisk -l` takes a disk with 55 AA there
/// for a partitioned one, and boot2docker's `automount` then leaves it alone.
const SIGNATURE_OFFSET: usize = 510;

/// A payload that its guest understands whole: it begins with [`MAGIC`], and everything but the
/// zeros at its end fits in what the guest keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    bytes: Vec<u8>,
    layout: Option<Layout>,
    key_count: Option<usize>,
}

impl Payload {
    /// The magic alone: the guest formats the disk and installs no key.
    pub fn magic_only() -> Self {
        Payload { bytes: MAGIC.to_vec(), layout: None, key_count: Some(0) }
    }

    /// An archive with these keys, in the first of [`Layout::ALL`] that fits.
    ///
    /// # Errors
    /// [`ErrorKind::PayloadTooLarge`] when no layout fits, [`ErrorKind::IncompatibleOptions`] for
    /// more keys than the guest can take.
    pub fn with_keys(profile: Profile, keys: &PublicKeys) -> Result<Self> {
        if let Some(most) = profile.most_keys().filter(|&most| keys.count() > most) {
            return Err(Error::new(
                ErrorKind::IncompatibleOptions,
                format!(
                    "{} public keys were given, but {profile} takes {most}: a second line in the \
                     key file breaks the YAML that its guest writes",
                    keys.count()
                ),
            ));
        }
        let budget = profile.budget_bytes();
        let fits = |layout: &&Layout| layout.need_bytes(keys.len_bytes()) <= budget;
        let Some(&layout) = Layout::ALL.iter().find(fits) else {
            return Err(keys_too_large(profile, keys));
        };
        let bytes = layout.archive(keys.as_text()).map_err(|source| {
            Error::new(ErrorKind::Internal, "cannot build the key archive").with_source(source)
        })?;
        Ok(Payload { bytes, layout: Some(layout), key_count: Some(keys.count()) })
    }

    /// A ready archive. Of the zeros at its end, those beyond the two blocks that end an archive
    /// are dropped; nothing else is changed or looked at.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] for bytes that the guest would not recognise,
    /// [`ErrorKind::PayloadTooLarge`] for more than it keeps.
    pub fn from_userdata(profile: Profile, mut bytes: Vec<u8>) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            // Whatever it is, it may be nobody's business.
            let magic = MAGIC.escape_ascii();
            let message = format!("the userdata does not begin with '{magic}'");
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        if bytes.get(SIGNATURE_OFFSET..).is_some_and(|rest| rest.starts_with(&[0x55, 0xAA])) {
            return Err(Error::new(
                ErrorKind::BadRequest,
                "the userdata has 55 AA at byte 510, which makes the guest believe that the disk \
                 is partitioned: these two bytes must be something else",
            ));
        }
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at.saturating_add(1));
        let used = u64_from(used).div_ceil(BLOCK).saturating_mul(BLOCK);
        let budget = profile.budget_bytes();
        if used > budget {
            return Err(Error::new(
                ErrorKind::PayloadTooLarge,
                format!("the userdata needs {used} bytes, but {profile} reads only {budget}"),
            ));
        }
        bytes.truncate(usize::try_from(used.saturating_add(END)).unwrap_or(usize::MAX));
        Ok(Payload { bytes, layout: None, key_count: None })
    }

    /// What to write at byte 0 of the guest's disk. An archive with keys ends with two zero blocks,
    /// which may lie beyond what the guest keeps.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The layout of an archive that was built here.
    pub fn layout(&self) -> Option<Layout> {
        self.layout
    }

    /// The number of keys; `None` for a ready archive, whose keys nobody counted.
    pub fn key_count(&self) -> Option<usize> {
        self.key_count
    }

    /// How many bytes at the start of the guest's disk have to become [`bytes`](Self::bytes)
    /// followed by zeros, so that nothing of an older payload is left in what the guest keeps.
    pub fn footprint_bytes(&self, profile: Profile) -> u64 {
        u64_from(self.bytes.len()).max(profile.budget_bytes())
    }
}

fn keys_too_large(profile: Profile, keys: &PublicKeys) -> Error {
    let (found, budget) = (keys.len_bytes(), profile.budget_bytes());
    let need = Layout::ALL.iter().map(|layout| layout.need_bytes(found)).min().unwrap_or(0);
    let limits: Vec<_> = Layout::ALL
        .iter()
        .map(|layout| format!("{layout} {}", layout.key_limit_bytes(budget)))
        .collect();
    Error::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "{found} bytes of public keys need {need} bytes in the smallest layout, but {profile} \
             reads only {budget}: the largest key bytes by layout are {}",
            limits.join(", ")
        ),
    )
}
