//! What the guest does not need of its disk: blocks that its filesystems call free, and what was
//! swapped out.

use std::fmt;
use std::ops::Range;

use super::ext4::{self, Filesystem, FreeMap};
use super::identify::second_filesystem;
use super::partitions::{Kind, Note, Reading, Refusal, Table};
use super::{Contents, FilesystemKind, VolumeKind, foreign, identify, swap};
use crate::block::{BlockDevice, Slice};
use crate::error::{Error, ErrorKind, Result};

/// Why a range of the disk is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unneeded {
    /// A filesystem calls it free.
    Free,
    /// It is swap.
    Swap,
}

/// What of a disk its guest does not need.
#[derive(Debug, Default)]
pub struct FreeSpace {
    /// In the order of the disk.
    parts: Vec<Part>,
    unknown: Option<Contents>,
}

#[derive(Debug)]
struct Part {
    /// Bytes of the disk.
    place: Range<u64>,
    what: What,
}

#[derive(Debug)]
enum What {
    Filesystem(Box<FreeMap>),
    /// Bytes of its place.
    Swap(Range<u64>),
}

/// Why nothing is taken from what the guest has: what seems free may be needed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The partition table.
    Partitions(Refusal),
    /// A filesystem.
    Filesystem(ext4::Refusal),
    /// What looks like a filesystem or swap belongs to something else.
    Member(&'static str),
    /// There are marks of another filesystem, too.
    Second(FilesystemKind),
    /// The machine sleeps in its swap space.
    Suspended,
}

impl Doubt {
    /// The name that programs see (`snake_case`, stable).
    pub const fn name(&self) -> &'static str {
        match self {
            Doubt::Partitions(refusal) => refusal.name(),
            Doubt::Filesystem(refusal) => refusal.name(),
            Doubt::Member(_) => "member_of_array",
            Doubt::Second(_) => "two_filesystems",
            Doubt::Suspended => "suspended",
        }
    }

    /// As an error of kind [`GuestRefused`](ErrorKind::GuestRefused).
    pub fn to_error(&self) -> Error {
        let message = format!("what the guest calls free is not to be believed: {self}");
        Error::new(ErrorKind::GuestRefused, message)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Partitions(refusal) => refusal.fmt(f),
            Doubt::Filesystem(refusal) => refusal.fmt(f),
            Doubt::Member(of) => {
                write!(f, "what looks like a filesystem or swap is a part of {of}")
            }
            Doubt::Second(kind) => {
                write!(
                    f,
                    "where it has a filesystem or swap, there are marks of {} as well",
                    kind.name()
                )
            }
            Doubt::Suspended => write!(f, "the machine is suspended to its swap space"),
        }
    }
}

impl FreeSpace {
    /// Finds out what of `disk` its guest does not need. All that says so is read and checked: partition
    /// table, superblocks, group descriptors, block bitmaps. What is not known is needed.
    ///
    /// # Errors
    /// Whatever reading the disk says; inside, why what is known is not believed.
    pub fn find(disk: &dyn BlockDevice) -> Result<Result<FreeSpace, Doubt>> {
        let contents = identify(disk)?;
        let mut found = FreeSpace::default();
        let places = match contents {
            Contents::PartitionTable(_) => match Table::read(disk)? {
                Reading::Table(table) => {
                    let damaged = "its guest may not believe the backup";
                    let refusal = match table.note() {
                        Some(Note::PrimaryDamaged) => Some(Refusal::PrimaryDamaged(damaged)),
                        _ => table.refusal().cloned(),
                    };
                    if let Some(refusal) = refusal {
                        return Ok(Err(Doubt::Partitions(refusal)));
                    }
                    if let Some(owner) = foreign::owner_of(disk)? {
                        return Ok(Err(Doubt::Member(owner)));
                    }
                    if let Some(kind) = second_filesystem(disk)? {
                        return Ok(Err(Doubt::Second(kind)));
                    }
                    places(&table)
                }
                Reading::Refused(refusal) => return Ok(Err(Doubt::Partitions(refusal))),
                Reading::Nothing => Vec::new(),
            },
            _ => std::iter::once((0..disk.size(), None)).collect(),
        };
        for place in places {
            if let Err(doubt) = found.look(disk, place)? {
                return Ok(Err(doubt));
            }
        }
        Ok(Ok(found))
    }

    /// Whether anything was found that says what it needs.
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The first part of the disk that nothing is known of, if there is one.
    pub const fn unknown(&self) -> Option<Contents> {
        self.unknown
    }

    fn look(
        &mut self,
        disk: &dyn BlockDevice,
        (place, kind): (Range<u64>, Option<Kind>),
    ) -> Result<Result<(), Doubt>> {
        let len = place.end.saturating_sub(place.start);
        let slice = Slice::new(disk, place.start, len);
        if swap::is_suspended(&slice)? {
            return Ok(Err(Doubt::Suspended));
        }
        let contents = identify(&slice)?;
        let what = match contents {
            Contents::Volume(VolumeKind::Swap) => match swap::swapped(&slice)? {
                Some(swapped) => What::Swap(swapped),
                None => return self.skip(contents),
            },
            Contents::Filesystem(_) => match Filesystem::read(&slice)? {
                ext4::Reading::Filesystem(filesystem) => match filesystem.free_map(&slice)? {
                    Ok(map) => What::Filesystem(Box::new(map)),
                    Err(refusal) => return Ok(Err(Doubt::Filesystem(refusal))),
                },
                ext4::Reading::Refused(refusal) => return Ok(Err(Doubt::Filesystem(refusal))),
                ext4::Reading::Nothing => return self.skip(contents),
            },
            Contents::Empty | Contents::Payload => return Ok(Ok(())),
            _ => return self.skip(contents),
        };
        // Who makes something else of a place need not overwrite what was there.
        let owner = foreign::owner_by_kind(kind);
        if let Some(owner) = owner.map_or_else(|| foreign::owner_of(&slice), |of| Ok(Some(of)))? {
            return Ok(Err(Doubt::Member(owner)));
        }
        if let Some(kind) = second_filesystem(&slice)? {
            return Ok(Err(Doubt::Second(kind)));
        }
        self.parts.push(Part { place, what });
        Ok(Ok(()))
    }

    fn skip(&mut self, contents: Contents) -> Result<Result<(), Doubt>> {
        self.unknown = self.unknown.or(Some(contents));
        Ok(Ok(()))
    }

    /// Where zeros are likely that nobody needs: what of inode tables was never used, in bytes of the
    /// disk, ascending.
    pub fn likely_zeros(&self) -> Vec<Range<u64>> {
        let of_part = |part: &Part| match &part.what {
            What::Swap(_) => Vec::new(),
            What::Filesystem(map) => {
                let at = |offset: u64| part.place.start.saturating_add(offset).min(part.place.end);
                map.unused_inodes().into_iter().map(|run| at(run.start)..at(run.end)).collect()
            }
        };
        self.parts.iter().flat_map(of_part).collect()
    }

    /// Shows every run of bytes that is not needed, in the order of the disk.
    ///
    /// # Errors
    /// What `visit` and reading the disk say, and [`GuestRefused`](ErrorKind::GuestRefused) for what
    /// changed since it was looked at.
    pub fn each_run(
        &self,
        disk: &dyn BlockDevice,
        mut visit: impl FnMut(Range<u64>, Unneeded) -> Result<()>,
    ) -> Result<()> {
        for Part { place, what } in &self.parts {
            let at = |offset: u64| place.start.saturating_add(offset).min(place.end);
            match what {
                What::Swap(swapped) => {
                    visit(at(swapped.start)..at(swapped.end), Unneeded::Swap)?;
                }
                What::Filesystem(map) => {
                    let len = place.end.saturating_sub(place.start);
                    let slice = Slice::new(disk, place.start, len);
                    let shown = map.each_run(&slice, |run| {
                        visit(at(run.start)..at(run.end), Unneeded::Free)
                    })?;
                    shown.map_err(|refusal| Doubt::Filesystem(refusal).to_error())?;
                }
            }
        }
        Ok(())
    }
}

/// The places of all partitions, in the order of the disk, and what they are said to be for.
fn places(table: &Table) -> Vec<(Range<u64>, Option<Kind>)> {
    let partitions = table.partitions().iter();
    let mut places: Vec<_> = partitions
        .map(|partition| (partition.start_bytes..partition.end_bytes(), Some(partition.kind)))
        .collect();
    places.sort_unstable_by_key(|(place, _)| place.start);
    places
}
