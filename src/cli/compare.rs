//! `vmdisk compare`.

use std::path::PathBuf;

use super::exit::Exit;
use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::Output;
use crate::error::Result;
use crate::ops::{self, CompareReport, CompareRequest, Difference, Format};
use crate::task::Cancel;
use crate::units::exactly;

/// Compare what the guests of two disks see
///
/// Whatever their formats are. What one disk has behind the end of the other must be zeros.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes, as qemu-img compare: 0 the same, 1 they differ, 2 they could not \
                        be compared; 64 not understood, 75 in use.

Example:
  vmdisk compare m.qcow2 m.raw"
)]
pub(super) struct Args {
    /// One disk
    path: PathBuf,
    /// The other
    other: PathBuf,
    /// Format of the one, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Format of the other, where name and content leave a doubt
    #[arg(long, short = 'F', value_name = "FORMAT",
          value_parser = one_of(Format::ALL, Format::name))]
    other_format: Option<Format>,
    /// Compare what this internal snapshot of the one holds: its id or its name
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Compare what this internal snapshot of the other holds
    #[arg(long, value_name = "NAME")]
    other_snapshot: Option<String>,
    /// Their sizes must be the same too, and where they have zeros as such
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<Exit> {
        let request = CompareRequest {
            format: self.format,
            snapshot: self.snapshot.clone(),
            other_format: self.other_format,
            other_snapshot: self.other_snapshot.clone(),
            strict: self.strict,
            ..CompareRequest::new(self.path.clone(), self.other.clone())
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::compare(&request, context))?;
        match report.identical {
            true => output.outcome(&report, text).map(|()| Exit::Done),
            false => output.report(&report, text).map(|()| Exit::Different),
        }
    }
}

fn text(report: &CompareReport) -> String {
    let (ours, theirs) = (report.virtual_size_bytes, report.other.virtual_size_bytes);
    let at = report.guest_offset_bytes.unwrap_or_default();
    let mut text = match report.difference {
        None => "The disks are identical\n".to_owned(),
        Some(Difference::Content) => format!("The disks differ, first in the byte at {at}\n"),
        Some(Difference::Size) => "The disks differ in size\n".to_owned(),
        Some(Difference::Allocation) => {
            format!("The disks differ in what is allocated, first at {at}\n")
        }
    };
    if ours != theirs {
        let (path, other) = (&report.path, &report.other.path);
        let [ours, theirs] = [ours, theirs].map(exactly);
        text.push_str(&format!("  sizes: {path} has {ours}, {other} has {theirs}\n"));
    }
    text
}
