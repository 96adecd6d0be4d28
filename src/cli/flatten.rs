//! `vmdisk flatten`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, FlattenReport, FlattenRequest, Format};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Make a disk stand alone, without its backing file
///
/// What shows through from below is copied into the disk, in place; what is zeros takes no room. At
/// every point the disk shows what it showed; stopped half-way, it is still above its backing file,
/// and the same call goes on from there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk flatten m.qcow2")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = FlattenRequest { path: self.path.clone(), format: self.format };
        let report =
            self.flags.changing(output, cancel, |context| ops::flatten(&request, context))?;
        output.outcome(&report, text)
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::HasSnapshots => Some(
            "delete the snapshots first, or flatten an overlay of it: vmdisk clone --method overlay",
        ),
        _ => None,
    }
}

fn text(report: &FlattenReport) -> String {
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let text = match &report.old_backing {
        None => format!("{} stands alone already\n", report.path),
        Some(backing) => format!(
            "Flattened {}: {} copied, {} on the host; {backing} is not needed any more\n",
            report.path,
            size(report.copied_bytes),
            size(report.allocated_bytes)
        ),
    };
    text + &notes(&report.notes)
}
