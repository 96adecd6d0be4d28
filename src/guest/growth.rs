//! What is inside of a disk made to fill it: the last partition and the filesystem in it, or the
//! filesystem that has the disk to itself. Both grow, or neither does.

use std::fmt;

use super::edit::Edits;
use super::ext4::{self, Filesystem};
use super::foreign;
use super::identify::second_filesystem;
use super::partitions::{self, GrowthRequest, Partition, Reading, Table};
use super::{Contents, FilesystemKind, PartitionTableKind, identify};
use crate::block::{BlockDevice, Slice};
use crate::error::{Error, ErrorKind, Result};

/// The label of the filesystem that boot2docker and its kin mount and keep everything in.
const DATA_LABEL: &str = "boot2docker-data";

/// How far what is inside is to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillRequest {
    /// The size that the disk is going to have, or has already, in bytes.
    pub disk_bytes: u64,
    /// Whether a damaged GPT at the start of the disk may be made anew from its backup.
    pub restore: bool,
}

/// How what is inside of a disk grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsideGrowth {
    /// What the disk begins with.
    pub contents: Contents,
    /// The partition that is the last on the disk, or the one that ought to be.
    pub partition: Option<PartitionGrowth>,
    /// The filesystem in it, or on the whole disk.
    pub filesystem: Option<FilesystemGrowth>,
    /// Why everything stays as it is.
    pub refusal: Option<Refusal>,
    /// What is unusual about the partition table.
    pub note: Option<partitions::Note>,
    /// What is to be written: nothing, where everything is as it should be, or stays as it is.
    pub edits: Edits,
}

/// A partition and the length that it could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionGrowth {
    /// The kind of its table.
    pub table: PartitionTableKind,
    /// Its number.
    pub number: u32,
    /// The length that it has, in bytes.
    pub old_bytes: u64,
    /// The length that fills the disk, in bytes.
    pub new_bytes: u64,
}

/// A filesystem and the size that it could have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemGrowth {
    /// What it is.
    pub kind: FilesystemKind,
    /// Its label, where it has one that can be read.
    pub label: Option<String>,
    /// What it is told from all others by, where that can be read.
    pub uuid: Option<String>,
    /// The size that it has, in bytes, where that can be read.
    pub old_bytes: Option<u64>,
    /// The size that fills its place, in bytes, where that is known.
    pub new_bytes: Option<u64>,
}

/// Why what is inside stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The partition table, or what the partition is.
    Partitions(partitions::Refusal),
    /// The filesystem.
    Filesystem(ext4::Refusal),
    /// Something that only the guest can make larger.
    Unsupported(Contents),
    /// The filesystem is a part of something that keeps what it is at the end of its place.
    Member(&'static str),
}

impl Refusal {
    /// The name that programs see (`snake_case`, stable).
    pub const fn name(&self) -> &'static str {
        match self {
            Refusal::Partitions(refusal) => refusal.name(),
            Refusal::Filesystem(refusal) => refusal.name(),
            Refusal::Unsupported(_) => "unsupported_contents",
            Refusal::Member(_) => "member_of_array",
        }
    }

    /// As an error of kind [`GuestRefused`](ErrorKind::GuestRefused).
    pub fn to_error(&self) -> Error {
        let message = format!("what is inside cannot be grown: {self}");
        Error::new(ErrorKind::GuestRefused, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Partitions(refusal) => refusal.fmt(f),
            Refusal::Filesystem(refusal) => refusal.fmt(f),
            Refusal::Unsupported(Contents::Unknown) => {
                f.write_str("it is of no kind that is known here")
            }
            Refusal::Unsupported(contents) => write!(f, "{contents} grows in its guest alone"),
            Refusal::Member(of) => write!(f, "the filesystem is a part of {of}"),
        }
    }
}

impl InsideGrowth {
    /// Plans to make what is inside of `disk` fill a disk of the size asked for. Whatever the plan
    /// relies on is read and checked; nothing of that where there is nothing to gain.
    ///
    /// # Errors
    /// Whatever reading the disk says. What may not be grown is no error.
    pub fn plan(disk: &dyn BlockDevice, request: FillRequest) -> Result<InsideGrowth> {
        Self::look(disk, request, Depth::Plan)
    }

    /// The same, as far as tables and superblocks tell: without edits, and in little time.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn outline(disk: &dyn BlockDevice, request: FillRequest) -> Result<InsideGrowth> {
        let outline = Self::look(disk, request, Depth::Outline)?;
        Ok(InsideGrowth { edits: Edits::new(), ..outline })
    }

    fn look(disk: &dyn BlockDevice, request: FillRequest, depth: Depth) -> Result<InsideGrowth> {
        let contents = identify(disk)?;
        let mut plan = InsideGrowth {
            contents,
            partition: None,
            filesystem: None,
            refusal: None,
            note: None,
            edits: Edits::new(),
        };
        let refusal = match contents {
            // The guest is going to format all of the disk.
            Contents::Empty | Contents::Payload => Ok(()),
            Contents::PartitionTable(_) => plan.in_partition(disk, request, depth)?,
            _ => {
                let place =
                    Place { start: 0, old_bytes: disk.size(), new_bytes: request.disk_bytes };
                plan.fill(disk, contents, place, depth)?
            }
        };
        if let Err(refusal) = refusal {
            (plan.refusal, plan.edits) = (Some(refusal), Edits::new());
        }
        Ok(plan)
    }

    fn in_partition(
        &mut self,
        disk: &dyn BlockDevice,
        request: FillRequest,
        depth: Depth,
    ) -> Result<Result<(), Refusal>> {
        let damaged = partitions::Refusal::Damaged("it has no partition table that can be read");
        let table = match Table::read(disk)? {
            Reading::Table(table) => table,
            Reading::Refused(refusal) => return Ok(Err(Refusal::Partitions(refusal))),
            Reading::Nothing => return Ok(Err(Refusal::Partitions(damaged))),
        };
        self.note = table.note();
        let Some(data) = data_partition(disk, &table)? else {
            return Ok(Err(Refusal::Partitions(partitions::Refusal::NoPartition)));
        };
        let (number, old_bytes) = (data.number, data.len_bytes);
        let mut step =
            PartitionGrowth { table: table.kind(), number, old_bytes, new_bytes: old_bytes };
        self.partition = Some(step);
        let growth = table.growth(&GrowthRequest {
            partition: number,
            disk_bytes: request.disk_bytes,
            restore: request.restore,
        });
        let growth = match growth {
            Ok(growth) => growth,
            Err(refusal) => return Ok(Err(Refusal::Partitions(refusal))),
        };
        step.new_bytes = growth.new_len_bytes;
        self.partition = Some(step);
        self.edits = growth.edits;
        let contents = identify(&Slice::new(disk, data.start_bytes, data.len_bytes))?;
        let new_bytes = growth.new_len_bytes;
        let place = Place { start: data.start_bytes, old_bytes: data.len_bytes, new_bytes };
        self.fill(disk, contents, place, depth)
    }

    /// The filesystem that has a place on the disk to itself.
    fn fill(
        &mut self,
        disk: &dyn BlockDevice,
        contents: Contents,
        place: Place,
        depth: Depth,
    ) -> Result<Result<(), Refusal>> {
        // As far as the disk has it: it may be going to be longer.
        let room = Slice::new(disk, place.start, place.new_bytes);
        let kind = match contents {
            // A partition that nobody has made use of.
            Contents::Empty => return Ok(Ok(())),
            Contents::Filesystem(kind) => kind,
            other => return Ok(Err(Refusal::Unsupported(other))),
        };
        let step = self.filesystem.insert(FilesystemGrowth {
            kind,
            label: None,
            uuid: None,
            old_bytes: None,
            new_bytes: None,
        });
        let filesystem = match Filesystem::read(&room)? {
            ext4::Reading::Filesystem(filesystem) => filesystem,
            ext4::Reading::Refused(refusal) => return Ok(Err(Refusal::Filesystem(refusal))),
            ext4::Reading::Nothing => {
                step.old_bytes = foreign::size_bytes(kind, &room)?;
                let full = step.old_bytes.is_some_and(|size| foreign::fills(size, place.new_bytes));
                step.new_bytes = step.old_bytes.filter(|_| full);
                return Ok(if full { Ok(()) } else { Err(Refusal::Unsupported(contents)) });
            }
        };
        self.fill_ext(&filesystem, disk, place, depth)
    }

    /// The same, of ext2, ext3 or ext4.
    fn fill_ext(
        &mut self,
        filesystem: &Filesystem,
        disk: &dyn BlockDevice,
        place: Place,
        depth: Depth,
    ) -> Result<Result<(), Refusal>> {
        let refused = |refusal| Ok(Err(Refusal::Filesystem(refusal)));
        let old_bytes = filesystem.size_bytes();
        let new_bytes = match old_bytes > place.old_bytes {
            true => Err(ext4::Refusal::BeyondDevice {
                size_bytes: old_bytes,
                device_bytes: place.old_bytes,
            }),
            false => filesystem.grown_size_bytes(place.new_bytes),
        };
        if let Some(step) = &mut self.filesystem {
            step.label = filesystem.label();
            step.uuid = Some(filesystem.uuid().to_string());
            step.old_bytes = Some(old_bytes);
            step.new_bytes = new_bytes.as_ref().ok().copied();
        }
        match new_bytes {
            Err(refusal) => return refused(refusal),
            Ok(new_bytes) if new_bytes == old_bytes => return Ok(Ok(())),
            Ok(_) => {}
        }
        if let Some(array) = foreign::owner_of(&Slice::new(disk, place.start, place.old_bytes))? {
            return Ok(Err(Refusal::Member(array)));
        }
        // Which of the two the guest uses, nobody can tell.
        if let Some(kind) = second_filesystem(&Slice::new(disk, place.start, place.old_bytes))? {
            return Ok(Err(Refusal::Unsupported(Contents::Filesystem(kind))));
        }
        if depth == Depth::Outline {
            return Ok(Ok(()));
        }
        let room = Slice::new(disk, place.start, place.new_bytes);
        match filesystem.growth(&room, place.new_bytes)? {
            Ok(growth) => self.edits.extend_at(place.start, growth.edits),
            Err(refusal) => return refused(refusal),
        }
        Ok(Ok(()))
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Tables and superblocks.
    Outline,
    /// Everything that a plan relies on.
    Plan,
}

/// What a filesystem has to itself, in bytes: where it begins on the disk, its length now and
/// afterwards.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    old_bytes: u64,
    new_bytes: u64,
}

/// The partition that ought to grow: the one with boot2docker's data, else the last one on the
/// disk. Behind a filesystem that could grow, a swap partition is not what anybody wants to grow:
/// then it is the filesystem before it, and it is for the table to say that it is not the last.
fn data_partition<'a>(disk: &dyn BlockDevice, table: &'a Table) -> Result<Option<&'a Partition>> {
    let Some(last) = table.last() else { return Ok(None) };
    let mut with_ext = Vec::new();
    for partition in table.partitions() {
        let place = Slice::new(disk, partition.start_bytes, partition.len_bytes);
        let ext4::Reading::Filesystem(filesystem) = Filesystem::read(&place)? else { continue };
        if filesystem.label().as_deref() == Some(DATA_LABEL) {
            return Ok(Some(partition));
        }
        with_ext.push(partition);
    }
    if with_ext.iter().any(|partition| partition.number == last.number) {
        return Ok(Some(last));
    }
    let place = Slice::new(disk, last.start_bytes, last.len_bytes);
    let is_swap = identify(&place)? == Contents::Volume(super::VolumeKind::Swap);
    let largest = with_ext.into_iter().max_by_key(|partition| partition.len_bytes);
    Ok(if is_swap { largest.or(Some(last)) } else { Some(last) })
}
