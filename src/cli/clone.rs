//! `vmdisk clone`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::hint::{REPLACE, REPLACE_BELOW};
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, CloneMethod, CloneReport, CloneRequest, Format, IfTaken};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Make a second disk that shows the same
///
/// Sharing blocks is best, where the file system can; else the clone is a new qcow2 image above the
/// disk, which must stay as it is from then on; else a copy, holes, snapshots and bitmaps included. The
/// report says which. The clone appears under its name whole and synced, or not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk clone m.qcow2 second.qcow2
  vmdisk clone m.qcow2 second.qcow2 --method copy
      the two have nothing to do with each other from then on")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// The clone
    out: PathBuf,
    /// How it is made [default: reflink where the file system can, else overlay, else copy]
    #[arg(long, value_name = "HOW", value_parser = one_of(CloneMethod::ALL, CloneMethod::name))]
    method: Option<CloneMethod>,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// What to do when the clone's path exists
    #[arg(long, value_name = "WHAT", default_value = "fail",
          value_parser = one_of(IfTaken::ALL, IfTaken::name))]
    if_exists: IfTaken,
    /// Replace what is there even if other images in its folder depend on it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = CloneRequest {
            path: self.path.clone(),
            format: self.format,
            out: self.out.clone(),
            method: self.method,
            if_exists: self.if_exists,
            force: self.force,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::clone(&request, context))?;
        output.outcome(&report, text)
    }

    /// What to do about an error of this verb.
    pub(super) fn hint(&self, error: &Error) -> Option<&'static str> {
        match error.kind() {
            ErrorKind::Exists => Some(REPLACE),
            ErrorKind::HasDependents => Some(REPLACE_BELOW),
            ErrorKind::UnsupportedFeature if self.method.is_some() => {
                Some("leave --method away for the best way that there is")
            }
            _ => None,
        }
    }
}

fn text(report: &CloneReport) -> String {
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let how = match report.method {
        CloneMethod::Reflink => "it shares the blocks of the disk until either changes",
        CloneMethod::Overlay => "a new image above the disk",
        CloneMethod::Copy => "a copy",
    };
    let text = format!(
        "Cloned {} to {}: {how}; {} disk of {}, {} on the host\n",
        report.path,
        report.out,
        report.format,
        size(report.virtual_size_bytes),
        size(report.allocated_bytes)
    );
    text + &notes(&report.notes)
}
