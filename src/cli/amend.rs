//! `vmdisk amend`.

use std::path::PathBuf;

use super::flags::{ChangeFlags, backing_options, on_off};
use super::hint::FORMATS;
use super::names::{bytes, one_of};
use super::output::{Output, notes};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, AmendReport, AmendRequest, BackingStore, Compat, Compression, Format};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Make a disk another kind of qcow2 image
///
/// The disk reads the same. Most is changed in its place; another cluster size, other L2 entries,
/// and another compression type where clusters are compressed, take a new image, which is written
/// beside the old one and takes its place at once. A crash leaves the old image or the new one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk amend m.qcow2 --compat 0.10
  vmdisk amend m.qcow2 --lazy-refcounts on --refcount-bits 64
  vmdisk amend m.qcow2 --cluster-size 128K --extended-l2 on --dry-run")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Version of qcow2
    #[arg(long, value_parser = one_of(Compat::ALL, Compat::name))]
    compat: Option<Compat>,
    /// Update reference counts late
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    lazy_refcounts: Option<bool>,
    /// Width of reference counts: 1, 2, 4, 8, 16, 32 or 64; 16 in version 0.10
    #[arg(long, value_name = "BITS")]
    refcount_bits: Option<u64>,
    /// How compressed clusters are packed
    #[arg(long, value_parser = one_of(Compression::ALL, Compression::name))]
    compression_type: Option<Compression>,
    /// Cluster size: a power of two from 512 to 2M
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    cluster_size: Option<ByteSize>,
    /// Subclusters: smaller copies on write
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    extended_l2: Option<bool>,
    /// Name this backing file, whatever is in it (rebase copies what differs)
    #[arg(long, short, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Its format [default: what is recorded, else probed for qcow2, never guessed raw]
    #[arg(long, value_name = "FORMAT", requires = "backing",
          value_parser = one_of(Format::ALL, Format::name))]
    backing_format: Option<Format>,
    /// How its name is stored [default: relative if at most one folder up, else absolute]
    #[arg(long, value_name = "HOW", requires = "backing",
          value_parser = one_of(BackingStore::ALL, BackingStore::name))]
    backing_store: Option<BackingStore>,
    /// Name no backing file
    #[arg(long, conflicts_with = "backing")]
    no_backing: bool,
    /// Name another backing file although images in the disk's folder lie above it
    #[arg(long)]
    force: bool,
    /// Whether the external data file is the disk, byte for byte
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    data_file_raw: Option<bool>,
    /// Tell what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The disk's format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = AmendRequest {
            path: self.path.clone(),
            format: self.format,
            compat: self.compat,
            lazy_refcounts: self.lazy_refcounts,
            refcount_bits: self.refcount_bits,
            compression_type: self.compression_type,
            cluster_size: self.cluster_size,
            extended_l2: self.extended_l2,
            backing: backing_options(
                self.backing.as_deref(),
                self.backing_format,
                self.backing_store,
            ),
            no_backing: self.no_backing,
            force: self.force,
            data_file_raw: self.data_file_raw,
            dry_run: self.dry_run,
        };
        let report =
            self.flags.changing(output, cancel, |context| ops::amend(&request, context))?;
        match report.dry_run {
            true => output.report(&report, text),
            false => output.outcome(&report, text),
        }
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::FormatMismatch => Some(FORMATS),
        ErrorKind::HasDependents => Some(
            "put the disk above another file with vmdisk rebase, which reads the same then; with \
             --force those above it show what the new backing file has",
        ),
        ErrorKind::HasSnapshots => Some("delete the snapshots first, or convert what they hold"),
        _ => None,
    }
}

fn text(report: &AmendReport) -> String {
    let what = match (report.amendments.is_empty(), report.dry_run, report.rewritten) {
        (true, ..) => "is like that already",
        (_, true, true) => "would be written anew, and become",
        (_, true, false) => "would become, in its place",
        (_, false, true) => "was written anew, and is now",
        (_, false, false) => "is now",
    };
    let mut text = format!("{} {what}\n", report.path);
    for amendment in &report.amendments {
        let (from, to) = (&amendment.from, &amendment.to);
        let shown = |value: &Option<String>| match value.as_deref() {
            Some(bytes) if amendment.option == "cluster_size" => {
                bytes.parse().map_or(bytes.to_owned(), |n| ByteSize::from_bytes(n).to_string())
            }
            value => value.unwrap_or("none").to_owned(),
        };
        let [from, to] = [from, to].map(shown);
        text.push_str(&format!("  {}: {from} -> {to}\n", amendment.option));
    }
    if report.unsaid_zero_bytes > 0 {
        let zeros = ByteSize::from_bytes(report.unsaid_zero_bytes);
        text.push_str(&format!("  {zeros} of clusters that said zero, which 0.10 cannot\n"));
    }
    if report.refcounts_rebuilt {
        text.push_str("  the image was dirty: its reference counts were rebuilt first\n");
    }
    text + &notes(&report.notes)
}
