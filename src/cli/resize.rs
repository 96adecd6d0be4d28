//! `vmdisk resize`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, Format, Preallocation, ResizeReport, ResizeRequest, TargetSize};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Grow a disk, or shrink it
///
/// What is added reads as zeros. A crash leaves the old disk or the new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk resize m.qcow2 --size 40G
  vmdisk resize m.qcow2 --size +20G
  vmdisk resize m.qcow2 --size 10G --shrink
      what the guest has behind 10 GiB is lost")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its size afterwards, with its unit; +SIZE adds to what it has
    #[arg(long, short, value_parser = target_size, allow_hyphen_values = true,
          required_unless_present = "docker_machine_mb")]
    size: Option<TargetSize>,
    /// The same in MiB, for scripts that carry docker-machine's flag
    #[arg(long, value_name = "MIB", conflicts_with = "size")]
    docker_machine_mb: Option<u64>,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// What is laid out for what is added [default: metadata if the disk's end has it, else off]
    #[arg(long, value_parser = one_of(Preallocation::ALL, Preallocation::name))]
    preallocation: Option<Preallocation>,
    /// Allow the disk to become smaller
    #[arg(long)]
    shrink: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = ResizeRequest {
            path: self.path.clone(),
            size: self.size,
            docker_machine_mb: self.docker_machine_mb,
            format: self.format,
            preallocation: self.preallocation,
            shrink: self.shrink,
        };
        let report = self.flags.changing(cancel, |context| ops::resize(&request, context))?;
        output.report(&report, text)
    }
}

fn target_size(text: &str) -> Result<TargetSize, Error> {
    match text.strip_prefix('+') {
        Some(more) => ByteSize::parse_with_unit(more).map(TargetSize::More),
        None => ByteSize::parse_with_unit(text).map(TargetSize::Absolute),
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    let cuts = "pass --shrink to cut the disk: what its guest has behind the new end is lost";
    (error.kind() == ErrorKind::WouldShrink).then_some(cuts)
}

/// The report as people read it.
pub(super) fn text(report: &ResizeReport) -> String {
    let old = ByteSize::from_bytes(report.old_virtual_size_bytes);
    let new = ByteSize::from_bytes(report.virtual_size_bytes);
    if !report.changed {
        return format!("{} has {new} already\n", report.path) + &notes(&report.notes);
    }
    let verb = if new < old { "Shrank" } else { "Grew" };
    let mut text = format!("{verb} {}: {old} -> {new}", report.path);
    if let Some(preallocation) = report.preallocation {
        let inferred = if report.preallocation_inferred { " (inferred from the disk)" } else { "" };
        text.push_str(&format!(", preallocation {preallocation}{inferred}"));
    }
    if report.freed_bytes > 0 && new < old {
        text.push_str(&format!(", {} of clusters freed", ByteSize::from_bytes(report.freed_bytes)));
    }
    text.push('\n');
    if report.refcounts_rebuilt {
        text.push_str("  the image was dirty: its reference counts were rebuilt first\n");
    }
    text + &notes(&report.notes)
}
