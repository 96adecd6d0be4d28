//! `vmdisk measure`.

use std::path::PathBuf;

use serde::Serialize;

use super::flags::{LayoutFlags, OutputForm, TrustFlags};
use super::hint::SOURCE_FORMAT;
use super::names::{one_of, size};
use super::output::{Output, print};
use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, Format, MeasureReport, MeasureRequest};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell how large a new image's file would be
///
/// For an empty disk of a size, or for the contents of a disk that exists, with everything below it.
/// The figures are those of qemu-img measure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk measure --size 20G
  vmdisk measure m.qcow2 --format raw
  vmdisk measure m.qcow2 --cluster-size 2M --output qemu-json")]
#[command(group(clap::ArgGroup::new("contents").args(["path", "size"]).required(true)))]
#[command(mut_arg("preallocation", |flag| flag.help(
    "What is laid out from the start [default: off]"
)))]
pub(super) struct Args {
    /// The disk whose contents the new image would have
    path: Option<PathBuf>,
    /// The format of that disk, where name and content leave a doubt
    #[arg(long, value_name = "FORMAT", conflicts_with = "size",
          value_parser = one_of(Format::ALL, Format::name))]
    source_format: Option<Format>,
    /// What an internal snapshot of it holds: its id or its name
    #[arg(long, value_name = "NAME", conflicts_with = "size")]
    snapshot: Option<String>,
    /// Size of an empty disk, with its unit
    #[arg(long, short, value_parser = size, allow_hyphen_values = true)]
    size: Option<ByteSize>,
    /// Format of the new image [default: qcow2]
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Print what qemu-img measure --output=json prints
    #[arg(long, value_name = "FORM", value_enum, conflicts_with = "json")]
    output: Option<OutputForm>,
    #[command(flatten)]
    layout: LayoutFlags,
    #[command(flatten)]
    trust: TrustFlags,
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::FormatMismatch => Some(SOURCE_FORMAT),
        ErrorKind::NotFound | ErrorKind::BadRequest if error.field() == Some("snapshot") => {
            Some(snapshot::LIST)
        }
        _ => None,
    }
}

/// The figures under the names that they have there.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct QemuReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmaps: Option<u64>,
    required: u64,
    fully_allocated: u64,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = MeasureRequest {
            path: self.path.clone(),
            source_format: self.source_format,
            snapshot: self.snapshot.clone(),
            size: self.size,
            format: self.format,
            layout: self.layout.options(),
        };
        let report = self.trust.looking(cancel, |context| ops::measure(&request, context))?;
        if self.output == Some(OutputForm::QemuJson) {
            let figures = QemuReport {
                bitmaps: report.bitmaps_bytes,
                required: report.required_bytes,
                fully_allocated: report.fully_allocated_bytes,
            };
            // OK to default: three numbers.
            return print(&serde_json::to_string_pretty(&figures).unwrap_or_default());
        }
        output.report(&report, text)
    }
}

fn text(report: &MeasureReport) -> String {
    let line = |name: &str, bytes: u64| {
        format!("{name}: {bytes} bytes ({})\n", ByteSize::from_bytes(bytes))
    };
    let mut text = line("required size", report.required_bytes);
    text.push_str(&line("fully allocated size", report.fully_allocated_bytes));
    if let Some(bitmaps) = report.bitmaps_bytes {
        text.push_str(&line("bitmaps size", bitmaps));
    }
    text
}
