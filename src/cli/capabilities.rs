//! `vmdisk capabilities`.

use std::path::PathBuf;

use clap::Command;

use super::docs::shown;
use super::flags::asking;
use super::output::Output;
use crate::error::Result;
use crate::ops::{self, CapabilitiesReport, CapabilitiesRequest};
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell what this program and this host can do
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vmdisk capabilities .")]
pub(super) struct Args {
    /// The folder whose file system is tried [default: the working directory, if it can be]
    folder: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        let request = CapabilitiesRequest { folder: self.folder.clone() };
        let report = asking(cancel, |context| ops::capabilities(&request, context))?;
        output.report(&report, text)
    }
}

fn text(report: &CapabilitiesReport) -> String {
    fn names<T: ToString>(values: &[T]) -> String {
        values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
    }
    let limits = &report.limits;
    let mut rows = vec![
        // As they are typed: those of the report are the protocol's.
        ("verbs", shown().get_subcommands().map(Command::get_name).collect::<Vec<_>>().join(", ")),
        ("formats", names(&report.formats)),
        ("presets", names(&report.presets)),
        ("guests", names(&report.guests)),
        ("preallocations", names(&report.preallocations)),
        ("compression", names(&report.compression_types)),
        ("largest disk", ByteSize::from_bytes(limits.max_virtual_size_bytes).to_string()),
        ("deepest chain", format!("{} images", limits.max_chain_depth)),
    ];
    if let Some(host) = &report.host {
        let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
        rows.push(("folder", format!("{} ({})", host.folder, host.system)));
        rows.push(("locks", host.locks.to_string()));
        rows.push(("reflink", yes_no(host.reflink)));
        rows.push(("punch hole", yes_no(host.punch_hole)));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}
