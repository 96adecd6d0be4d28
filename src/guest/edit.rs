//! What is to become of the bytes on a disk: worked out here, written by whoever owns the disk.

use std::sync::Arc;

/// When an edit may be written where all of them cannot become true at once, first to last: each
/// stage is on the medium before the next one begins. Between any two of their writes a guest may
/// start on the disk: what it uses is as it was, or as it is to be. (A write is one edit. What a
/// medium tears in the midst of it is for whoever owns the disk to mend.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What nothing refers to that a guest uses: unseen until a later stage.
    Beyond,
    /// What describes the new room of a filesystem, in blocks that it kept for that: what spoke of
    /// these is gone with the stage before.
    Descriptors,
    /// The backup of a partition table, where it stays in its place.
    BackupTable,
    /// The partition table.
    Partitions,
    /// What makes a filesystem's new size true.
    Superblock,
    /// What a filesystem had to keep until then: without it, room that is free counts as used.
    Release,
}

/// The new content of a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes. Copies in several places share them.
    Bytes(Arc<[u8]>),
    /// So many zeros.
    Zeros(u64),
}

impl Content {
    /// Its length, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Content::Zeros(len) => *len,
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A range of a disk, and what it is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// When it may be written.
    pub stage: Stage,
    /// Where, in bytes from the beginning of the disk.
    pub offset: u64,
    /// What.
    pub content: Content,
}

/// Edits that belong together, in the order of their stages; no two of them meet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits(Vec<Edit>);

impl Edits {
    /// None.
    pub const fn new() -> Self {
        Edits(Vec::new())
    }

    /// Adds one, if it is not empty, behind those of its stage.
    pub fn push(&mut self, stage: Stage, offset: u64, content: Content) {
        if !content.is_empty() {
            let behind = self.0.partition_point(|edit| edit.stage <= stage);
            self.0.insert(behind, Edit { stage, offset, content });
        }
    }

    /// Adds those of something that begins at `offset`, such as a partition.
    pub fn extend_at(&mut self, offset: u64, inside: Edits) {
        for edit in inside.0 {
            self.push(edit.stage, offset.saturating_add(edit.offset), edit.content);
        }
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of their stages.
    pub fn iter(&self) -> std::slice::Iter<'_, Edit> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Edits {
    type Item = &'a Edit;
    type IntoIter = std::slice::Iter<'a, Edit>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
