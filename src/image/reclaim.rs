//! Giving up what a disk need not keep: ranges that its guest does not need, and what reads as zeros
//! and takes room all the same.

use std::ops::{AddAssign, Range};

use super::opened::{Disk, Image};
use crate::block::{BlockDevice, ExtentKind, is_zero};
use crate::error::{Error, Result};
use crate::qcow2::{Compacted, Mapped, Mappings, Sound, Version};
use crate::task::Task;

/// What file systems give back of a raw disk, in bytes.
const RAW_UNIT: u64 = 4096;
/// So much of a cluster is read first, to tell that it is not all zeros.
const FIRST_LOOK: u64 = 4096;

/// How zeros are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// By what tables and the file system say.
    Known,
    /// By reading all data as well.
    Read,
}

/// What was given up, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GivenUp {
    /// Data that was in the file.
    pub data_bytes: u64,
    /// Room that was laid out and never written.
    pub unwritten_bytes: u64,
}

impl AddAssign for GivenUp {
    fn add_assign(&mut self, other: GivenUp) {
        self.data_bytes += other.data_bytes;
        self.unwritten_bytes += other.unwritten_bytes;
    }
}

/// A walk over a disk, from its beginning to its end.
#[derive(Debug)]
pub struct Reclaimer<'a> {
    image: &'a Image,
    mappings: Option<Mappings<'a>>,
    /// What is given up whole.
    unit: u64,
    zeros: Zeros,
    /// Ranges that are read for zeros whatever else is, ascending.
    suspects: &'a [Range<u64>],
    /// Whether anything is done.
    acts: bool,
    has_acted: bool,
    /// Whether something lies below the image.
    has_below: bool,
    /// What was looked at.
    at: u64,
    found_zeros: GivenUp,
    task: Task<'a>,
}

impl Image {
    /// Whether a discarded cluster can hide what is below the image.
    pub fn can_hide(&self) -> bool {
        self.header().is_none_or(|header| header.version == Version::V3 || header.backing.is_none())
    }

    /// Begins a walk over the disk. `suspects`, ascending, are read for zeros in any case. Unless
    /// `acts` is set, nothing is changed. The disk must be one that [can hide](Self::can_hide) what is
    /// below.
    pub fn reclaimer<'a>(
        &'a self,
        zeros: Zeros,
        suspects: &'a [Range<u64>],
        acts: bool,
        task: Task<'a>,
    ) -> Reclaimer<'a> {
        let mappings = match &self.disk {
            Disk::Qcow2(image) => Some(image.mappings()),
            Disk::Raw(_) => None,
        };
        let unit = self.cluster_size().unwrap_or(RAW_UNIT);
        let found_zeros = GivenUp::default();
        Reclaimer {
            image: self,
            mappings,
            unit,
            zeros,
            suspects,
            acts,
            has_acted: false,
            has_below: self.header().is_some_and(|header| header.backing.is_some()),
            at: 0,
            found_zeros,
            task,
        }
    }

    /// Refuses a damaged image, and says how much of its file is leaked: see
    /// [`Qcow2::require_sound`](crate::qcow2::Qcow2::require_sound). Nothing is said of a raw disk.
    ///
    /// # Errors
    /// As there.
    pub fn require_sound(&self, task: Task<'_>) -> Result<Option<Sound>> {
        match &self.disk {
            Disk::Qcow2(image) => self.of_file(image.require_sound(task)).map(Some),
            Disk::Raw(_) => Ok(None),
        }
    }

    /// Makes the file as short as what is in it: see [`Qcow2::compact`](crate::qcow2::Qcow2::compact).
    /// Of a raw disk nothing moves.
    ///
    /// # Errors
    /// As there.
    pub fn compact(&mut self, sound: Option<Sound>, task: Task<'_>) -> Result<Compacted> {
        let compacted = match &mut self.disk {
            Disk::Qcow2(image) => image.compact(sound, task),
            Disk::Raw(raw) => raw.flush().map(|()| Compacted::default()),
        };
        self.of_file(compacted)
    }
}

impl Reclaimer<'_> {
    /// Gives up what lies whole within a range, which is behind all those before, and zeros on the way
    /// there.
    ///
    /// # Errors
    /// What the disk says, and [`Cancelled`](crate::ErrorKind::Cancelled).
    pub fn give_up(&mut self, range: Range<u64>) -> Result<GivenUp> {
        let range = self.inward(range);
        let mut given = GivenUp::default();
        if range.start.max(self.at) >= range.end {
            return Ok(given);
        }
        self.look_for_zeros(range.start)?;
        while self.at < range.end {
            let Mapped { offset, len, kind, reserved } = self.mapped(range.end)?;
            let mut end = offset.saturating_add(len);
            let takes_room = match kind {
                ExtentKind::Data { .. } | ExtentKind::Compressed => true,
                ExtentKind::Zero | ExtentKind::Unallocated => reserved.is_some(),
            };
            if takes_room {
                // Subclusters go with their cluster.
                let run = self.outward(offset..end);
                end = run.end.min(range.end);
                self.drop_run(run.start.max(self.at)..end, &mut given)?;
            }
            self.at = end;
            self.task.step("compact", self.at, self.image.size())?;
        }
        Ok(given)
    }

    /// Looks for zeros up to the end. Returns all that were found.
    ///
    /// # Errors
    /// As [`give_up`](Self::give_up).
    pub fn finish(&mut self) -> Result<GivenUp> {
        self.look_for_zeros(self.image.size())?;
        self.task.step("compact", self.image.size(), self.image.size())?;
        Ok(self.found_zeros)
    }

    /// An error of the walk: whether it came [after changes](Error::after_changes), it does not know.
    pub fn mark(&self, error: Error) -> Error {
        error.after_changes_if(self.has_acted)
    }

    fn look_for_zeros(&mut self, end: u64) -> Result<()> {
        // Subclusters come one by one, and only whole clusters can be given up.
        let mut laid_out = self.at..self.at;
        while self.at < end {
            self.task.step("compact", self.at, self.image.size())?;
            let Mapped { offset, len, kind, reserved } = self.mapped(end)?;
            let run = offset..offset.saturating_add(len).min(end);
            let reads_as_zeros = match kind {
                ExtentKind::Zero => true,
                // What is below would show through.
                ExtentKind::Unallocated => !self.has_below,
                ExtentKind::Data { .. } | ExtentKind::Compressed => {
                    self.look_into(run.clone())?;
                    false
                }
            };
            if reads_as_zeros && reserved.is_some() {
                if laid_out.end < run.start {
                    self.drop_zeros(std::mem::replace(&mut laid_out, run.start..run.start))?;
                }
                laid_out.end = run.end;
            }
            self.at = run.end;
        }
        self.drop_zeros(laid_out)
    }

    /// A run of data of the image's own.
    fn look_into(&mut self, run: Range<u64>) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let content = self.image.content(at, run.end)?;
            let end = content.end.min(run.end);
            // What is a hole in part only is read as a whole: the rest may be zeros that were written.
            let whole = if end < run.end { end - end % self.unit } else { end };
            let piece = if content.is_zero && whole > at {
                self.drop_zeros(at..whole)?;
                at..whole
            } else {
                let piece = at..end.next_multiple_of(self.unit).min(run.end);
                self.read_for_zeros(piece.clone())?;
                piece
            };
            at = piece.end;
        }
        Ok(())
    }

    fn read_for_zeros(&mut self, run: Range<u64>) -> Result<()> {
        if self.zeros == Zeros::Read {
            return self.read_whole(run);
        }
        let first = self.suspects.partition_point(|suspect| suspect.end <= run.start);
        let suspects = self.suspects.get(first..).unwrap_or_default();
        for suspect in suspects.iter().take_while(|suspect| suspect.start < run.end) {
            self.read_whole(suspect.start.max(run.start)..suspect.end.min(run.end))?;
        }
        Ok(())
    }

    fn read_whole(&mut self, run: Range<u64>) -> Result<()> {
        let run = self.inward(run);
        let mut at = run.start;
        while at < run.end {
            let end = at.saturating_add(self.unit).min(run.end);
            if self.is_zero(at, FIRST_LOOK.min(end - at))? && self.is_zero(at, end - at)? {
                self.drop_zeros(at..end)?;
            }
            self.task.check()?;
            at = end;
        }
        Ok(())
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<bool> {
        // OK to default: a cluster has 2 MiB at most.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.image.read_at(at, &mut bytes)?;
        Ok(is_zero(&bytes))
    }

    fn drop_zeros(&mut self, run: Range<u64>) -> Result<()> {
        let mut given = self.found_zeros;
        self.drop_run(self.inward(run), &mut given)?;
        self.found_zeros = given;
        Ok(())
    }

    fn drop_run(&mut self, run: Range<u64>, given: &mut GivenUp) -> Result<()> {
        if run.start >= run.end {
            return Ok(());
        }
        let mut at = run.start;
        while at < run.end {
            let content = self.image.content(at, run.end)?;
            let end = content.end.min(run.end);
            let bytes =
                if content.is_zero { &mut given.unwritten_bytes } else { &mut given.data_bytes };
            *bytes = bytes.saturating_add(end - at);
            at = end;
        }
        if !self.acts {
            return Ok(());
        }
        self.image.discard(run.start, run.end - run.start)?;
        self.has_acted = true;
        Ok(())
    }

    /// What the disk is mapped to from where the walk is.
    fn mapped(&mut self, end: u64) -> Result<Mapped> {
        match &mut self.mappings {
            Some(mappings) => mappings.from(self.at, end),
            None => {
                let extent = self.image.extent(self.at, end)?;
                Ok(Mapped {
                    offset: extent.offset,
                    len: extent.len,
                    kind: extent.kind,
                    reserved: None,
                })
            }
        }
    }

    /// The whole units in a range; the disk's end is as good as that of one.
    fn inward(&self, range: Range<u64>) -> Range<u64> {
        let end = match range.end >= self.image.size() {
            true => self.image.size(),
            false => range.end - range.end % self.unit,
        };
        range.start.next_multiple_of(self.unit)..end
    }

    fn outward(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.next_multiple_of(self.unit).min(self.image.size());
        range.start - range.start % self.unit..end
    }
}
