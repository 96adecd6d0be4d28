//! How a call treats files that images name, and locks: the plain-data form of what a
//! [`Context`](super::Context) holds.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::choices::TrustLevel;
use crate::error::{Error, ErrorKind, Result};
use crate::host::LockPolicy;
use crate::image::gate::Trust;

/// What an image may make a call open. A backing file that the caller names is trusted.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrustOptions {
    /// What an image may make us open. Default: `folder`; `named` when `allow` is given.
    pub trust: Option<TrustLevel>,
    /// Folders, and single files, that images may name, beside what `trust` `named` or `none`
    /// allows. Default: none.
    pub allow: Vec<PathBuf>,
}

/// What to do about locks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LockOptions {
    /// Seconds to wait for a disk that is in use. Default: 0.
    #[schemars(range(min = 0.0))]
    pub lock_timeout_seconds: f64,
    /// Whether to go on where the file system offers no locks. Default: `false`.
    pub no_lock: bool,
}

impl TrustOptions {
    /// The policy.
    ///
    /// # Errors
    /// [`ErrorKind::IncompatibleOptions`] for places to allow beside a level that does not look at
    /// them.
    pub fn policy(&self) -> Result<Trust> {
        let level = match self.trust {
            Some(TrustLevel::None) => Trust::none(),
            Some(TrustLevel::Full) => Trust::Full,
            Some(TrustLevel::Folder | TrustLevel::Named) | None => Trust::default(),
        };
        match self.trust {
            Some(level @ (TrustLevel::Folder | TrustLevel::Full)) if !self.allow.is_empty() => {
                let message = format!(
                    "trust {level} has no use for what is allowed beside it: say trust named, or leave it away"
                );
                Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("trust"))
            }
            _ => Ok(self.allow.iter().cloned().fold(level, Trust::and)),
        }
    }
}

impl LockOptions {
    /// The policy.
    ///
    /// # Errors
    /// [`ErrorKind::BadRequest`] for a timeout that is no length of time.
    pub fn policy(&self) -> Result<LockPolicy> {
        let seconds = self.lock_timeout_seconds;
        let timeout = Duration::try_from_secs_f64(seconds).map_err(|_| {
            let message =
                format!("lock timeout {seconds:?} is no number of seconds from 0 to 1.8e19");
            Error::new(ErrorKind::BadRequest, message).in_field("lock_timeout_seconds")
        })?;
        Ok(LockPolicy { timeout, required: !self.no_lock })
    }
}
