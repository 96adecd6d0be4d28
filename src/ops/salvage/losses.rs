//! What is lost of a disk: a list of bounded length, and an exact sum.

use schemars::JsonSchema;
use serde::Serialize;

use crate::block::salvage::LossReason;
use crate::ops::wire::choice;

/// So many parts are listed.
const LISTED: usize = 1000;

choice! {
    /// Why a part of a disk is lost.
    Lost {
        /// The medium does not give it back, or not the table that leads to it.
        Unreadable = "unreadable",
        /// It lies behind the end of the file, or the table that leads to it does.
        BeyondFile = "beyond_file",
        /// The entry that leads to it breaks a rule of the format.
        Malformed = "malformed",
        /// It is compressed and does not unpack.
        Compressed = "compressed",
        /// It is in a backing file that was not opened, or that is damaged there.
        Backing = "backing",
        /// More of the disk claims the same part of the file than the file can hold.
        Overclaimed = "overclaimed",
    }
}

/// A part of the guest's disk that is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Loss {
    /// Where it begins on the guest's disk, in bytes.
    pub guest_offset_bytes: u64,
    /// Its length, in bytes.
    pub length_bytes: u64,
    /// Why.
    pub reason: Lost,
}

/// All that is lost, in the order of the disk.
#[derive(Debug, Default)]
pub(super) struct Losses {
    listed: Vec<Loss>,
    /// The last, which may go on.
    last: Option<Loss>,
    left_out: u64,
    bytes: u64,
}

impl Losses {
    pub(super) fn add(&mut self, offset: u64, len: u64, reason: LossReason) {
        if len == 0 {
            return;
        }
        self.bytes = self.bytes.saturating_add(len);
        let next = Loss { guest_offset_bytes: offset, length_bytes: len, reason: reason.into() };
        if let Some(last) = &mut self.last {
            let end = last.guest_offset_bytes.saturating_add(last.length_bytes);
            if end == offset && last.reason == next.reason {
                last.length_bytes = last.length_bytes.saturating_add(len);
                return;
            }
        }
        self.settle();
        self.last = Some(next);
    }

    fn settle(&mut self) {
        match self.last.take() {
            Some(last) if self.listed.len() < LISTED => self.listed.push(last),
            Some(_) => self.left_out = self.left_out.saturating_add(1),
            None => {}
        }
    }

    /// All of it, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts that are not listed.
    pub(super) fn left_out(&self) -> u64 {
        let last = self.last.is_some() && self.listed.len() >= LISTED;
        self.left_out.saturating_add(u64::from(last))
    }

    /// The first parts.
    pub(super) fn listed(mut self) -> Vec<Loss> {
        self.settle();
        self.listed
    }
}

impl From<LossReason> for Lost {
    fn from(reason: LossReason) -> Lost {
        match reason {
            LossReason::Unreadable => Lost::Unreadable,
            LossReason::BeyondFile => Lost::BeyondFile,
            LossReason::Malformed => Lost::Malformed,
            LossReason::Compressed => Lost::Compressed,
            LossReason::Backing => Lost::Backing,
            LossReason::Overclaimed => Lost::Overclaimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_kind_are_one_and_the_sum_is_exact() {
        let mut losses = Losses::default();
        losses.add(0, 512, LossReason::Malformed);
        losses.add(512, 512, LossReason::Malformed);
        losses.add(1024, 512, LossReason::Unreadable);
        losses.add(2048, 0, LossReason::Unreadable);
        let many = LISTED as u64 + 5;
        (0..many).for_each(|n| losses.add(4096 + n * 1024, 512, LossReason::Unreadable));
        assert_eq!((losses.bytes(), losses.left_out()), (1536 + many * 512, 7));
        let listed = losses.listed();
        assert_eq!((listed.len(), listed[0].length_bytes), (LISTED, 1024));
    }
}
