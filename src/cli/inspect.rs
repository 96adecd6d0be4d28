//! `vmdisk inspect`.

use std::path::PathBuf;

use super::exit::Exit;
use super::flags::asking;
use super::names::{one_of, size};
use super::output::Output;
use crate::error::Result;
use crate::ops::{self, Format, HeaderReport, InspectReport, InspectRequest, SafetyVerdict};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell what an image file claims, and whether it is safe to use
///
/// Reads the file's beginning alone: takes no lock, follows nothing, opens nothing that the image
/// names. With --untrusted it judges an image that a stranger made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 safe, or not asked, 2 unsafe, 1 could not look, 64 not \
                        understood.

Unsafe is what would have other files opened (a backing file, an external data file), what breaks
the format or claims more than it can have, what is encrypted, marked corrupt or uses features that
programs of this kind do not accept, and what is not of the format that its name says.

Examples:
  vmdisk inspect m.qcow2
  vmdisk inspect m.qcow2 --untrusted --max-size 100G")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// The format that it is said to have [default: what its name promises]
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Judge it as an image that a stranger made
    #[arg(long)]
    untrusted: bool,
    /// The largest size of the guest's disk that is safe
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "untrusted")]
    max_size: Option<ByteSize>,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<Exit> {
        let request = InspectRequest {
            format: self.format,
            untrusted: self.untrusted,
            max_size: self.max_size,
            ..InspectRequest::new(self.path.clone())
        };
        let report = asking(cancel, |context| ops::inspect(&request, context))?;
        output.report(&report, text)?;
        Ok(match report.verdict {
            Some(SafetyVerdict::Unsafe) => Exit::Unsafe,
            Some(SafetyVerdict::Safe) | None => Exit::Done,
        })
    }
}

fn text(report: &InspectReport) -> String {
    let size = ByteSize::from_bytes(report.file_size_bytes);
    let mut text = format!("{}: {}, file of {size}\n", report.path, report.content);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name}: {value}\n"));
    if let Some(doubt) = &report.format_doubt {
        line("doubt", doubt);
    }
    if let Some(header) = &report.header {
        header_lines(header, &mut line);
    }
    if let Some(problem) = &report.header_problem {
        line("MALFORMED", problem);
    }
    for reason in report.reasons.iter().flatten() {
        line(reason.rule.name(), &reason.message);
    }
    if let Some(verdict) = report.verdict {
        text.push_str(&format!("{verdict}\n"));
    }
    text
}

fn header_lines(header: &HeaderReport, line: &mut impl FnMut(&str, &str)) {
    let size = ByteSize::from_bytes(header.virtual_size_bytes);
    line("version", &header.version.to_string());
    line("virtual size", &format!("{size} ({} bytes)", header.virtual_size_bytes));
    line("cluster bits", &header.cluster_bits.to_string());
    for feature in &header.features {
        let name = feature.name.as_deref().unwrap_or("no name");
        line(feature.set.name(), &format!("{} ({name})", feature.bit));
    }
    for table in &header.tables {
        let len = table.length_bytes.map_or_else(String::new, |len| format!(", {len} bytes"));
        line(&table.name, &format!("{} at {}{len}", table.count, table.offset_bytes));
    }
    for extension in &header.extensions {
        let name = extension.name.as_deref().unwrap_or(&extension.id);
        line("extension", &format!("{name}, {} bytes", extension.length_bytes));
    }
    let names = [
        ("backing file", &header.backing_file),
        ("backing format", &header.backing_format),
        ("data file", &header.data_file),
    ];
    for (name, value) in names {
        value.iter().for_each(|value| line(name, value));
    }
}
