//! `vmdisk check`.

use std::path::PathBuf;

use super::colour::{BAD, Colours, DOUBTFUL, GOOD};
use super::exit::Exit;
use super::flags::LockedFlags;
use super::names::one_of;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{
    self, BrokenRuleReport, CheckReport, CheckRequest, CheckVerdict, FindingSeverity, Format,
    Reader, ReaderEffect, ReaderReport, Repair, RepairReport, UndoRepairRequest,
};
use crate::task::Cancel;
use crate::units::{ByteSize, counted, exactly};

/// So many findings are printed; `--json` has more.
const SHOWN: usize = 20;

/// Check an image, and repair it
///
/// Looks at the image's metadata, not at what the guest wrote. Changes nothing unless --repair is
/// given; what that changes is saved beside the image first, and --undo puts it back.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 clean, 2 corrupt, or what --for names does not take it as it is, 3 \
                        leaks only, 1 could not check, 63 the format or a feature of the image is \
                        not supported, 64 not understood, 75 in use.

Examples:
  vmdisk check m.qcow2
  vmdisk check m.qcow2 --repair all --dry-run
      tells what a repair would do
  vmdisk check m.qcow2 --repair all --save-to undo.json
  vmdisk check m.qcow2 --undo undo.json
      takes the repair back
  vmdisk check m.qcow2 --for hyperkit"
)]
pub(super) struct Args {
    /// The disk
    #[arg(required_unless_present = "undo")]
    path: Option<PathBuf>,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Repair: leaks lowers counts of clusters that are used less often, all mends everything that can be
    /// mended
    #[arg(long, short, value_name = "WHAT", value_parser = one_of(Repair::ALL, Repair::name))]
    repair: Option<Repair>,
    /// List also what this program refuses, reads otherwise or destroys; --repair all then marks
    /// what it needs marked
    #[arg(long = "for", value_name = "READER", value_parser = one_of(Reader::ALL, Reader::name))]
    reader: Option<Reader>,
    /// Tell only what a repair would do
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Save what is needed to take the repair back in this new file, not beside the disk
    #[arg(long, value_name = "FILE", requires = "repair", conflicts_with = "dry_run")]
    save_to: Option<PathBuf>,
    /// Take a repair back, from the file that it left beside the image
    #[arg(long, value_name = "FILE", conflicts_with_all = ["repair", "format", "reader"])]
    undo: Option<PathBuf>,
    #[command(flatten)]
    flags: LockedFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<Exit> {
        let Some(path) = self.path.clone().filter(|_| self.undo.is_none()) else {
            return self.undo(output, cancel);
        };
        let (format, repair, dry_run) = (self.format, self.repair, self.dry_run);
        let (save_to, reader) = (self.save_to.clone(), self.reader);
        let request = CheckRequest { path, format, repair, dry_run, save_to, reader };
        let report = self.flags.locked(output, cancel, |context| ops::check(&request, context))?;
        let unfit = report.reader.as_ref().is_some_and(|reader| !reader.broken.is_empty());
        let exit = match report.verdict {
            CheckVerdict::Corrupt => Exit::Corrupt,
            CheckVerdict::Clean | CheckVerdict::Leaks if unfit => Exit::Corrupt,
            CheckVerdict::Clean => Exit::Done,
            CheckVerdict::Leaks => Exit::Leaks,
        };
        let text = |report: &CheckReport| text(report, output.colours());
        match exit {
            Exit::Done if !dry_run && !loses(&report) => output.outcome(&report, text),
            _ => output.report(&report, text),
        }
        .map(|()| exit)
    }
}

impl Args {
    fn undo(&self, output: Output, cancel: &Cancel) -> Result<Exit> {
        let undo_file = self.undo.clone().unwrap_or_default();
        let request = UndoRepairRequest { undo_file, path: self.path.clone() };
        let report =
            self.flags.locked(output, cancel, |context| ops::undo_repair(&request, context))?;
        output.outcome(&report, |report| match report.changed {
            true => format!("{} is as it was before the repair\n", report.path),
            false => format!("{} was as before the repair already\n", report.path),
        })?;
        Ok(Exit::Done)
    }
}

/// Whether a repair cost anything.
fn loses(report: &CheckReport) -> bool {
    let repair = report.repair.as_ref();
    repair.is_some_and(|repair| !repair.lost.is_empty() || repair.lost_left_out > 0)
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Corrupt => Some("vmdisk salvage reads what is left into a new disk"),
        _ => None,
    }
}

/// What to type next, if anything.
fn advice(report: &CheckReport) -> String {
    let path = quoted(&report.path);
    let mut lines = Vec::new();
    match (&report.repair, report.verdict) {
        (None, CheckVerdict::Corrupt) => lines.push(format!(
            "to see what a repair would do: vmdisk check {path} --repair all --dry-run"
        )),
        (None, CheckVerdict::Leaks) => {
            lines.push(format!("to free them: vmdisk check {path} --repair leaks"));
        }
        (None, CheckVerdict::Clean) if report.marked_corrupt => {
            lines.push(format!("to take the mark away: vmdisk check {path} --repair all"));
        }
        (Some(repair), _) if repair.unmended.iter().any(|left| left.repairable_by.is_none()) => {
            lines.push(format!("to read what is left: vmdisk salvage {path} NEW.raw"));
        }
        _ => {}
    }
    if let Some(reader) = report.reader.as_ref().filter(|reader| !reader.broken.is_empty()) {
        let preset = reader.reader;
        lines.push(format!(
            "to have one that it takes: vmdisk convert {path} NEW.qcow2 --preset {preset}"
        ));
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

fn text(report: &CheckReport, colours: Colours) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().take(SHOWN) {
        let severity = match finding.severity {
            FindingSeverity::Corruption => colours.paint(BAD, finding.severity),
            FindingSeverity::Leak => colours.paint(DOUBTFUL, finding.severity),
            FindingSeverity::Notice => finding.severity.to_string(),
        };
        text.push_str(&format!("{severity}: {}", finding.message));
        if let Some(guest) = finding.guest_offset_bytes {
            text.push_str(&format!(" (guest byte {guest})"));
        }
        text.push('\n');
    }
    let shown = u64::try_from(report.findings.len().min(SHOWN)).unwrap_or(u64::MAX);
    let all = report.leaks.saturating_add(report.corruptions).saturating_add(report.notices);
    if all > shown {
        text.push_str(&format!("and {} more\n", all - shown));
    }
    let verdict = match report.verdict {
        CheckVerdict::Clean if report.marked_corrupt => {
            format!("{}, but marked corrupt", colours.paint(GOOD, "is sound"))
        }
        CheckVerdict::Clean => colours.paint(GOOD, "is sound"),
        CheckVerdict::Leaks => format!(
            "{}, and wastes {}",
            colours.paint(GOOD, "is sound"),
            counted(report.leaks, "cluster")
        ),
        CheckVerdict::Corrupt => format!(
            "{}: {}, {}",
            colours.paint(BAD, "is CORRUPT"),
            counted(report.corruptions, "fault"),
            counted(report.leaks, "leaked cluster")
        ),
    };
    text.push_str(&format!("{} {verdict}\n", report.path));
    let is_marked = report.marked_corrupt && report.verdict != CheckVerdict::Clean;
    let flags = [(report.dirty, "was not closed"), (is_marked, "is marked corrupt")];
    for (_, flag) in flags.iter().filter(|(set, _)| *set) {
        text.push_str(&format!("  the image {flag}\n"));
    }
    if let Some(repair) = &report.repair {
        text.push_str(&repaired(&report.path, repair));
    }
    if let Some(reader) = &report.reader {
        text.push_str(&judged(reader));
    }
    text.push_str(&format!(
        "  {} of {} clusters allocated, {} compressed; in use up to {}\n",
        report.allocated_clusters,
        report.total_clusters,
        report.compressed_clusters,
        ByteSize::from_bytes(report.image_end_bytes),
    ));
    text + &advice(report)
}

fn judged(report: &ReaderReport) -> String {
    let reader = report.reader;
    if report.broken.is_empty() {
        return format!("  {reader} takes it as it is\n");
    }
    report.broken.iter().map(|broken| format!("  {reader} {}\n", consequence(broken))).collect()
}

fn consequence(broken: &BrokenRuleReport) -> String {
    let does = match broken.effect {
        ReaderEffect::Freezes => "freezes the guest",
        ReaderEffect::Refused => "does not open it",
        ReaderEffect::Miscounts => "miscounts it",
        ReaderEffect::ReadsOtherwise => "reads it otherwise",
        ReaderEffect::Destroys => "DESTROYS it",
    };
    let times = match broken.count {
        1 => String::new(),
        times => format!(", {times} times"),
    };
    let guest = broken.guest_offset_bytes;
    let first = guest.map_or_else(String::new, |guest| format!(", first at guest byte {guest}"));
    format!("{does}: {}{times}{first} ({})", broken.message, broken.rule)
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn repaired(path: &str, report: &RepairReport) -> String {
    let (leaks, corruptions) = (report.leaks_before, report.corruptions_before);
    let mut text = match (&report.undo_file, report.unmended.is_empty()) {
        (Some(_), _) => {
            let faults = counted(corruptions, "fault");
            format!("  repaired: {faults} and {} before\n", counted(leaks, "leaked cluster"))
        }
        (None, false) => "  not repaired:\n".to_owned(),
        (None, true) if report.replaced_bytes == 0 => "  nothing to repair\n".to_owned(),
        (None, true) => format!(
            "  a repair would replace {} of metadata, copy {} and add {}\n",
            ByteSize::from_bytes(report.replaced_bytes),
            counted(report.copied_clusters, "cluster"),
            ByteSize::from_bytes(report.added_bytes),
        ),
    };
    for finding in report.unmended.iter().take(SHOWN) {
        let how = match finding.repairable_by {
            Some(level) => format!("needs --repair {level}"),
            None => "cannot be mended".to_owned(),
        };
        text.push_str(&format!("  {how}: {}\n", finding.message));
    }
    for lost in report.lost.iter().take(SHOWN) {
        let place = match lost.guest_offset_bytes {
            Some(guest) => {
                let end = guest.saturating_add(lost.length_bytes);
                format!(
                    "guest bytes {guest} to {end} ({})",
                    ByteSize::from_bytes(lost.length_bytes)
                )
            }
            None => format!("{} of a snapshot", exactly(lost.length_bytes)),
        };
        let how = if lost.kept { "doubtful, kept" } else { "lost" };
        text.push_str(&format!("  {how}: {place}\n"));
    }
    let shown = u64::try_from(report.lost.len().min(SHOWN)).unwrap_or(u64::MAX);
    let listed = u64::try_from(report.lost.len()).unwrap_or(u64::MAX);
    let all = listed.saturating_add(report.lost_left_out);
    if all > shown {
        let bytes = ByteSize::from_bytes(report.lost_bytes);
        text.push_str(&format!("  and {} more; {bytes} are lost in all\n", all - shown));
    }
    if let Some(undo_file) = &report.undo_file {
        let (path, undo_file) = (quoted(path), quoted(undo_file));
        text.push_str(&format!("  to take it back: vmdisk check {path} --undo {undo_file}\n"));
    }
    text
}
