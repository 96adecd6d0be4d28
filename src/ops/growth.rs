//! What is inside of a disk grows with it: the plan is `guest`'s, the writing `image`'s.

#[cfg(test)]
mod crash_tests;

use schemars::JsonSchema;
use serde::Serialize;

use super::choices::{GuestFs, PartitionTable};
use crate::block::{BlockDevice, Extent, Patch, PatchContent};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::edit::{Content, Edits, Stage};
use crate::guest::ext4;
use crate::guest::{
    FilesystemGrowth, FilesystemKind, FillRequest, InsideGrowth, PartitionGrowth, Refusal,
};
use crate::image::{Image, refuse_dependents};
use crate::task::Cancel;

/// What became of what is inside of the disk.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GrowthReport {
    /// What the disk begins with: `empty`, `payload`, `mbr`, `gpt`, a filesystem, `swap`, `luks`,
    /// `lvm` or `unknown`; none where it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
    /// The partition that was to grow, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionGrowthReport>,
    /// The filesystem that was to grow, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemGrowthReport>,
    /// Why both were left as they are, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalReport>,
}

impl GrowthReport {
    /// Whether anything became larger.
    pub fn grew(&self) -> bool {
        let partition = self.partition.as_ref();
        let partition = partition.is_some_and(|step| step.size_bytes > step.old_size_bytes);
        let filesystem = self.filesystem.as_ref();
        partition || filesystem.is_some_and(|step| step.size_bytes > step.old_size_bytes)
    }

    fn without_todo(mut self) -> Self {
        self.partition.iter_mut().for_each(|step| step.todo = None);
        self.filesystem.iter_mut().for_each(|step| step.todo = None);
        self
    }
}

/// What became of a partition.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PartitionGrowthReport {
    /// The kind of its table.
    pub table: PartitionTable,
    /// Its number.
    pub number: u32,
    /// Its length before, in bytes.
    pub old_size_bytes: u64,
    /// Its length now, in bytes.
    pub size_bytes: u64,
    /// What is left to do, as a command for a shell in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// What became of a filesystem.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FilesystemGrowthReport {
    /// What it is: `ext4`, `xfs` and so on.
    pub kind: String,
    /// Its label, if it has one that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its size before, in bytes, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_size_bytes: Option<u64>,
    /// Its size now, in bytes, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// What is left to do, as a command for a shell in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// Why something is left as it is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct RefusalReport {
    /// What it is, for programs; there may be more of them one day.
    pub name: String,
    /// What it is, for people.
    pub message: String,
}

impl RefusalReport {
    pub(super) fn of(refusal: &Refusal) -> Self {
        RefusalReport { name: refusal.name().to_owned(), message: refusal.to_string() }
    }

    fn of_error(error: &Error) -> Self {
        RefusalReport { name: error.kind().name().to_owned(), message: error.to_string() }
    }
}

/// What is to become of what is inside, if it is looked at.
#[derive(Debug)]
pub(super) enum Inside {
    /// As planned, which may be that it stays as it is, unless it is left as it is after all.
    Planned {
        /// The plan.
        plan: InsideGrowth,
        /// Why nothing of it is done.
        left: Option<RefusalReport>,
    },
    /// It could not be read, and stays as it is.
    Unreadable(RefusalReport),
}

impl Inside {
    /// Looks at what is inside of an image that is going to have `disk_bytes`.
    ///
    /// # Errors
    /// Where it is required: [`GuestRefused`](ErrorKind::GuestRefused),
    /// [`HasDependents`](ErrorKind::HasDependents), and what reading says.
    pub(super) fn plan(
        image: &Image,
        disk_bytes: u64,
        guest_fs: GuestFs,
        restore: bool,
        cancel: &Cancel,
    ) -> Result<Inside> {
        let request = FillRequest { disk_bytes, restore };
        let disk = Stoppable { disk: image, cancel };
        let planned = require_whole(image).and_then(|()| InsideGrowth::plan(&disk, request));
        let mut inside = match planned {
            Ok(plan) => Inside::Planned { plan, left: None },
            Err(error) => return Self::unreadable(error, guest_fs),
        };
        if let Inside::Planned { plan: InsideGrowth { refusal: Some(refusal), .. }, .. } = &inside
            && guest_fs == GuestFs::Require
        {
            return Err(refusal.to_error());
        }
        if !inside.is_empty()
            && let Err(error) = refuse_dependents(image.path())
        {
            inside.leave(error, guest_fs)?;
        }
        Ok(inside)
    }

    /// Refuses where what is inside of an image could not fill one of `disk_bytes` above it.
    ///
    /// # Errors
    /// [`GuestRefused`](ErrorKind::GuestRefused), and what reading says.
    pub(super) fn require(image: &Image, disk_bytes: u64, cancel: &Cancel) -> Result<()> {
        let request = FillRequest { disk_bytes, restore: false };
        let plan = InsideGrowth::plan(&Stoppable { disk: image, cancel }, request)?;
        plan.refusal.map_or(Ok(()), |refusal| Err(refusal.to_error()))
    }

    /// What it is when the image could not be opened as a whole.
    ///
    /// # Errors
    /// The same, where growing is required, or the caller wants to stop.
    pub(super) fn unreadable(error: Error, guest_fs: GuestFs) -> Result<Inside> {
        match (guest_fs, error.kind()) {
            (GuestFs::Require, _) | (_, ErrorKind::Cancelled) => Err(error),
            _ => Ok(Inside::Unreadable(RefusalReport::of_error(&error))),
        }
    }

    /// Nothing of it is done after all, for this reason.
    ///
    /// # Errors
    /// The same, where growing is required, the caller wants to stop, or something was changed.
    pub(super) fn leave(&mut self, error: Error, guest_fs: GuestFs) -> Result<()> {
        if guest_fs == GuestFs::Require || error.kind() == ErrorKind::Cancelled || error.changed() {
            return Err(error);
        }
        if let Inside::Planned { plan, left } = self {
            plan.edits = Edits::new();
            *left = Some(RefusalReport::of_error(&error));
        }
        Ok(())
    }

    /// What is to be written, in the stages in which that is safe.
    pub(super) fn stages(&self) -> Vec<Vec<Patch<'_>>> {
        let Inside::Planned { plan, .. } = self else { return Vec::new() };
        let mut stages: Vec<(Stage, Vec<Patch<'_>>)> = Vec::new();
        for edit in &plan.edits {
            let content = match &edit.content {
                Content::Bytes(bytes) => PatchContent::Bytes(bytes),
                Content::Zeros(len) => PatchContent::Zeros(*len),
            };
            let patch = Patch { offset: edit.offset, content };
            match stages.last_mut() {
                Some((stage, patches)) if *stage == edit.stage => patches.push(patch),
                _ => stages.push((edit.stage, vec![patch])),
            }
        }
        stages.into_iter().map(|(_, patches)| patches).collect()
    }

    /// Whether nothing is to be written.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Inside::Planned { plan, .. } => plan.edits.is_empty(),
            Inside::Unreadable(_) => true,
        }
    }

    /// What the caller should know beside what became of it.
    pub(super) fn note(&self) -> Option<String> {
        match self {
            Inside::Planned { plan, .. } => plan.note.map(|note| note.to_string()),
            Inside::Unreadable(_) => None,
        }
    }

    /// What became of it.
    pub(super) fn report(&self) -> GrowthReport {
        match self {
            Inside::Unreadable(refusal) => GrowthReport {
                contents: None,
                partition: None,
                filesystem: None,
                refusal: Some(refusal.clone()),
            },
            Inside::Planned { plan, left } => {
                let refused = || plan.refusal.as_ref().map(RefusalReport::of);
                let refusal = left.clone().or_else(refused);
                let done = refusal.is_none();
                // What lies above the disk would be hurt by its guest as well.
                let below = ErrorKind::HasDependents.name();
                let to_do = refusal.as_ref().is_some_and(|refusal| refusal.name != below);
                let report = GrowthReport {
                    contents: Some(plan.contents.name().to_owned()),
                    partition: plan.partition.map(|step| partition(step, plan, done)),
                    filesystem: plan.filesystem.as_ref().map(|step| filesystem(step, plan, done)),
                    refusal,
                };
                if to_do { report } else { report.without_todo() }
            }
        }
    }
}

/// A disk that is not read any more once somebody asks to stop.
struct Stoppable<'a> {
    disk: &'a dyn BlockDevice,
    cancel: &'a Cancel,
}

impl BlockDevice for Stoppable<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.cancel.check()?;
        self.disk.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.write_zeroes(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        self.cancel.check()?;
        self.disk.extent(offset, end)
    }
}

/// Refuses an image of which a part was not opened: what is there would not be what is read.
fn require_whole(image: &Image) -> Result<()> {
    let names_below = image.header().is_some_and(|header| header.backing.is_some());
    if names_below && image.backing_file().is_none() {
        let message = "its backing file may not be opened, so what is inside cannot be read";
        return Err(Error::new(ErrorKind::BackingRefused, message));
    }
    Ok(())
}

fn partition(step: PartitionGrowth, plan: &InsideGrowth, done: bool) -> PartitionGrowthReport {
    let left = !done && step.new_bytes > step.old_bytes;
    PartitionGrowthReport {
        table: step.table.into(),
        number: step.number,
        old_size_bytes: step.old_bytes,
        size_bytes: if done { step.new_bytes } else { step.old_bytes },
        todo: if left { grow_partition(step.number, plan.filesystem.as_ref()) } else { None },
    }
}

fn filesystem(step: &FilesystemGrowth, plan: &InsideGrowth, done: bool) -> FilesystemGrowthReport {
    let todo = match (done, &plan.refusal) {
        (true, _) => None,
        (false, Some(Refusal::Filesystem(refusal))) => mend_filesystem(step, refusal),
        (false, _) if step.new_bytes.is_some() && step.new_bytes == step.old_bytes => None,
        (false, _) => grow_filesystem(step),
    };
    FilesystemGrowthReport {
        kind: step.kind.name().to_owned(),
        label: step.label.clone(),
        old_size_bytes: step.old_bytes,
        size_bytes: if done { step.new_bytes } else { step.old_bytes },
        todo,
    }
}

/// How the guest finds the device of a filesystem, whatever its disks are called.
fn device_of(filesystem: &FilesystemGrowth) -> Option<String> {
    let plain = |text: &&String| !text.is_empty() && text.chars().all(is_plain);
    let by_label = filesystem.label.as_ref().filter(plain).map(|label| format!("-L {label}"));
    let by_uuid = || filesystem.uuid.as_ref().map(|uuid| format!("-U {uuid}"));
    by_label.or_else(by_uuid).map(|by| format!("$(sudo blkid {by})"))
}

/// Whether a shell takes a character for itself.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.".contains(character)
}

/// `None` where nothing tells which of the guest's disks it is.
fn grow_partition(number: u32, inside: Option<&FilesystemGrowth>) -> Option<String> {
    let inside = inside?;
    let device = match (inside.kind, device_of(inside)) {
        (_, Some(device)) => device,
        (kind @ (FilesystemKind::Xfs | FilesystemKind::Btrfs), None) => {
            format!("$(findmnt -nvfo SOURCE -t {})", kind.name())
        }
        _ => return None,
    };
    Some(format!("sudo growpart \"/dev/$(lsblk -no PKNAME \"{device}\")\" {number}"))
}

/// What helps against what keeps an ext filesystem from growing.
fn mend_filesystem(step: &FilesystemGrowth, refusal: &ext4::Refusal) -> Option<String> {
    use ext4::Refusal::{BeyondDevice, NeedsRecovery, NotClean, Orphans};
    match refusal {
        // It would be cut.
        BeyondDevice { .. } => None,
        // What is mounted was recovered, and grows while it is.
        NeedsRecovery | NotClean | Orphans => grow_filesystem(step),
        refusal if refusal.is_damage() => {
            // Never while it is mounted.
            device_of(step).map(|at| format!("sudo umount \"{at}\" && sudo e2fsck -f \"{at}\""))
        }
        _ => grow_filesystem(step),
    }
}

/// `None` for filesystems that never grow.
fn grow_filesystem(filesystem: &FilesystemGrowth) -> Option<String> {
    let mounted = |kind: FilesystemKind| format!("\"$(findmnt -nfo TARGET -t {})\"", kind.name());
    match filesystem.kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => {
            device_of(filesystem).map(|device| format!("sudo resize2fs \"{device}\""))
        }
        kind @ FilesystemKind::Xfs => Some(format!("sudo xfs_growfs {}", mounted(kind))),
        kind @ FilesystemKind::Btrfs => {
            Some(format!("sudo btrfs filesystem resize max {}", mounted(kind)))
        }
        FilesystemKind::Ntfs
        | FilesystemKind::Fat
        | FilesystemKind::Exfat
        | FilesystemKind::Iso9660
        | FilesystemKind::Squashfs => None,
    }
}
