//! `vmdisk compact`.

use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::one_of;
use super::output::{Output, notes};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::ops::{self, CompactReport, CompactRequest, Format, GuestFs, ReadZeros};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Give room back to the host that a disk does not need
///
/// In place, with the machine off (neither paused nor saved: what it swapped out goes), and without a second copy: blocks that the guest's ext2, ext3 and
/// ext4 filesystems call free, swap, zeros and leaked clusters are given up; then what lies at the end
/// of the file moves into the free clusters before it, and the file is cut. What the guest has,
/// internal snapshots and bitmaps stay as they are. Stopped at any point, the disk is sound, and the
/// same call goes on from there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk compact m.qcow2
  vmdisk compact m.qcow2 --dry-run
  vmdisk compact m.qcow2 --guest-fs off --read-zeros always
      gives up zeros alone, whatever the guest has on it")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Only tell what would be given back
    #[arg(long)]
    dry_run: bool,
    /// Whether what the guest calls free is given up: where it is known (auto), not at all (off), or
    /// else fail (require)
    #[arg(long, value_name = "HOW", default_value_t = GuestFs::Auto,
          value_parser = one_of(GuestFs::ALL, GuestFs::name))]
    guest_fs: GuestFs,
    /// Whether all data is read to find zeros in it: where there is anything else to give up or no
    /// filesystem says what is free (auto), always or never
    #[arg(long, value_name = "WHEN", default_value_t = ReadZeros::Auto,
          value_parser = one_of(ReadZeros::ALL, ReadZeros::name))]
    read_zeros: ReadZeros,
    /// Give up what the guest calls free although other images in the folder depend on the disk
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = CompactRequest {
            path: self.path.clone(),
            format: self.format,
            guest_fs: self.guest_fs,
            read_zeros: self.read_zeros,
            dry_run: self.dry_run,
            force: self.force,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::compact(&request, context))?;
        match report.dry_run {
            true => output.report(&report, text),
            false => output.outcome(&report, text),
        }
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::GuestRefused if error.case() == Some(Case::UnknownContents) => {
            Some("with --guest-fs auto it gives up what it can")
        }
        ErrorKind::GuestRefused => Some(
            "start the machine and shut it down cleanly; or pass --guest-fs off to give up zeros and \
             leaks alone",
        ),
        ErrorKind::Dirty => Some("without --dry-run, its reference counts are rebuilt first"),
        ErrorKind::HasDependents => Some(
            "pass --guest-fs off to give up zeros and leaks alone, which shows nowhere; --force gives up \
             the rest too, and the images above may show zeros there",
        ),
        _ => None,
    }
}

/// The report as people read it.
pub(super) fn text(report: &CompactReport) -> String {
    let size = |bytes| ByteSize::from_bytes(bytes).to_string();
    let reasons = [
        (report.guest_free_bytes, "that its guest calls free"),
        (report.swap_bytes, "of swap"),
        (report.zero_bytes, "of zeros"),
        (report.leaked_bytes, "leaked"),
    ];
    let reasons = reasons.iter().filter(|(bytes, _)| *bytes > 0);
    let reasons: Vec<_> = reasons.map(|(bytes, what)| format!("{} {what}", size(*bytes))).collect();
    let reasons =
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let text = match (report.dry_run, report.changed) {
        (true, _) if report.reclaimed_bytes == 0 => {
            let taken = size(report.allocated_bytes);
            format!("{} takes {taken} on the host, and nothing of that is given up\n", report.path)
        }
        (true, _) => format!(
            "{} takes {} on the host and could give up {}{reasons}\n",
            report.path,
            size(report.allocated_bytes),
            size(report.reclaimed_bytes)
        ),
        (false, false) => {
            format!("{} needs all of its {} already\n", report.path, size(report.allocated_bytes))
        }
        (false, true) => format!(
            "Compacted {}: {} -> {} on the host{reasons}\n",
            report.path,
            size(report.old_allocated_bytes),
            size(report.allocated_bytes)
        ),
    };
    text + &notes(&report.notes)
}
