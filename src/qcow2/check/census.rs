//! What the active disk has that not every program reads: counted on the way, for those who judge
//! an image by what one program makes of it.

use super::finding::{Finding, Reference, Structure};
use super::scan::Scan;
use crate::qcow2::geometry::{ENTRY_SIZE, HostOffset};

/// How much there is of something, and where the walk met it first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Option<Reference>,
}

impl Tally {
    pub(super) fn add(&mut self, count: u64, to: Reference) {
        self.count = self.count.saturating_add(count);
        self.first = self.first.or(Some(to));
    }
}

/// What the active tables and the refcount table lead to. Internal snapshots have no part in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Guest clusters whose entry has the zero flag, with a host cluster or without.
    pub zero: Tally,
    /// Guest clusters that are compressed.
    pub compressed: Tally,
    /// References to an L2 table, a refcount block or guest data where there is another one to the
    /// same cluster.
    pub doubled: Tally,
    /// References to what lies behind the end of the file.
    pub beyond_file: Tally,
}

impl Scan<'_> {
    /// Counts a finding that is about a reference of the active disk.
    pub(super) fn count_finding(&mut self, finding: &Finding) {
        match finding {
            Finding::BeyondFile { to, .. } if self.is_active(*to) => {
                self.report.census.beyond_file.add(1, *to);
            }
            Finding::Shared { to, host } | Finding::Overlap { to, host }
                if self.is_active(*to) && !self.is_fixed(*host) =>
            {
                self.report.census.doubled.add(1, *to);
            }
            _ => {}
        }
    }

    /// Tables are claimed whoever refers to them: without snapshots, the active disk does.
    fn is_active(&self, to: Reference) -> bool {
        match to.what {
            Structure::RefcountBlock => true,
            Structure::L2Table => to.guest.is_some() || self.header.snapshots.count == 0,
            Structure::Data | Structure::Compressed => to.guest.is_some(),
            _ => false,
        }
    }

    /// Whether the header alone leads there.
    fn is_fixed(&self, host: HostOffset) -> bool {
        let (l1, counts) = (self.header.l1, self.header.refcount_table);
        let cluster = self.geometry.cluster_size();
        let l1_len = u64::from(l1.count).saturating_mul(ENTRY_SIZE).next_multiple_of(cluster);
        let fixed = [
            (HostOffset::ZERO, cluster),
            (l1.offset, l1_len),
            (counts.offset, u64::from(counts.count).saturating_mul(cluster)),
        ];
        fixed.iter().any(|(at, len)| *at <= host && host < at.plus_bytes(*len))
    }
}
