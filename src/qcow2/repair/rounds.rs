//! Mending references in rounds, the image looked at again behind each.

use std::cell::Cell;

use super::draft::Draft;
use super::references::Mender;
use super::remedy::{Remedy, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::check::{Finding, ScanOptions, Structure, scan_with};
use crate::qcow2::geometry::{Geometry, HostCluster, HostOffset};
use crate::task::Task;

/// So many findings are mended between two scans: they take a few MiB.
pub(super) const AT_ONCE: usize = 1 << 16;
/// More scans than any damage needs.
const MAX_ROUNDS: usize = 1 << 8;

/// Mends in rounds: what one of them makes known, such as the entries of a table that has a place
/// of its own now, the next one sees.
pub(super) fn mend_references(
    draft: &Draft<'_>,
    mender: &mut Mender<'_>,
    gap: (HostOffset, HostOffset),
    task: Task<'_>,
) -> Result<()> {
    for _ in 0..MAX_ROUNDS {
        let mut found = Vec::new();
        for step in [Step::RefcountTable, Step::Tables, Step::Entries, Step::Data] {
            let seen = Cell::new(None);
            let which = |finding: &Finding| {
                step_of(finding) == Some(step) && is_first(finding, &seen, mender.header.geometry)
            };
            let options = ScanOptions { limit: AT_ONCE, which: &which, gap };
            found = scan_with(draft, &mender.header, options, task)?.findings;
            if !found.is_empty() {
                break;
            }
        }
        let (writes, autoclear) = (draft.writes(), mender.header.autoclear);
        mender.mend_all(&found, task)?;
        // What is left has no remedy after all.
        if draft.writes() == writes && mender.header.autoclear == autoclear {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "the damage does not end"))
}

/// Entries are mended a table at a time: the first of each is enough.
fn is_first(finding: &Finding, seen: &Cell<Option<HostCluster>>, geometry: Geometry) -> bool {
    let table = match (Remedy::of(finding), finding.reference()) {
        (Some(Remedy::Entry), Some(to)) if to.what != Structure::L2Table => to.entry,
        _ => None,
    };
    let table = table.map(|at| geometry.host_cluster(at));
    table.is_none() || seen.replace(table) != table
}

fn step_of(finding: &Finding) -> Option<Step> {
    Remedy::of(finding)?.step(finding)
}
