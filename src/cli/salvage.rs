//! `vmdisk salvage`.

use std::path::PathBuf;

use super::exit::Exit;
use super::flags::ChangeFlags;
use super::hint::{REPLACE, REPLACE_BELOW};
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, Format, IfTaken, SalvageReport, SalvageRequest};
use crate::task::Cancel;
use crate::units::ByteSize;

/// So many losses are printed; `--json` has more.
const SHOWN: usize = 20;

/// Read what can be read of a damaged disk into a new raw disk
///
/// The disk itself is not changed. What cannot be read becomes zeros, and is named; what reads as
/// zeros takes no room. The new disk appears under its name whole and synced, or not at all.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing is lost, 2 something is, 1 could not salvage, 63 the \
                        format or a feature of the image is not supported, 64 not understood, 75 in \
                        use.

Examples:
  vmdisk salvage m.qcow2 rescued.raw
  vmdisk salvage m.qcow2 rescued.raw --json > lost.json
      with a map of what is lost"
)]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// The new raw disk
    out: PathBuf,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// What to do when the new disk's path exists
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
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<Exit> {
        let request = SalvageRequest {
            format: self.format,
            if_exists: self.if_exists,
            force: self.force,
            ..SalvageRequest::new(self.path.clone(), self.out.clone())
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::salvage(&request, context))?;
        match report.lost_bytes {
            0 => output.outcome(&report, text).map(|()| Exit::Done),
            _ => output.report(&report, text).map(|()| Exit::Lost),
        }
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Exists => Some(REPLACE),
        ErrorKind::HasDependents => Some(REPLACE_BELOW),
        ErrorKind::Corrupt => Some("restore it from a copy"),
        _ => None,
    }
}

fn text(report: &SalvageReport) -> String {
    let size = ByteSize::from_bytes(report.virtual_size_bytes);
    let allocated = ByteSize::from_bytes(report.allocated_bytes);
    let mut text = format!(
        "Salvaged {} to {}: raw disk of {size}, {allocated} on the host\n",
        report.path, report.out
    );
    for loss in report.lost.iter().take(SHOWN) {
        let end = loss.guest_offset_bytes.saturating_add(loss.length_bytes);
        let (from, reason) = (loss.guest_offset_bytes, loss.reason);
        let size = ByteSize::from_bytes(loss.length_bytes);
        text.push_str(&format!("  lost: guest bytes {from} to {end} ({size}, {reason})\n"));
    }
    let unlisted = report.lost.len().saturating_sub(SHOWN) as u64;
    let more = unlisted.saturating_add(report.lost_left_out);
    if more > 0 {
        text.push_str(&format!("  and {more} more\n"));
    }
    match report.lost_bytes {
        0 => text.push_str("  nothing is lost\n"),
        lost => {
            let lost_size = ByteSize::from_bytes(lost);
            text.push_str(&format!("  LOST: {lost_size} ({lost} bytes), zeros there now\n"));
        }
    }
    text + &notes(&report.notes)
}
