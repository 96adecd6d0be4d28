//! What the guest does not need of its disk: blocks that its filesystems call free, and what was
//! swapped out.

use std::fmt;
use std::ops::Range;

use super::ext4::{self, Filesystem, FreeMap};
use super::foreign;
use super::identify::second_filesystem;
use super::partitions::{self, Reading, Table};
use super::{Contents, FilesystemKind, VolumeKind, identify};
use crate::block::{BlockDevice, Slice};
use crate::error::{Error, ErrorKind, Result};

/// The header of swap, which says how large it is and what it is called, is the first page, in bytes;
/// its signature is in the last ten.
const SWAP_PAGES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];
/// What that is.
const SWAP: [&[u8]; 2] = [b"SWAPSPACE2", b"SWAP-SPACE"];
/// What is there instead while a machine is suspended to disk (Linux `kernel/power/swap.c`; uswsusp,
/// TuxOnIce; `libblkid`).
const SUSPENDED: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];

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
    /// Its header has so many bytes.
    Swap(u64),
}

/// Why nothing is taken from what the guest has: what seems free may be needed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The partition table.
    Partitions(partitions::Refusal),
    /// A filesystem.
    Filesystem(ext4::Refusal),
    /// A filesystem is a part of something larger.
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
            Doubt::Member(of) => write!(f, "the filesystem is a part of {of}"),
            Doubt::Second(kind) => {
                write!(f, "where it has a filesystem, there are marks of {} as well", kind.name())
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
                Reading::Table(table) => match table.refusal() {
                    Some(refusal) => return Ok(Err(Doubt::Partitions(refusal.clone()))),
                    None => places(&table),
                },
                Reading::Refused(refusal) => return Ok(Err(Doubt::Partitions(refusal))),
                Reading::Nothing => Vec::new(),
            },
            _ => std::iter::once(0..disk.size()).collect(),
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

    fn look(&mut self, disk: &dyn BlockDevice, place: Range<u64>) -> Result<Result<(), Doubt>> {
        let len = place.end.saturating_sub(place.start);
        let slice = Slice::new(disk, place.start, len);
        if swap_header(&slice, &SUSPENDED)?.is_some() {
            return Ok(Err(Doubt::Suspended));
        }
        let contents = identify(&slice)?;
        let what = match contents {
            Contents::Volume(VolumeKind::Swap) => match swap_header(&slice, &SWAP)? {
                Some(len) => What::Swap(len),
                None => return self.skip(contents),
            },
            Contents::Filesystem(_) => match Filesystem::read(&slice)? {
                ext4::Reading::Filesystem(filesystem) => {
                    if let Some(array) = foreign::array_of(&slice)? {
                        return Ok(Err(Doubt::Member(array)));
                    }
                    if let Some(kind) = second_filesystem(&slice)? {
                        return Ok(Err(Doubt::Second(kind)));
                    }
                    match filesystem.free_map(&slice)? {
                        Ok(map) => What::Filesystem(Box::new(map)),
                        Err(refusal) => return Ok(Err(Doubt::Filesystem(refusal))),
                    }
                }
                ext4::Reading::Refused(refusal) => return Ok(Err(Doubt::Filesystem(refusal))),
                ext4::Reading::Nothing => return self.skip(contents),
            },
            Contents::Empty | Contents::Payload => return Ok(Ok(())),
            _ => return self.skip(contents),
        };
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
                What::Swap(header) => {
                    let run = at(*header)..place.end;
                    if !run.is_empty() {
                        visit(run, Unneeded::Swap)?;
                    }
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

/// The places of all partitions, in the order of the disk.
fn places(table: &Table) -> Vec<Range<u64>> {
    let partitions = table.partitions().iter();
    let mut places: Vec<_> = partitions
        .map(|partition| {
            partition.start_bytes..partition.start_bytes.saturating_add(partition.len_bytes)
        })
        .collect();
    places.sort_unstable_by_key(|place| place.start);
    places
}

/// How long the header of swap is that has one of these signatures, if there is one.
fn swap_header(place: &dyn BlockDevice, signatures: &[&[u8]]) -> Result<Option<u64>> {
    for page in SWAP_PAGES.into_iter().rev() {
        let mut signature = [0; 10];
        if page <= place.size() {
            place.read_at(page.saturating_sub(10), &mut signature)?;
        }
        if signatures.iter().any(|one| signature.starts_with(one)) {
            return Ok(Some(page));
        }
    }
    Ok(None)
}
