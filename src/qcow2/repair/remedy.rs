//! What is done about which finding.

use crate::qcow2::check::{Finding, Reference, Structure};

/// What a repair does about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The count is lowered.
    LowerCount,
    /// The count is raised.
    RaiseCount,
    /// The COPIED flag is made true.
    Flag,
    /// The entry is put right where that can be told, else dropped: what was behind it is lost.
    Entry,
    /// The file gets the rest of a table, which is empty: what was behind it is lost.
    Complete,
    /// The second owner of a cluster gets one of its own, with the same content.
    OwnCluster,
    /// The refcount block is made anew.
    Block,
    /// The refcount table is written elsewhere.
    MoveTable,
    /// Bitmaps are not vouched for any more: whoever uses them starts anew.
    Bitmaps,
}

impl Remedy {
    /// The remedy for a finding, if there is one.
    pub const fn of(finding: &Finding) -> Option<Remedy> {
        use Structure::{
            BitmapData, BitmapDirectory, BitmapTable, Compressed, Data, L2Table, RefcountBlock,
            RefcountTable,
        };
        Some(match finding {
            Finding::Leak { .. } => Remedy::LowerCount,
            Finding::Undercount { .. } => Remedy::RaiseCount,
            Finding::CopiedFlag { .. } => Remedy::Flag,
            Finding::Malformed { to, .. } | Finding::BeyondFile { to, .. } => match to.what {
                L2Table | Data | Compressed => Remedy::Entry,
                RefcountBlock => Remedy::Block,
                RefcountTable => Remedy::MoveTable,
                BitmapDirectory | BitmapTable | BitmapData => Remedy::Bitmaps,
                _ => return None,
            },
            Finding::Overlap { to, .. } | Finding::Shared { to, .. } => match to.what {
                L2Table | Data | Compressed => Remedy::OwnCluster,
                RefcountBlock => Remedy::Block,
                RefcountTable => Remedy::MoveTable,
                BitmapDirectory | BitmapTable | BitmapData => Remedy::Bitmaps,
                _ => return None,
            },
            Finding::CutShort { .. } => Remedy::Complete,
            Finding::Unreadable { .. } => return None,
        })
    }

    /// When it is done: tables get places of their own before anything in them is changed, so that
    /// no change meets something else; data does when all entries make sense.
    pub(super) const fn step(self, finding: &Finding) -> Option<Step> {
        match (self, finding.reference()) {
            (Remedy::MoveTable, _) => Some(Step::RefcountTable),
            (Remedy::OwnCluster, Some(Reference { what: Structure::L2Table, .. })) => {
                Some(Step::Tables)
            }
            (Remedy::Entry | Remedy::Complete | Remedy::Block | Remedy::Bitmaps, _) => {
                Some(Step::Entries)
            }
            (Remedy::OwnCluster, _) => Some(Step::Data),
            (Remedy::LowerCount | Remedy::RaiseCount | Remedy::Flag, _) => None,
        }
    }
}

/// The steps of mending references, in their order. Behind each the image is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    RefcountTable,
    Tables,
    Entries,
    Data,
}
