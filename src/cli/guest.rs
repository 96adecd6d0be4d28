//! `vmdisk guest`.

use std::path::PathBuf;

use super::flags::TrustFlags;
use super::names::one_of;
use super::output::{IN_USE, Output};
use crate::error::Result;
use crate::ops::{self, FilesystemReport, Format, InsideReport, InsideRequest, PartitionReport};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell what is inside of a disk: payload, partitions, filesystems
///
/// Says of each how large it is, how much is free, and how far resize would grow it. Works while a
/// machine runs, and writes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk guest m.qcow2")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    trust: TrustFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = InsideRequest { path: self.path.clone(), format: self.format };
        let report = self.trust.looking(cancel, |context| ops::guest(&request, context))?;
        output.report(&report, |report| text(report) + &notes(output, report))
    }
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

fn text(report: &InsideReport) -> String {
    let what = match report.contents.as_str() {
        "payload" => "a payload: its guest is going to format it",
        "empty" => "nothing",
        "unknown" => "data of an unknown kind",
        "mbr" => "partitions (MBR)",
        "gpt" => "partitions (GPT)",
        other => other,
    };
    let mut text = format!("{} ({}): {what}\n", report.path, size(report.virtual_size_bytes));
    if let Some(found) = &report.filesystem {
        text.push_str(&format!("  {}\n", filesystem(found)));
    }
    for found in report.partition_table.iter().flat_map(|table| &table.partitions) {
        text.push_str(&partition(found));
    }
    if let Some(refusal) = &report.refusal {
        text.push_str(&format!("  would not grow: {}\n", refusal.message));
    }
    if let Some(journal) = &report.journal {
        let reason = journal.reason.as_ref().map(|reason| format!(": {reason}"));
        let (path, state) = (&journal.path, journal.state);
        let reason = reason.unwrap_or_default();
        text.push_str(&format!("  interrupted: journal {path} ({state}{reason})\n"));
    }
    text
}

fn notes(output: Output, report: &InsideReport) -> String {
    let in_use = report.in_use.then(|| output.notes(&[IN_USE.to_owned()]));
    in_use.unwrap_or_default() + &output.notes(&report.notes)
}

fn partition(report: &PartitionReport) -> String {
    let (number, kind) = (report.number, &report.kind);
    let mut text = format!("  partition {number}  {}  {kind}", size(report.size_bytes));
    if let Some(name) = &report.name {
        text.push_str(&format!("  '{name}'"));
    }
    text.push_str(&grows(Some(report.size_bytes), report.would_grow_to_bytes));
    match &report.filesystem {
        Some(found) => text.push_str(&format!("\n    {}\n", filesystem(found))),
        None => text.push_str(&format!("\n    {}\n", report.contents)),
    }
    text
}

fn filesystem(report: &FilesystemReport) -> String {
    let mut text = report.kind.clone();
    if let Some(label) = &report.label {
        text.push_str(&format!(" '{label}'"));
    }
    if let (Some(all), Some(used), Some(free)) =
        (report.size_bytes, report.used_bytes, report.free_bytes)
    {
        text.push_str(&format!("  {}, {} used, {} free", size(all), size(used), size(free)));
    }
    match report.clean {
        Some(true) => text.push_str(", clean"),
        Some(false) => text.push_str(", not clean"),
        None => {}
    }
    text + &grows(report.size_bytes, report.would_grow_to_bytes)
}

/// By how much, where both sizes look the same.
fn grows(from: Option<u64>, to: Option<u64>) -> String {
    match (from, to) {
        (_, None) => String::new(),
        (Some(from), Some(to)) if size(from) == size(to) => {
            format!(", would grow by {}", size(to.saturating_sub(from)))
        }
        (_, Some(to)) => format!(", would grow to {}", size(to)),
    }
}
