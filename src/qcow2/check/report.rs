//! What a scan hands back.

use super::census::Census;
use super::finding::{Finding, Severity};
use super::ledger::Ledger;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::geometry::HostOffset;

/// So many findings are listed; all are counted.
pub const MAX_FINDINGS: usize = 1000;

/// How an image is scanned.
#[derive(Clone, Copy)]
pub(in crate::qcow2) struct ScanOptions<'a> {
    /// So many findings are listed; all are counted.
    pub(in crate::qcow2) limit: usize,
    /// Which findings are listed.
    pub(in crate::qcow2) which: &'a dyn Fn(&Finding) -> bool,
    /// Bytes of the file that count as behind its end: nothing was ever written there.
    pub(in crate::qcow2) gap: (HostOffset, HostOffset),
}

impl Default for ScanOptions<'_> {
    fn default() -> Self {
        let gap = (HostOffset::ZERO, HostOffset::ZERO);
        ScanOptions { limit: MAX_FINDINGS, which: &|_| true, gap }
    }
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct ScanReport {
    /// Clusters of the file that are counted more often than they are referred to.
    pub leaks: u64,
    /// Findings that are corruption.
    pub corruptions: u64,
    /// Findings that are neither.
    pub notices: u64,
    /// The first [`MAX_FINDINGS`] of them, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Clusters behind the end of the file that are counted, though nothing refers to them and
    /// they take no room.
    pub counted_beyond_file: u64,
    /// Where the last cluster ends that is referred to or counted.
    pub end_of_use: HostOffset,
    /// Guest clusters of the active disk that have a place in the image, compressed or not.
    pub allocated_clusters: u64,
    /// Whether there is compressed data, in snapshots too.
    pub has_compressed: bool,
    /// What of the active disk not every program reads.
    pub census: Census,
    /// The first finding that makes counting references worthless.
    damage: Option<Finding>,
    ledger: Ledger,
}

impl ScanReport {
    /// Whether nothing was found that a program would ever have to repair.
    pub const fn is_clean(&self) -> bool {
        self.leaks == 0 && self.corruptions == 0
    }

    /// How much the worst finding weighs.
    pub const fn worst(&self) -> Option<Severity> {
        match (self.corruptions, self.leaks, self.notices) {
            (0, 0, 0) => None,
            (0, 0, _) => Some(Severity::Notice),
            (0, _, _) => Some(Severity::Leak),
            _ => Some(Severity::Corruption),
        }
    }

    /// The first finding that makes counting references worthless.
    pub(crate) const fn damage(&self) -> Option<&Finding> {
        self.damage.as_ref()
    }

    /// Refuses an image in which anything is wrong but leaks: what seems free may hold the only copy of
    /// something.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), naming what is wrong, and the kind of what could not be read.
    pub(in crate::qcow2) fn require_sound(&self) -> Result<()> {
        if let Some(damage) = &self.damage {
            return Err(damage.to_error());
        }
        let wrong = |finding: &&Finding| finding.severity() == Severity::Corruption;
        let message = match self.findings.iter().find(wrong) {
            Some(finding) => format!("the image is damaged: {finding}"),
            None if self.corruptions > 0 => "the image is damaged".to_owned(),
            None => return Ok(()),
        };
        Err(Error::new(ErrorKind::Corrupt, message))
    }

    /// How often each cluster is referred to.
    pub(in crate::qcow2) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    pub(super) fn record(&mut self, finding: Finding, options: ScanOptions<'_>) {
        let total = match finding.severity() {
            Severity::Notice => &mut self.notices,
            Severity::Leak => &mut self.leaks,
            Severity::Corruption => &mut self.corruptions,
        };
        *total = total.saturating_add(1);
        if self.damage.is_none() && finding.is_damage() {
            self.damage = Some(finding.clone());
        }
        if self.findings.len() < options.limit && (options.which)(&finding) {
            self.findings.push(finding);
        }
    }
}
