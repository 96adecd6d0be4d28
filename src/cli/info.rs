//! `vmdisk info`.

use std::path::PathBuf;

use super::flags::TrustFlags;
use super::names::one_of;
use super::output::{Output, print_json};
use crate::error::Result;
use crate::ops::{self, Format, InfoReport, InfoRequest, Qcow2Report};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell what a disk is
///
/// Takes no lock, so it works while a machine runs, and opens nothing that the image names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk info m.qcow2
  vmdisk info m.qcow2 --output qemu-json
      for programs that read what qemu-img info --output=json prints
  vmdisk info m.qcow2 --chain --allow /var/lib/images
      also what is below it, as far as it may be opened")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Also tell what is below it
    #[arg(long)]
    chain: bool,
    /// How it is told: as text, or in the very fields of `qemu-img info`, as JSON (with a chain: in a
    /// list)
    #[arg(long, value_name = "HOW", conflicts_with = "json", default_value = "text",
          value_parser = ["text", QEMU_JSON])]
    output: String,
    #[command(flatten)]
    trust: TrustFlags,
}

/// What programs know that parse what `qemu-img` prints.
const QEMU_JSON: &str = "qemu-json";

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let qemu = self.output == QEMU_JSON;
        let request =
            InfoRequest { path: self.path.clone(), format: self.format, chain: self.chain, qemu };
        let report = self.trust.looking(cancel, |context| ops::info(&request, context))?;
        match (qemu, &report.chain) {
            (false, _) => output.report(&report, text),
            (true, None) => print_json(&report.qemu),
            (true, Some(below)) => {
                let all = [&report].into_iter().chain(below).filter_map(|link| link.qemu.as_ref());
                print_json(&all.collect::<Vec<_>>())
            }
        }
    }
}

fn text(report: &InfoReport) -> String {
    let mut rows = Vec::new();
    describe(report, &mut rows);
    for below in report.chain.iter().flatten() {
        rows.push((String::new(), String::new()));
        describe(below, &mut rows);
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let row = |(name, value): &(String, String)| match name.is_empty() {
        true => "\n".to_owned(),
        false => format!("{name:<width$}  {value}\n"),
    };
    rows.iter().map(row).collect()
}

fn describe(report: &InfoReport, rows: &mut Vec<(String, String)>) {
    let size = |bytes| format!("{} ({bytes} bytes)", ByteSize::from_bytes(bytes));
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("path", report.path.clone());
    row("format", report.format.to_string());
    if let Some(doubt) = &report.format_doubt {
        row("doubt", doubt.clone());
    }
    row("virtual size", size(report.virtual_size_bytes));
    row("file size", size(report.file_size_bytes));
    row("on the host", size(report.allocated_bytes));
    if let Some(journal) = &report.journal {
        row("journal", format!("{} ({})", journal.path, journal.state));
        if let Some(reason) = &journal.reason {
            row("why", reason.clone());
        }
    }
    if let Some(qcow2) = &report.qcow2 {
        describe_qcow2(qcow2, &mut row);
    }
}

fn describe_qcow2(report: &Qcow2Report, row: &mut impl FnMut(&str, String)) {
    row("compat", report.compat.to_string());
    row("cluster size", ByteSize::from_bytes(report.cluster_size_bytes).to_string());
    row("refcount bits", report.refcount_bits.to_string());
    row("compression", report.compression_type.to_string());
    let flags = [
        (report.extended_l2, "extended L2"),
        (report.lazy_refcounts, "lazy refcounts"),
        (report.dirty, "dirty"),
        (report.corrupt, "CORRUPT"),
    ];
    let set: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    if !set.is_empty() {
        row("flags", set.join(", "));
    }
    if let Some(method) = &report.encryption {
        row("encryption", method.clone());
    }
    if let Some(name) = &report.backing_file {
        let format = report.backing_format.as_deref().unwrap_or("format not recorded");
        row("backing file", format!("{name} ({format})"));
    }
    if let Some(name) = &report.data_file {
        row("data file", name.clone());
    }
    if report.bitmaps > 0 {
        row("bitmaps", report.bitmaps.to_string());
    }
    for snapshot in &report.snapshots {
        let size = snapshot.virtual_size_bytes.map(ByteSize::from_bytes);
        let size = size.map_or_else(String::new, |size| format!(", {size}"));
        row("snapshot", format!("{} '{}'{size}", snapshot.id, snapshot.name));
    }
}
