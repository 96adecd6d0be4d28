//! `vmdisk rebase`.

use std::path::PathBuf;

use super::flags::{ChangeFlags, backing_options};
use super::hint::FORMATS;
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, BackingStore, Format, RebaseReport, RebaseRequest};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Put a disk above another backing file, or above none
///
/// The disk reads the same afterwards: what differs in the new backing file is copied into it first,
/// and only then the name changes. A crash at any moment leaves a disk that reads the same.
/// After files were moved, --unsafe changes the name alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk rebase m.qcow2 --backing boot2docker.qcow2
  vmdisk rebase m.qcow2 --no-backing
      the disk stands alone then
  vmdisk rebase m.qcow2 --unsafe --backing boot2docker.qcow2
      the backing file was moved there; what is in it is not looked at")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// The image that it is laid over
    #[arg(long, short, value_name = "FILE", required_unless_present = "no_backing")]
    backing: Option<PathBuf>,
    /// Its format [default: probed for qcow2, never guessed raw; with --unsafe what is recorded]
    #[arg(long, value_name = "FORMAT", requires = "backing",
          value_parser = one_of(Format::ALL, Format::name))]
    backing_format: Option<Format>,
    /// How its name is stored [default: relative if at most one folder up, else absolute]
    #[arg(long, value_name = "HOW", requires = "backing",
          value_parser = one_of(BackingStore::ALL, BackingStore::name))]
    backing_store: Option<BackingStore>,
    /// Lay it over nothing: everything becomes its own
    #[arg(long, conflicts_with = "backing")]
    no_backing: bool,
    /// Change the name alone: the disk reads what the new backing file has
    #[arg(long = "unsafe")]
    name_alone: bool,
    /// With --unsafe: although images in its folder lie above it, and show what it reads
    #[arg(long, requires = "name_alone")]
    force: bool,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = RebaseRequest {
            path: self.path.clone(),
            format: self.format,
            backing: backing_options(
                self.backing.as_deref(),
                self.backing_format,
                self.backing_store,
            ),
            no_backing: self.no_backing,
            name_alone: self.name_alone,
            force: self.force,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::rebase(&request, context))?;
        output.outcome(&report, text)
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::FormatMismatch => Some(FORMATS),
        ErrorKind::HasSnapshots => Some(
            "delete the snapshots first; or, where the new backing file reads the same as the old \
             one, pass --unsafe to change the name alone",
        ),
        ErrorKind::HasDependents => Some(
            "without --unsafe the disk reads the same, and so do those above it; with --force they \
             show what the new backing file has",
        ),
        _ => None,
    }
}

fn text(report: &RebaseReport) -> String {
    let nothing = || "nothing".to_owned();
    let new = report.backing.as_ref().map_or_else(nothing, |backing| backing.name.clone());
    let old = report.old_backing_file.clone().unwrap_or_else(nothing);
    let mut text = match report.changed {
        true => format!("Rebased {}: above {old} -> above {new}", report.path),
        false => format!("{} lies above {new} already", report.path),
    };
    for (bytes, what) in [(report.copied_bytes, "copied"), (report.zeroed_bytes, "set to zeros")] {
        if bytes > 0 {
            text.push_str(&format!(", {} {what}", ByteSize::from_bytes(bytes)));
        }
    }
    text.push('\n');
    if report.refcounts_rebuilt {
        text.push_str("  the image was dirty: its reference counts were rebuilt first\n");
    }
    text + &notes(&report.notes)
}
