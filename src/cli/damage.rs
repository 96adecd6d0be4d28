//! `vmdisk damage`: not listed, for developers.

use std::path::PathBuf;

use super::flags::LockedFlags;
use super::names::one_of;
use super::output::Output;
use crate::error::Result;
use crate::ops::{self, Damage, DamageRequest};
use crate::task::Cancel;

/// Damage an image on purpose, to try what is done about it
///
/// What the guest has written may be lost. A seed decides where; the same image, kind and seed make
/// the same damage.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image
    path: PathBuf,
    /// How
    #[arg(long, value_parser = one_of(Damage::ALL, Damage::name))]
    kind: Damage,
    /// Which of the places that can be damaged like this
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    flags: LockedFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let (path, damage, seed) = (self.path.clone(), self.kind, self.seed);
        let request = DamageRequest { path, damage, seed };
        let report = self.flags.locked(output, cancel, |context| ops::damage(&request, context))?;
        output.outcome(&report, |report| match report.offsets_bytes.as_slice() {
            [] => format!("{} has nothing that can be damaged like this\n", report.path),
            offsets => format!("{} is damaged at {offsets:?}\n", report.path),
        })
    }
}
