//! Where a repair puts what is new.

use std::ops::{Range, RangeInclusive};

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::qcow2::check::{Finding, ScanOptions, scan_with};
use crate::qcow2::geometry::{ClusterCount, HostCluster, HostOffset};
use crate::qcow2::header::Header;
use crate::task::Task;

/// So many bytes may be added to the smallest image, within these limits in clusters.
const SPARE_BYTES: u64 = 16 << 20;
const SPARE_CLUSTERS: RangeInclusive<u64> = 16..=1024;
const MAX_GAPS: usize = 64;

/// Clusters behind everything that nothing refers to: what is placed there cannot be mistaken for
/// what an entry meant that leads behind the end of the file.
pub(super) fn room_for_new(
    storage: &dyn Storage,
    header: &Header,
    end: HostCluster,
    task: Task<'_>,
) -> Result<Range<HostCluster>> {
    // A small file can claim that millions of entries share a cluster: it may double at most.
    let spare = SPARE_BYTES.div_ceil(header.geometry.cluster_size());
    let spare = spare.clamp(*SPARE_CLUSTERS.start(), *SPARE_CLUSTERS.end());
    let len = ClusterCount::new(end.get().saturating_add(spare));
    let mut room = end..end + len;
    for _ in 0..MAX_GAPS {
        let (first, behind) =
            (header.geometry.host_offset(room.start), header.geometry.host_offset(room.end));
        let which = |finding: &Finding| match finding {
            Finding::BeyondFile { to, len, .. } => {
                to.host < behind && first < to.host.plus_bytes(*len)
            }
            _ => false,
        };
        let options = ScanOptions { limit: 1, which: &which, ..ScanOptions::default() };
        if scan_with(storage, header, options, task)?.findings.is_empty() {
            return Ok(room);
        }
        room = room.end..room.end + len;
    }
    let message = "entries lead to so many places behind the end of the file that there is no room";
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// What the file gets between its end and what is new: an entry that leads there leads nowhere.
pub(super) fn gap(
    storage: &dyn Storage,
    header: &Header,
    new_from: HostCluster,
) -> Result<(HostOffset, HostOffset)> {
    let end = header.geometry.host_cluster_after(storage.len()?);
    Ok((header.geometry.host_offset(end), header.geometry.host_offset(new_from)))
}
