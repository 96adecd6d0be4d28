//! `vmdisk bitmap`.

use std::path::PathBuf;

use super::flags::{ChangeFlags, asking};
use super::names::{bytes, one_of};
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{
    self, BitmapAddRequest, BitmapChangeReport, BitmapListReport, BitmapListRequest,
    BitmapMergeRequest, BitmapRemoveRequest, BitmapReport, BitmapRequest, Format,
};
use crate::task::Cancel;
use crate::units::ByteSize;

/// List and change persistent dirty bitmaps
///
/// A bitmap says which parts of the disk were written since it was added or cleared: incremental
/// backups are made from it. QEMU keeps enabled ones up to date; what vmdisk writes to a disk makes
/// its bitmaps worthless, and it says so in the image.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:
  vmdisk bitmap list m.qcow2
  vmdisk bitmap add m.qcow2 backup --granularity 64K
  vmdisk bitmap remove m.qcow2 --all"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    /// Have a bitmap forget what is dirty
    #[command(after_help = "Example:
  vmdisk bitmap clear m.qcow2 backup")]
    Clear(NamedArgs),
    /// Have QEMU keep a bitmap up to date
    #[command(after_help = "Example:
  vmdisk bitmap enable m.qcow2 backup")]
    Enable(NamedArgs),
    /// Have QEMU leave a bitmap as it is
    #[command(after_help = "Example:
  vmdisk bitmap disable m.qcow2 backup")]
    Disable(NamedArgs),
    Merge(MergeArgs),
}

/// List the bitmaps of an image
///
/// Takes no lock, so it works while a machine runs: its bitmaps are in use then.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk bitmap list m.qcow2 --count")]
struct ListArgs {
    /// The disk
    path: PathBuf,
    #[command(flatten)]
    kind: FormatFlag,
    /// Also read the bitmaps, and tell how much each has as dirty
    #[arg(long)]
    count: bool,
}

/// Add a bitmap that has nothing as dirty
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk bitmap add m.qcow2 backup --granularity 64K --disabled")]
struct AddArgs {
    /// The disk
    path: PathBuf,
    #[command(flatten)]
    kind: FormatFlag,
    /// The bitmap's name
    name: String,
    /// Bytes of the disk a bit: a power of two from 512 to 2G [default: a cluster, 4K to 64K]
    #[arg(long, short, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    granularity: Option<ByteSize>,
    /// Have QEMU leave it as it is
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Remove a bitmap, or all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk bitmap remove m.qcow2 backup
  vmdisk bitmap remove m.qcow2 --all
      those also that are not true any more since a program wrote to the disk that keeps none")]
struct RemoveArgs {
    /// The disk
    path: PathBuf,
    #[command(flatten)]
    kind: FormatFlag,
    /// The bitmap's name
    #[arg(required_unless_present = "all")]
    name: Option<String>,
    /// Remove every bitmap
    #[arg(long, conflicts_with = "name")]
    all: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, clap::Args)]
struct NamedArgs {
    /// The disk
    path: PathBuf,
    #[command(flatten)]
    kind: FormatFlag,
    /// The bitmap's name
    name: String,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Have a bitmap take over what others have as dirty
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk bitmap merge m.qcow2 week monday tuesday
  vmdisk bitmap merge base.qcow2 backup backup --source overlay.qcow2")]
struct MergeArgs {
    /// The disk
    path: PathBuf,
    #[command(flatten)]
    kind: FormatFlag,
    /// The name of the bitmap that changes
    name: String,
    /// Those that are merged into it; they stay as they are
    #[arg(required = true)]
    from: Vec<String>,
    /// The image that they are in [default: the same]
    #[arg(long, short, value_name = "FILE")]
    source: Option<PathBuf>,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, clap::Args)]
struct FormatFlag {
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
}

impl NamedArgs {
    fn request(&self) -> BitmapRequest {
        let (path, format) = (self.path.clone(), self.kind.format);
        BitmapRequest { path, format, name: self.name.clone() }
    }
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let report = match &self.action {
            Action::List(args) => {
                let (path, format) = (args.path.clone(), args.kind.format);
                let request = BitmapListRequest { path, format, count: args.count };
                let report = asking(cancel, |context| ops::bitmap_list(&request, context))?;
                return output.report(&report, list);
            }
            Action::Add(args) => {
                let request = BitmapAddRequest {
                    path: args.path.clone(),
                    format: args.kind.format,
                    name: args.name.clone(),
                    granularity: args.granularity,
                    disabled: args.disabled,
                };
                args.flags.changing(output, cancel, |context| ops::bitmap_add(&request, context))
            }
            Action::Remove(args) => {
                let (path, name) = (args.path.clone(), args.name.clone());
                let format = args.kind.format;
                let request = BitmapRemoveRequest { path, format, name, all: args.all };
                args.flags.changing(output, cancel, |context| ops::bitmap_remove(&request, context))
            }
            Action::Clear(args) => args
                .flags
                .changing(output, cancel, |context| ops::bitmap_clear(&args.request(), context)),
            Action::Enable(args) => args
                .flags
                .changing(output, cancel, |context| ops::bitmap_enable(&args.request(), context)),
            Action::Disable(args) => args
                .flags
                .changing(output, cancel, |context| ops::bitmap_disable(&args.request(), context)),
            Action::Merge(args) => {
                let request = BitmapMergeRequest {
                    path: args.path.clone(),
                    format: args.kind.format,
                    name: args.name.clone(),
                    from: args.from.clone(),
                    source: args.source.clone(),
                };
                args.flags.changing(output, cancel, |context| ops::bitmap_merge(&request, context))
            }
        }?;
        output.outcome(&report, changed)
    }
}

/// What to do about an error.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::Exists => "choose another name, or clear the one that is there",
        ErrorKind::NotFound if error.errno().is_none() => {
            "vmdisk bitmap list tells which there are"
        }
        ErrorKind::Dirty if error.offset().is_none() => {
            "remove it with vmdisk bitmap remove, add a new one and begin with a full backup; if a \
             machine is using it, stop that first"
        }
        _ => return None,
    })
}

fn list(report: &BitmapListReport) -> String {
    let mut text = match report.bitmaps.is_empty() {
        true => format!("{}: no bitmaps\n", report.path),
        false => table(&report.bitmaps),
    };
    if report.lost > 0 {
        text.push_str(&format!(
            "  {} were lost when a program that does not keep them wrote to the image\n",
            report.lost
        ));
    }
    text
}

fn changed(report: &BitmapChangeReport) -> String {
    let mut text = match report.changed {
        true => format!("Changed {}", report.path),
        false => format!("{} is as asked already", report.path),
    };
    if report.freed_bytes > 0 {
        text.push_str(&format!(", {} of clusters freed", ByteSize::from_bytes(report.freed_bytes)));
    }
    text.push('\n');
    if report.refcounts_rebuilt {
        text.push_str("  the image was dirty: its reference counts were rebuilt first\n");
    }
    text + &table(&report.bitmaps) + &notes(&report.notes)
}

/// A line each.
fn table(bitmaps: &[BitmapReport]) -> String {
    let width = bitmaps.iter().map(|bitmap| bitmap.name.chars().count()).max().unwrap_or_default();
    let line = |bitmap: &BitmapReport| {
        let granularity = ByteSize::from_bytes(bitmap.granularity_bytes);
        let state = match (bitmap.in_use, bitmap.enabled) {
            (true, _) => "in use, or not saved",
            (false, true) => "enabled",
            (false, false) => "disabled",
        };
        let dirty = bitmap.dirty_bytes.map(ByteSize::from_bytes);
        let dirty = dirty.map_or_else(String::new, |dirty| format!(", {dirty} dirty"));
        format!("  {:<width$}  {granularity} a bit, {state}{dirty}\n", bitmap.name)
    };
    bitmaps.iter().map(line).collect()
}
