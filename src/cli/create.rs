//! `vmdisk create`.

use super::flags::{ChangeFlags, DiskFlags};
use super::hint::{BACKING_FORMAT, REPLACE_BELOW};
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, CreateReport, CreateRequest, IfExists};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Create a disk
///
/// The disk appears under its name whole and synced, or not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk create --size 20G --ssh-key ~/.ssh/id_ed25519.pub
      a boot2docker disk in ./disk.qcow2 that lets this key in
  vmdisk create --size 20G --backing boot2docker.qcow2
      an overlay: the base stays as it is
  vmdisk create m.raw --size 20G --ssh-key id.pub
      the same disk for hypervisors that take raw files only
  vmdisk create m.qcow2 --size 20G --preset hyperkit --ssh-key id.pub
      readable and growable by hyperkit")]
pub(super) struct Args {
    #[command(flatten)]
    disk: DiskFlags,
    /// What to do when the path exists
    #[arg(long, value_name = "WHAT", default_value = "fail",
          value_parser = one_of(IfExists::ALL, IfExists::name))]
    if_exists: IfExists,
    /// Replace what is there even if other images in its folder depend on it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = CreateRequest {
            if_exists: self.if_exists,
            force: self.force,
            ..self.disk.request().into()
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::create(&request, context))?;
        output.outcome(&report, text)
    }
}

impl Args {
    /// What to do about an error of this verb.
    pub(super) fn hint(&self, error: &Error) -> Option<&'static str> {
        match (error.kind(), self.if_exists) {
            (ErrorKind::Exists, IfExists::Fail) => {
                Some("choose another path, or pass --if-exists keep or --if-exists replace")
            }
            (ErrorKind::Exists, IfExists::Keep) => {
                Some("ask for what is there, or pass --if-exists replace to give it up")
            }
            (ErrorKind::HasDependents, _) => Some(REPLACE_BELOW),
            (ErrorKind::FormatMismatch, _) => Some(BACKING_FORMAT),
            (ErrorKind::GuestNotEmpty, _) => {
                Some("pass --overwrite-guest to write over it all the same")
            }
            _ => None,
        }
    }
}

/// The report as people read it.
pub(super) fn text(report: &CreateReport) -> String {
    let verb = if report.changed { "Created" } else { "Kept" };
    let size = ByteSize::from_bytes(report.virtual_size_bytes);
    let allocated = ByteSize::from_bytes(report.allocated_bytes);
    let mut text = format!(
        "{verb} {}: {} disk of {size}, {allocated} on the host",
        report.path, report.format
    );
    if let Some(preallocation) = report.preallocation {
        text.push_str(&format!(", preallocation {preallocation}"));
    }
    text.push('\n');
    if let Some(backing) = &report.backing {
        let size = ByteSize::from_bytes(backing.virtual_size_bytes);
        text.push_str(&format!("  backing file: {} ({}, {size})\n", backing.name, backing.format));
    }
    if let Some(guest) = &report.guest {
        let keys = match guest.keys {
            None => "a ready archive".to_owned(),
            Some(1) => "1 key".to_owned(),
            Some(count) => format!("{count} keys"),
        };
        let layout = guest.layout.as_ref().map(|layout| format!(", layout {layout}"));
        let layout = layout.unwrap_or_default();
        text.push_str(&format!("  guest: {}, {keys}{layout}\n", guest.profile));
    }
    text + &notes(&report.notes)
}
