//! `vmdisk convert`.

use std::path::{Path, PathBuf};

use super::flags::{BackingFlags, ChangeFlags, LayoutFlags};
use super::hint::{REPLACE, REPLACE_BELOW};
use super::names::{bytes, one_of};
use super::output::{Output, notes};
use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Stdin;
use crate::host::Stdout;
use crate::ops::{self, Compression, ConvertReport, ConvertRequest, Format, IfTaken, parse_mode};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Standard input as the disk, or standard output as the new one.
const STREAM: &str = "-";

/// Write what the guest sees of a disk as a new one
///
/// From any disk that can be read, with all that lies below it, to raw or qcow2. Holes and zeros
/// take no room. The new disk appears under its name whole and synced, or not at all; the source is
/// not changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk convert m.qcow2 m.raw
  vmdisk convert m.qcow2 packed.qcow2 --compress zstd --verify
  vmdisk convert m.qcow2 over.qcow2 --backing boot2docker.qcow2 --backing-format qcow2
      only what differs from the base
  vmdisk convert m.qcow2 old.raw --sparse-size 64K --progress json

A - in the place of a path is a raw disk from standard input, or to standard output.")]
#[command(mut_arg("preallocation", |flag| flag.help(
    "What is laid out from the start [default: off]"
)))]
pub(super) struct Args {
    /// The disk; - for a raw disk from standard input
    source: PathBuf,
    /// The new disk; - for a raw disk to standard output
    out: PathBuf,
    /// Format of the new disk [default: what its path's name promises, else qcow2]
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Format of the source, where name and content leave a doubt
    #[arg(long, value_name = "FORMAT", value_parser = one_of(Format::ALL, Format::name))]
    source_format: Option<Format>,
    /// Read what this internal snapshot holds: its id or its name
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Compress the clusters
    #[arg(long, value_name = "HOW", value_parser = one_of(Compression::ALL, Compression::name))]
    compress: Option<Compression>,
    /// How hard: 1 to 9 for zlib, 1 to 22 for zstd [default: 6 and 3]
    #[arg(long, value_name = "LEVEL", requires = "compress")]
    level: Option<u64>,
    /// So many bytes of zeros become a hole: a multiple of 512 up to 1M; 0 looks for none [default:
    /// 4K]
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    sparse_size: Option<ByteSize>,
    /// Read the new disk again and compare it before it appears
    #[arg(long)]
    verify: bool,
    /// What to do when the new disk's path exists
    #[arg(long, value_name = "WHAT", default_value = "fail",
          value_parser = one_of(IfTaken::ALL, IfTaken::name))]
    if_exists: IfTaken,
    /// Replace what is there even if other images in its folder depend on it
    #[arg(long)]
    force: bool,
    /// Permission bits of the new file, in octal [default: 0600]
    #[arg(long, value_parser = parse_mode)]
    mode: Option<u32>,
    /// Owner of the new file: user or user:group, names or numbers
    #[arg(long)]
    owner: Option<String>,
    #[command(flatten)]
    backing: BackingFlags,
    #[command(flatten)]
    layout: LayoutFlags,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = self.request();
        let reads = self.source == Path::new(STREAM);
        if self.out == Path::new(STREAM) {
            return self.to_output(&request, reads, output, cancel);
        }
        let report = self.flags.changing(output, cancel, |context| match reads {
            true => {
                let mut input = Stdin::until_signalled(cancel, || ())?;
                ops::convert_from(&mut input, &request, context)
            }
            false => ops::convert(&request, context),
        })?;
        output.outcome(&report, text)
    }

    fn to_output(
        &self,
        request: &ConvertRequest,
        reads: bool,
        output: Output,
        cancel: &Cancel,
    ) -> Result<()> {
        let refuse = |message| Err(Error::new(ErrorKind::IncompatibleOptions, message));
        if reads {
            return refuse("standard input and standard output at once: use cat");
        }
        if output.is_json() {
            return refuse("--json needs standard output, to which the disk would be written");
        }
        let mut stream = Stdout::new(cancel);
        self.flags
            .changing(output, cancel, |context| ops::convert_to(&mut stream, request, context))
    }

    fn request(&self) -> ConvertRequest {
        ConvertRequest {
            source_format: self.source_format,
            snapshot: self.snapshot.clone(),
            format: self.format,
            layout: self.layout.options(),
            backing: self.backing.options(),
            compress: self.compress,
            level: self.level,
            sparse_size: self.sparse_size,
            verify: self.verify,
            if_exists: self.if_exists,
            force: self.force,
            mode: self.mode,
            owner: self.owner.clone(),
            ..ConvertRequest::new(self.source.clone(), self.out.clone())
        }
    }
}

/// What to do about an error of this verb.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::Exists => Some(REPLACE),
        ErrorKind::HasDependents => Some(REPLACE_BELOW),
        ErrorKind::NotFound | ErrorKind::BadRequest if error.field() == Some("snapshot") => {
            Some(snapshot::LIST)
        }
        ErrorKind::FormatMismatch => Some(
            "if you know what it is, say so: --source-format raw or --source-format qcow2 \
             (--backing-format for a backing file)",
        ),
        _ => None,
    }
}

fn text(report: &ConvertReport) -> String {
    let size = ByteSize::from_bytes(report.virtual_size_bytes);
    let allocated = ByteSize::from_bytes(report.allocated_bytes);
    let mut text = format!(
        "Converted {} to {}: {} disk of {size}, {allocated} on the host\n",
        report.path, report.out, report.format
    );
    if let Some(backing) = &report.backing {
        let size = ByteSize::from_bytes(backing.virtual_size_bytes);
        text.push_str(&format!("  backing file: {} ({}, {size})\n", backing.name, backing.format));
    }
    if report.verified {
        text.push_str("  read again, and the same\n");
    }
    text + &notes(&report.notes)
}
