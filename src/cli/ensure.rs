//! `vmdisk ensure`.

use super::flags::{ChangeFlags, DiskFlags};
use super::hint::FORMATS;
use super::names::one_of;
use super::output::{Output, notes};
use super::{compact, create, resize};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, EnsureReport, EnsureRequest, GuestFs};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Create a disk, or grow it, or leave it as it is
///
/// The one call for every machine start: it can be repeated whenever the machine is off. Of a
/// disk that is there, partition and filesystem grow too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk ensure m.qcow2 --size 40G --ssh-key id.pub
      creates the disk, grows a smaller one to 40 GiB, does nothing to one of 40 GiB")]
pub(super) struct Args {
    #[command(flatten)]
    disk: DiskFlags,
    /// Whether partition and filesystem grow to fill the disk, also those of a backing file in a new
    /// one: where they can (auto), not at all (off), or else fail (require)
    #[arg(long, value_name = "HOW", default_value_t = GuestFs::Auto, help_heading = "Guest",
          value_parser = one_of(GuestFs::ALL, GuestFs::name))]
    guest_fs: GuestFs,
    /// Compact a disk that is there, where so much of what it takes on the host could be given back:
    /// 30%
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Guest")]
    compact_above: Option<u8>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = EnsureRequest {
            guest_fs: self.guest_fs,
            compact_above_percent: self.compact_above,
            ..self.disk.request()
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::ensure(&request, context))?;
        output.outcome(&report, text)
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::WouldShrink => Some("ask for the size that it has, or shrink it with resize"),
        ErrorKind::Exists => Some("ask for what is there, or remove the disk to have a new one"),
        ErrorKind::GuestRefused => Some(resize::GROW_ANYWAY),
        ErrorKind::HasDependents => Some(resize::GROW_ABOVE),
        ErrorKind::FormatMismatch => Some(FORMATS),
        ErrorKind::GuestNotEmpty => Some("pass --overwrite-guest to write over it all the same"),
        _ => None,
    }
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let number = number.filter(|percent| (1..=99).contains(percent));
    number.ok_or_else(|| "a share is 1% to 99%".to_owned())
}

fn text(report: &EnsureReport) -> String {
    let (text, compaction) = match report {
        EnsureReport::Created(report) => {
            let text = create::text(report) + &resize::growth(report.growth.as_ref());
            (text, &report.compaction)
        }
        EnsureReport::Grown(report) => (resize::text(report), &report.compaction),
        EnsureReport::Unchanged(report) => {
            let size = ByteSize::from_bytes(report.virtual_size_bytes);
            let line = format!("{} is a {} disk of {size} already\n", report.path, report.format);
            let growth = resize::growth(report.growth.as_ref());
            (line + &growth + &notes(&report.notes), &report.compaction)
        }
    };
    text + &compaction.as_ref().map(compact::text).unwrap_or_default()
}
