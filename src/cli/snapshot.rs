//! `vmdisk snapshot list|show|create|apply|delete`.

use std::path::PathBuf;

use super::flags::{LockedFlags, asking};
use super::names::one_of;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{
    self, Format, SnapshotApplyRequest, SnapshotChangeReport, SnapshotCreateRequest,
    SnapshotListReport, SnapshotListRequest, SnapshotReport, SnapshotRequest, SnapshotShowReport,
};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Where a snapshot is not the one that was meant.
pub(super) const LIST: &str = "vmdisk snapshot list has the id of each";

/// Keep what a disk holds, go back to it, or tell what is kept
///
/// A snapshot lies inside of the image and shares what has not changed since with the disk. QEMU's
/// own tools read and apply it, and vmdisk those that QEMU made. Each of these leaves, whenever the
/// power goes, the image as it was or as it is meant to be.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:
  vmdisk snapshot create m.qcow2 before-upgrade
  vmdisk snapshot list m.qcow2
  vmdisk snapshot apply m.qcow2 before-upgrade
      the disk is as it was then
  vmdisk snapshot delete m.qcow2 before-upgrade"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(ListArgs),
    Show(ShowArgs),
    Create(CreateArgs),
    Apply(ApplyArgs),
    Delete(DeleteArgs),
}

/// Tell which snapshots there are
///
/// Takes no lock, so it works while a machine runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk snapshot list m.qcow2
  vmdisk snapshot list m.qcow2 --json")]
struct ListArgs {
    #[command(flatten)]
    disk: DiskArgs,
}

/// Tell all that is known of a snapshot
///
/// Also how much of the image it alone holds on to. Takes no lock, so it works while a machine runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk snapshot show m.qcow2 before-upgrade")]
struct ShowArgs {
    #[command(flatten)]
    disk: DiskArgs,
    /// Its id or its name
    snapshot: String,
}

/// Keep what the disk holds now under a name
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk snapshot create m.qcow2 before-upgrade")]
struct CreateArgs {
    #[command(flatten)]
    disk: DiskArgs,
    /// Its name: no other snapshot's name or id
    name: String,
    #[command(flatten)]
    flags: LockedFlags,
}

/// Make the disk what it was when a snapshot was taken
///
/// What it holds now is lost, unless another snapshot has it. The snapshot stays. The state of a
/// running machine that QEMU saved with a snapshot is never put back: it stays with the snapshot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk snapshot apply m.qcow2 before-upgrade")]
struct ApplyArgs {
    #[command(flatten)]
    disk: DiskArgs,
    /// Its id or its name
    snapshot: String,
    /// Take the disk alone of a snapshot that has a running machine's state too: its guest finds its
    /// disk as after a power cut
    #[arg(long)]
    disk_only: bool,
    /// Do it although other images have this one as their backing file, and will show something else
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: LockedFlags,
}

/// Delete a snapshot; the disk stays as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk snapshot delete m.qcow2 before-upgrade")]
struct DeleteArgs {
    #[command(flatten)]
    disk: DiskArgs,
    /// Its id or its name
    snapshot: String,
    #[command(flatten)]
    flags: LockedFlags,
}

#[derive(Debug, clap::Args)]
struct DiskArgs {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        match &self.action {
            Action::List(args) => args.run(output, cancel),
            Action::Show(args) => args.run(output, cancel),
            Action::Create(args) => args.run(output, cancel),
            Action::Apply(args) => args.run(output, cancel),
            Action::Delete(args) => args.run(output, cancel),
        }
    }

    /// What to do about an error of this verb.
    pub(super) fn hint(&self, error: &Error) -> Option<&'static str> {
        match (error.kind(), error.field()) {
            (ErrorKind::Exists, _) => Some("choose another name, or delete that snapshot first"),
            (ErrorKind::NotFound | ErrorKind::BadRequest, Some("snapshot")) => Some(LIST),
            (ErrorKind::HasDependents, _) => {
                Some("pass --force if the images above it may show something else afterwards")
            }
            (ErrorKind::UnsupportedFeature, Some("disk_only")) => {
                Some("pass --disk-only to have the disk as after a power cut at that moment")
            }
            _ => None,
        }
    }
}

impl ListArgs {
    fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let DiskArgs { path, format } = &self.disk;
        let request = SnapshotListRequest { path: path.clone(), format: *format };
        let report = asking(cancel, |context| ops::snapshot_list(&request, context))?;
        output.report(&report, list)
    }
}

impl ShowArgs {
    fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = self.disk.request(&self.snapshot);
        let report = asking(cancel, |context| ops::snapshot_show(&request, context))?;
        output.report(&report, |report| show(report) + &output.notes(&report.notes))
    }
}

impl CreateArgs {
    fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let (path, name) = (self.disk.path.clone(), self.name.clone());
        let request = SnapshotCreateRequest { path, name, format: self.disk.format };
        let create = |context: ops::Context<'_>| ops::snapshot_create(&request, context);
        output
            .outcome(&self.flags.locked(output, cancel, create)?, |report| changed("Kept", report))
    }
}

impl ApplyArgs {
    fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = SnapshotApplyRequest {
            path: self.disk.path.clone(),
            snapshot: self.snapshot.clone(),
            format: self.disk.format,
            disk_only: self.disk_only,
            force: self.force,
        };
        let apply = |context: ops::Context<'_>| ops::snapshot_apply(&request, context);
        output.outcome(&self.flags.locked(output, cancel, apply)?, |report| {
            changed("Applied", report)
        })
    }
}

impl DeleteArgs {
    fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = self.disk.request(&self.snapshot);
        let delete = |context: ops::Context<'_>| ops::snapshot_delete(&request, context);
        output.outcome(&self.flags.locked(output, cancel, delete)?, |report| {
            changed("Deleted", report)
        })
    }
}

impl DiskArgs {
    fn request(&self, snapshot: &str) -> SnapshotRequest {
        let (path, snapshot) = (self.path.clone(), snapshot.to_owned());
        SnapshotRequest { path, snapshot, format: self.format }
    }
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

fn list(report: &SnapshotListReport) -> String {
    if report.snapshots.is_empty() {
        return format!("{} has no snapshots\n", report.path);
    }
    let rows = report.snapshots.iter().map(|snapshot| {
        let disk = snapshot.virtual_size_bytes.map_or_else(|| "-".to_owned(), size);
        let state = match snapshot.vm_state_bytes {
            0 => "-".to_owned(),
            bytes => size(bytes),
        };
        [snapshot.id.clone(), snapshot.name.clone(), date(snapshot), disk, state]
    });
    let head = ["id", "name", "taken (UTC)", "disk", "machine state"].map(str::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| {
        let widths = rows.iter().filter_map(|row| Some(row.get(column)?.chars().count()));
        widths.max().unwrap_or_default()
    };
    let line = |row: &[String; 5]| {
        let cells = row.iter().enumerate().map(|(n, cell)| format!("{cell:<0$}", width(n)));
        let cells: Vec<_> = cells.collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn show(report: &SnapshotShowReport) -> String {
    let snapshot = &report.snapshot;
    let bytes = |bytes: u64| format!("{} ({bytes} bytes)", size(bytes));
    let mut rows = vec![
        ("id", snapshot.id.clone()),
        ("name", snapshot.name.clone()),
        ("taken", format!("{} UTC", date(snapshot))),
    ];
    rows.extend(snapshot.virtual_size_bytes.map(|size| ("virtual size", bytes(size))));
    if snapshot.vm_state_bytes > 0 {
        rows.push(("machine state", bytes(snapshot.vm_state_bytes)));
    }
    if snapshot.vm_clock_nanoseconds > 0 {
        let milliseconds = snapshot.vm_clock_nanoseconds / 1_000_000;
        let clock = format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000);
        rows.push(("machine ran for", clock));
    }
    rows.extend(snapshot.instructions.map(|count| ("instructions", count.to_string())));
    rows.extend(report.exclusive_bytes.map(|held| ("held by it alone", bytes(held))));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let rows = rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n"));
    rows.collect()
}

fn changed(what: &str, report: &SnapshotChangeReport) -> String {
    let SnapshotReport { id, name, .. } = &report.snapshot;
    let mut text = format!("{what} snapshot '{name}' (id {id}) of {}", report.path);
    let (old, new) = (report.old_virtual_size_bytes, report.virtual_size_bytes);
    if old != new {
        text.push_str(&format!(", {} -> {}", size(old), size(new)));
    }
    if report.freed_bytes > 0 {
        text.push_str(&format!(", {} freed", size(report.freed_bytes)));
    }
    text.push('\n');
    if report.refcounts_rebuilt {
        text.push_str("  the image was dirty: its reference counts were rebuilt first\n");
    }
    text
}

/// The date of a snapshot, to the second, as the calendar has it in UTC.
fn date(snapshot: &SnapshotReport) -> String {
    let (days, second) = (snapshot.date_seconds / 86_400, snapshot.date_seconds % 86_400);
    let (year, month, day) = calendar(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of so many days after the first of January 1970. Years are taken to begin
/// in March, so that a leap day is the last of its year.
fn calendar(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_782, (2024, 2, 29)),
            (20_787, (2026, 11, 30)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (49_710, (2106, 2, 7)),
        ] {
            assert_eq!(calendar(days), date, "{days}");
        }
    }
}
