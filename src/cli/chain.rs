//! `vmdisk chain`.

use std::path::PathBuf;

use super::flags::TrustFlags;
use super::names::one_of;
use super::output::{IN_USE, Output};
use crate::error::Result;
use crate::ops::{
    self, ChainImage, ChainReport, ChainRequest, DependentReport, DependentsReport, Format,
    NamedFileReport, NamedFor,
};
use crate::task::Cancel;
use crate::units::ByteSize;

/// So many of what could not be looked at are printed; `--json` has more.
const SHOWN: usize = 20;

/// Tell which images a disk consists of, and which depend on it
///
/// What is missing, refused or damaged below the disk is shown as such. Images that depend on it are
/// looked for in a folder and all folders in it; symbolic links to folders are not followed. Nothing
/// is written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk chain m.qcow2
  vmdisk chain m.qcow2 --dependents .
  vmdisk chain m.qcow2 --json")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Look for images that depend on it, in this folder and below
    #[arg(long, value_name = "FOLDER")]
    dependents: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustFlags,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = ChainRequest {
            path: self.path.clone(),
            format: self.format,
            dependents: self.dependents.clone(),
        };
        let report = self.trust.looking(cancel, |context| ops::chain(&request, context))?;
        output.report(&report, |report| text(report, output))
    }
}

fn size(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

fn text(report: &ChainReport, output: Output) -> String {
    let mut text = String::new();
    for found in &report.images {
        text.push_str(&image(found));
    }
    if report.in_use {
        text.push_str(&output.notes(&[IN_USE.to_owned()]));
    }
    if let Some(found) = &report.dependents {
        text.push_str(&dependents(report, found));
    }
    text
}

/// An image, and below it whatever ends the chain there.
fn image(image: &ChainImage) -> String {
    let (indent, branch) = match image.depth {
        0 => (String::new(), ""),
        depth => ("   ".repeat(depth as usize - 1), "└─ "),
    };
    let mut text = format!("{indent}{branch}{}\n", image.path);
    let indent = "   ".repeat(image.depth as usize);
    let under = if image.backing_file.is_some() { "│  " } else { "   " };
    let mut facts = format!(
        "{}, disk of {}, file of {}, {} on the host",
        image.format,
        size(image.virtual_size_bytes),
        size(image.file_size_bytes),
        size(image.allocated_bytes)
    );
    if let (Some(data), Some(zeros)) = (image.data_bytes, image.zero_bytes) {
        facts.push_str(&format!("; {} of data, {} of zeros", size(data), size(zeros)));
    }
    let mut fact = |what: String| text.push_str(&format!("{indent}{under}{what}\n"));
    fact(facts);
    if let Some(problem) = &image.problem {
        fact(format!("cannot be read: {}", problem.message));
    }
    if let Some(data_file) = &image.data_file {
        fact(format!("data in '{}'{}", data_file.stored, leads(data_file)));
    }
    if let Some(backing) = &image.backing_file {
        let format = backing.format.as_deref().unwrap_or("format not recorded");
        fact(format!("above '{}' ({format})", backing.stored));
        if let Some(problem) = &backing.problem {
            text.push_str(&format!("{indent}└─ {}: {}\n", problem.kind, problem.message));
        }
    }
    text
}

fn leads(file: &NamedFileReport) -> String {
    let mut text = String::new();
    if let (Some(path), Some(len), Some(allocated)) =
        (&file.path, file.file_size_bytes, file.allocated_bytes)
    {
        text = format!(", {path}: {}, {} on the host", size(len), size(allocated));
    }
    if let Some(problem) = &file.problem {
        text.push_str(&format!(": {}: {}", problem.kind, problem.message));
    }
    text
}

fn dependents(report: &ChainReport, search: &DependentsReport) -> String {
    let files = match search.files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    let mut text = match search.found.len() as u64 + search.found_left_out {
        0 => format!("\nno image depends on it under {} ({files} looked at)\n", search.folder),
        1 => format!("\n1 image depends on it under {} ({files} looked at):\n", search.folder),
        found => {
            format!("\n{found} images depend on it under {} ({files} looked at):\n", search.folder)
        }
    };
    let disk = report.images.first().map(|image| image.path.as_str()).unwrap_or_default();
    below(&search.found, disk, 1, &mut text);
    if search.found_left_out > 0 {
        text.push_str(&format!("  and {} more\n", search.found_left_out));
    }
    for path in search.not_followed.iter().take(SHOWN) {
        text.push_str(&format!("  may depend on it, by a name that is not followed: {path}\n"));
    }
    for problem in search.problems.iter().take(SHOWN) {
        text.push_str(&format!("  not looked at: {}\n", problem.message));
    }
    let shown = search.not_followed.len().min(SHOWN) + search.problems.len().min(SHOWN);
    let all = search.not_followed.len() as u64 + search.not_followed_left_out + search.unread;
    if all > shown as u64 {
        text.push_str(&format!("  and {} more like these\n", all - shown as u64));
    }
    if search.has_more {
        text.push_str("  there are more files, which were not looked at\n");
    }
    text
}

/// Those that name this file, each with those that name it in turn.
fn below(found: &[DependentReport], file: &str, depth: u64, text: &mut String) {
    for dependent in found.iter().filter(|it| it.depth == depth && it.below == file) {
        let role = match dependent.named_for {
            NamedFor::BackingFile => "",
            NamedFor::DataFile => " (its data file)",
        };
        let indent = "   ".repeat(depth as usize - 1);
        text.push_str(&format!("{indent}└─ {}{role}\n", dependent.path));
        below(found, &dependent.path, depth + 1, text);
    }
}
