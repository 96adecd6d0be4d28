//! `vmdisk ensure`.

use super::flags::{DiskFlags, GlobalFlags};
use super::output::Output;
use super::progress::TerminalProgress;
use super::{create, resize};
use crate::error::Result;
use crate::ops::{self, EnsureReport, IfExists};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Create a disk, or grow it, or leave it as it is
///
/// The one call for every machine start: it can be repeated at any time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk ensure m.qcow2 --size 40G --ssh-key id.pub
      creates the disk, grows a smaller one to 40 GiB, does nothing to one of 40 GiB")]
pub(super) struct Args {
    #[command(flatten)]
    disk: DiskFlags,
}

impl Args {
    pub(super) fn run(&self, global: &GlobalFlags, cancel: &Cancel) -> Result<()> {
        let progress = TerminalProgress::new();
        let request = self.disk.request(IfExists::Fail);
        let report =
            global.with_context(&progress, cancel, |context| ops::ensure(&request, context))?;
        drop(progress);
        Output::new(global.json).report(&report, text)
    }
}

fn text(report: &EnsureReport) -> String {
    match report {
        EnsureReport::Created(report) => create::text(report),
        EnsureReport::Grown(report) => resize::text(report),
        EnsureReport::Unchanged(report) => {
            let size = ByteSize::from_bytes(report.virtual_size_bytes);
            format!("{} is a {} disk of {size} already", report.path, report.format)
        }
    }
}
