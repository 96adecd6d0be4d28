//! What is inside of a disk grows with it: the plan is `guest`'s, the writing `image`'s.

#[cfg(test)]
mod crash_tests;

use schemars::JsonSchema;
use serde::Serialize;

use super::choices::{GuestFs, PartitionTable};
use crate::block::{Patch, PatchContent};
use crate::error::{Error, ErrorKind, Result};
use crate::guest::edit::{Content, Edits, Stage};
use crate::guest::{
    FilesystemGrowth, FilesystemKind, InsideGrowth, InsideRequest, PartitionGrowth, Refusal,
};
use crate::image::Image;

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
    /// As planned, which may be that it stays as it is.
    Planned(InsideGrowth),
    /// It could not be read, and stays as it is.
    Unreadable(RefusalReport),
}

impl Inside {
    /// Looks at what is inside of an image that is going to have `disk_bytes`.
    ///
    /// # Errors
    /// Where it is required: [`GuestRefused`](ErrorKind::GuestRefused), and what reading says.
    pub(super) fn plan(
        image: &Image,
        disk_bytes: u64,
        guest_fs: GuestFs,
        restore: bool,
    ) -> Result<Inside> {
        let planned = require_whole(image)
            .and_then(|()| InsideGrowth::plan(image, InsideRequest { disk_bytes, restore }));
        let plan = match planned {
            Ok(plan) => plan,
            Err(error) => return Self::unreadable(error, guest_fs),
        };
        match &plan.refusal {
            Some(refusal) if guest_fs == GuestFs::Require => Err(refusal.to_error()),
            _ => Ok(Inside::Planned(plan)),
        }
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

    /// Nothing of it is changed after all, for what a change of the image said.
    pub(super) fn left(&mut self, error: &Error) -> RefusalReport {
        if let Inside::Planned(plan) = self {
            plan.edits = Edits::new();
        }
        RefusalReport::of_error(error)
    }

    /// What is to be written, in the stages in which that is safe.
    pub(super) fn stages(&self) -> Vec<Vec<Patch<'_>>> {
        let Inside::Planned(plan) = self else { return Vec::new() };
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
            Inside::Planned(plan) => plan.edits.is_empty(),
            Inside::Unreadable(_) => true,
        }
    }

    /// What became of it: as planned, unless it was `left` as it is.
    pub(super) fn report(&self, left: Option<RefusalReport>) -> GrowthReport {
        match self {
            Inside::Unreadable(refusal) => GrowthReport {
                contents: None,
                partition: None,
                filesystem: None,
                refusal: Some(refusal.clone()),
            },
            Inside::Planned(plan) => {
                let refusal = left.or_else(|| plan.refusal.as_ref().map(RefusalReport::of));
                let done = refusal.is_none();
                GrowthReport {
                    contents: Some(plan.contents.name().to_owned()),
                    partition: plan.partition.map(|step| partition(step, plan, done)),
                    filesystem: plan.filesystem.as_ref().map(|step| filesystem(step, done)),
                    refusal,
                }
            }
        }
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
        todo: left.then(|| grow_partition(step.number, plan.filesystem.as_ref())),
    }
}

fn filesystem(step: &FilesystemGrowth, done: bool) -> FilesystemGrowthReport {
    let left = !done && (step.new_bytes.is_none() || step.new_bytes > step.old_bytes);
    FilesystemGrowthReport {
        kind: step.kind.name().to_owned(),
        label: step.label.clone(),
        old_size_bytes: step.old_bytes,
        size_bytes: if done { step.new_bytes } else { step.old_bytes },
        todo: if left { grow_filesystem(step) } else { None },
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

fn grow_partition(number: u32, inside: Option<&FilesystemGrowth>) -> String {
    match inside.and_then(device_of) {
        Some(device) => format!("sudo growpart \"/dev/$(lsblk -no PKNAME \"{device}\")\" {number}"),
        None => format!("sudo growpart /dev/sda {number}"),
    }
}

/// `None` for filesystems that never grow.
fn grow_filesystem(filesystem: &FilesystemGrowth) -> Option<String> {
    let device = || device_of(filesystem).unwrap_or_else(|| "/dev/sda1".to_owned());
    match filesystem.kind {
        FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => {
            Some(format!("sudo resize2fs \"{}\"", device()))
        }
        FilesystemKind::Xfs => Some("sudo xfs_growfs /".to_owned()),
        FilesystemKind::Btrfs => Some("sudo btrfs filesystem resize max /".to_owned()),
        FilesystemKind::Ntfs
        | FilesystemKind::Fat
        | FilesystemKind::Exfat
        | FilesystemKind::Iso9660
        | FilesystemKind::Squashfs => None,
    }
}
