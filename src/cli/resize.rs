//! `vmdisk resize`.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::flags::ChangeFlags;
use super::names::{mebibytes, one_of};
use super::output::{Output, notes};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::ops::{
    self, Format, GrowthReport, GuestFs, Preallocation, ResizeReport, ResizeRequest, TargetSize,
};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Grow a disk and what is inside, or shrink it
///
/// The last partition and the ext2, ext3 or ext4 filesystem in it grow with the disk, or to the size
/// that it has already. What is added reads as zeros. A crash leaves the old disk or the new one; of
/// a raw disk, with a journal beside it (DISK.vmdisk-journal), from which the next call finishes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk resize m.qcow2 --size 40G
  vmdisk resize m.qcow2 --size +20G
  vmdisk resize m.qcow2 --size 40G --guest-fs require
      fails, and changes nothing, where partition or filesystem cannot grow
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
    #[arg(long, value_name = "MIB", conflicts_with = "size", value_parser = mebibytes)]
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
    /// Whether partition and filesystem grow too: where they can (auto), not at all (off), or else fail
    /// (require)
    #[arg(long, value_name = "HOW", default_value_t = GuestFs::Auto,
          value_parser = one_of(GuestFs::ALL, GuestFs::name))]
    guest_fs: GuestFs,
    /// Change its size although other images in its folder depend on it
    #[arg(long)]
    force: bool,
    /// Make a damaged GPT at the start of the disk anew from its backup
    #[arg(long)]
    restore_gpt: bool,
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
            guest_fs: self.guest_fs,
            restore_gpt: self.restore_gpt,
            force: self.force,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::resize(&request, context))?;
        output.outcome(&report, text)
    }
}

fn target_size(text: &str) -> Result<TargetSize, Error> {
    match text.strip_prefix('+') {
        Some("") => Err(Error::new(
            ErrorKind::BadSize,
            "'+' is not a size: write how much more, such as +20G",
        )),
        Some(more) => ByteSize::parse_with_unit(more).map(TargetSize::More),
        None => ByteSize::parse_with_unit(text).map(TargetSize::Absolute),
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::WouldShrink => {
            Some("pass --shrink to cut the disk: what its guest has behind the new end is lost")
        }
        ErrorKind::GuestRefused => Some(GROW_ANYWAY),
        ErrorKind::HasDependents if error.case() == Some(Case::ShrinksBelow) => Some(
            "flatten what lies above it first, or pass --force: that shows zeros then instead of what \
             is cut",
        ),
        ErrorKind::HasDependents if error.case() == Some(Case::GrowsBelow) => Some(
            "resize what lies above it: an image there has a size of its own; --force makes this disk \
             alone larger, which shows nowhere above",
        ),
        ErrorKind::HasDependents => Some(GROW_ABOVE),
        ErrorKind::NotFound if error.case() == Some(Case::Absent) => {
            Some("vmdisk create makes a disk, and ensure makes it or grows it")
        }
        _ => None,
    }
}

/// What to do where what is inside has to grow and cannot.
pub(super) const GROW_ANYWAY: &str = "with --guest-fs auto the disk alone grows, and the report has what to type in its guest, where \
     that is known";

/// Where images lie above a disk that has to grow inside.
pub(super) const GROW_ABOVE: &str = "with --guest-fs auto the disk alone grows; what is inside grows \
                                     in the images above it";

/// The report as people read it.
pub(super) fn text(report: &ResizeReport) -> String {
    let old = ByteSize::from_bytes(report.old_virtual_size_bytes);
    let new = ByteSize::from_bytes(report.virtual_size_bytes);
    let mut text = match new.cmp(&old) {
        Ordering::Less => format!("Shrank {}: {old} -> {new}", report.path),
        Ordering::Equal if report.growth.as_ref().is_some_and(GrowthReport::grew) => {
            format!("Filled {}: {new}", report.path)
        }
        Ordering::Equal => format!("{} has {new} already", report.path),
        Ordering::Greater => format!("Grew {}: {old} -> {new}", report.path),
    };
    if let Some(preallocation) = report.preallocation.filter(|_| new != old) {
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
    text + &growth(report.growth.as_ref()) + &notes(&report.notes)
}

/// What became of what is inside, a line each.
pub(super) fn growth(report: Option<&GrowthReport>) -> String {
    let Some(report) = report else { return String::new() };
    let mut lines = Vec::new();
    if let Some(partition) = &report.partition {
        let name = format!("partition {}", partition.number);
        let sizes = (Some(partition.old_size_bytes), Some(partition.size_bytes));
        lines.push(step(&name, sizes, partition.todo.as_deref()));
    }
    if let Some(filesystem) = &report.filesystem {
        let label = filesystem.label.as_ref().map(|label| format!(" '{label}'"));
        let name = format!("{}{}", filesystem.kind, label.unwrap_or_default());
        let sizes = (filesystem.old_size_bytes, filesystem.size_bytes);
        lines.push(step(&name, sizes, filesystem.todo.as_deref()));
    }
    if let Some(refusal) = &report.refusal {
        lines.push(format!("what is inside was left alone: {}", refusal.message));
        if refusal.name == "damaged_primary_gpt" {
            lines.push("vmdisk resize --restore-gpt makes it anew from its backup".to_owned());
        }
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn step(name: &str, sizes: (Option<u64>, Option<u64>), todo: Option<&str>) -> String {
    let sizes = match sizes {
        (Some(old), Some(new)) if old != new => {
            format!(": {} -> {}", ByteSize::from_bytes(old), ByteSize::from_bytes(new))
        }
        (Some(old), _) => format!(": {}", ByteSize::from_bytes(old)),
        (None, _) => String::new(),
    };
    let todo = todo.map(|todo| format!("; in the guest: {todo}"));
    format!("{name}{sizes}{}", todo.unwrap_or_default())
}
