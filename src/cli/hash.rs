//! `vmdisk hash`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::Output;
use super::snapshot;
use crate::error::{Error, Result};
use crate::ops::{self, Format, HashReport, HashRequest};
use crate::task::Cancel;

/// Hash what the guest of a disk sees
///
/// The same contents have the same hash in every format, compressed or not, in one file or in a
/// chain. What is known to be zeros is not read.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The hash is one of this program, and not that of any other over the raw disk; how \
                        it is computed is in the protocol's reference, under `hash`.

Example:
  vmdisk hash m.qcow2"
)]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Hash what this internal snapshot holds: its id or its name
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let (format, snapshot) = (self.format, self.snapshot.clone());
        let request = HashRequest { format, snapshot, ..HashRequest::new(self.path.clone()) };
        let report = self.flags.changing(output, cancel, |context| ops::hash(&request, context))?;
        output.report(&report, text)
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    (error.field() == Some("snapshot")).then_some(snapshot::LIST)
}

fn text(report: &HashReport) -> String {
    format!("{}:{}  {}\n", report.algorithm, report.hash, report.path)
}
