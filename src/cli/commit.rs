//! `vmdisk commit`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, CommitReport, CommitRequest, Format, Overlay};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Write what a disk holds into the image below it
///
/// That image becomes larger first where it must. The disk is emptied once everything is on the medium
/// there; at every point before it shows what it showed. Other images above the changed one would
/// show something else, and so would snapshots of the disk: that is refused unless forced. Such images
/// are looked for in its folder alone; chain --dependents FOLDER finds those elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk commit m.qcow2 --into boot2docker.qcow2
  vmdisk commit m.qcow2 --into boot2docker.qcow2 --delete
      m.qcow2 is gone afterwards")]
pub(super) struct Args {
    /// The disk: a qcow2 image above a backing file
    path: PathBuf,
    /// The image that gets its contents, also further down [default: its backing file, if --allow
    /// lets that be written]
    #[arg(long, value_name = "BASE")]
    into: Option<PathBuf>,
    /// Leave the disk as it is, instead of emptying it
    #[arg(long)]
    keep: bool,
    /// Remove the disk, instead of emptying it
    #[arg(long, conflicts_with = "keep")]
    delete: bool,
    /// Let other images above, and snapshots, show something else afterwards
    #[arg(long)]
    force: bool,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = CommitRequest {
            path: self.path.clone(),
            format: self.format,
            into: self.into.clone(),
            overlay: match (self.keep, self.delete) {
                (true, _) => Overlay::Keep,
                (_, true) => Overlay::Delete,
                _ => Overlay::Empty,
            },
            force: self.force,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::commit(&request, context))?;
        output.outcome(&report, text)
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::BackingRefused => Some(
            "name the image that is to be written with --into BASE, or allow its folder with --allow \
             FOLDER: what only an image names is not written to",
        ),
        ErrorKind::HasDependents => Some(
            "commit those first, make them stand alone with flatten, or give them up with --force",
        ),
        ErrorKind::HasSnapshots => {
            Some("delete the snapshots, or let them show something else with --force")
        }
        _ => None,
    }
}

fn text(report: &CommitReport) -> String {
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let mut text = format!(
        "Committed {} into {}: {} of data, {} of zeros\n",
        report.path,
        report.base,
        size(report.data_bytes),
        size(report.zero_bytes)
    );
    let (old, new) = (report.old_base_virtual_size_bytes, report.base_virtual_size_bytes);
    if old != new {
        text.push_str(&format!("  {} grew: {} -> {}\n", report.base, size(old), size(new)));
    }
    text.push_str(&match report.overlay {
        Overlay::Empty => {
            format!("  {} is empty, {} freed\n", report.path, size(report.freed_bytes))
        }
        Overlay::Keep => format!("  {} is as it was\n", report.path),
        Overlay::Delete => format!("  {} is gone\n", report.path),
    });
    text + &notes(&report.notes)
}
