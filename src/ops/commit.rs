//! `commit`: what a disk holds goes into the image below it, or into one further down.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backing::stored_name;
use super::choices::Format;
use super::context::Context;
use super::existing::Existing;
use super::options::BackingOptions;
use super::rebase::note_leaked;
use super::resize::note_settled;
use super::wire::{bytes_hex, choice, lossy};
use crate::block::DeviceOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{FileId, folder_of, unpublish};
use crate::image::chain::Link;
use crate::image::commit::{Commit, Then};
use crate::image::refuse_dependents_beside;
use crate::qcow2::BackingName;

choice! {
    /// What becomes of a disk once the image below has what it held.
    #[derive(Default)]
    Overlay {
        /// It is emptied: it lies above that image and has nothing of its own.
        #[default]
        Empty = "empty",
        /// It stays as it is, and holds what that image has now too.
        Keep = "keep",
        /// Its file is removed.
        Delete = "delete",
    }
}

/// A disk whose contents go down.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// The disk: a qcow2 image above a backing file.
    pub path: PathBuf,
    /// Its format, where name and content leave a doubt. Default: what they agree on.
    pub format: Option<Format>,
    /// The image that gets its contents, and those of the images between. Default: its backing
    /// file, which must then lie where `allow` lets images have something written.
    pub into: Option<PathBuf>,
    /// What becomes of the disk. Default: `empty`.
    #[serde(default)]
    pub overlay: Overlay,
    /// Whether what other images and snapshots show may change. Default: `false`.
    #[serde(default)]
    pub force: bool,
}

impl CommitRequest {
    /// Into the backing file of `path`, with every default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        CommitRequest { path, format: None, into: None, overlay: Overlay::Empty, force: false }
    }
}

/// What was committed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CommitReport {
    /// The disk.
    pub path: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes_hex: Option<String>,
    /// Whether anything was written.
    pub changed: bool,
    /// The image that has its contents now.
    pub base: String,
    /// Its bytes in hexadecimal, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_bytes_hex: Option<String>,
    /// The format of that image.
    pub base_format: Format,
    /// The size of that image's disk before, in bytes.
    pub old_base_virtual_size_bytes: u64,
    /// Its size now, in bytes.
    pub base_virtual_size_bytes: u64,
    /// Data that was written to it, in bytes.
    pub data_bytes: u64,
    /// What was made zeros in it, in bytes.
    pub zero_bytes: u64,
    /// What became of the disk.
    pub overlay: Overlay,
    /// Bytes of the disk's file whose clusters were freed.
    pub freed_bytes: u64,
    /// Images between the two, whose own disks may show something else now, nearest to the disk
    /// first.
    pub between: Vec<String>,
    /// What else the caller should know.
    pub notes: Vec<String>,
}

/// Commits the disk. Whatever fails, and where the power goes meanwhile, the disk shows what it
/// showed before, if not by what it holds, then by what is below.
///
/// # Errors
/// [`BadRequest`](ErrorKind::BadRequest) where nothing is below the disk;
/// [`HasDependents`](ErrorKind::HasDependents) where other images lie above one that is going to show
/// something else, and [`HasSnapshots`](ErrorKind::HasSnapshots) where internal snapshots do, unless
/// forced; [`BackingRefused`](ErrorKind::BackingRefused) for a backing file that the policy does not
/// let be written; [`Corrupt`](ErrorKind::Corrupt); as [`Commit::run`].
pub fn commit(request: &CommitRequest, context: Context<'_>) -> Result<CommitReport> {
    let existing = Existing::open_to_change(&request.path, request.format, context)?;
    let mark = existing.mark();
    let settled = existing.settled().map(note_settled);
    let mut report = commit_open(existing.into_link(), request, context).map_err(mark)?;
    report.notes.extend(settled);
    Ok(report)
}

fn commit_open(top: Link, request: &CommitRequest, context: Context<'_>) -> Result<CommitReport> {
    let opening = context.opening();
    let (between, base) = opening.down_to(&top, request.into.as_deref())?;
    let chain = Chain { top, between, base };
    chain.refuse(request)?;
    let mut notes = chain.notes(request);
    let stale = chain.between.iter().map(|link| lossy(&link.path)).collect::<Vec<_>>();
    let base_path = request.into.clone().unwrap_or_else(|| chain.base.path.clone());
    let base_format = chain.base.format.into();
    let (top_path, top_id) = (chain.top.storage.path().to_owned(), chain.top.storage.id()?);
    let new_backing = chain.new_backing(request)?;

    let then = match request.overlay {
        Overlay::Empty => Then::Empty(new_backing.as_ref()),
        Overlay::Keep | Overlay::Delete => Then::Keep,
    };
    // Opening one to write to it makes its counts true first.
    let mended = chain.base.is_dirty();
    let commit = chain.open(context)?;
    let run = commit.run(then, context.task());
    let (disk, done) = run.map_err(|error| error.after_changes_if(mended))?;
    if request.overlay == Overlay::Delete {
        let removed = remove(&top_path, top_id);
        removed.map_err(|error| error.after_changes_if(done.changed()))?;
    }
    drop(disk);
    notes.extend(note_leaked(done.leaked_bytes));
    if let Some(why) = &done.bitmaps.lost {
        let base = base_path.display();
        notes.push(format!(
            "the bitmaps of {base} do not know of what was committed ({why}): they are invalid now"
        ));
    }
    if done.emptied.rebuilt {
        notes.push("the disk was not closed cleanly: its reference counts were rebuilt".to_owned());
    }
    let deleted = request.overlay == Overlay::Delete;
    Ok(CommitReport {
        path: lossy(&request.path),
        path_bytes_hex: bytes_hex(&request.path),
        changed: done.changed() || deleted || mended,
        base: lossy(&base_path),
        base_bytes_hex: bytes_hex(&base_path),
        base_format,
        old_base_virtual_size_bytes: done.old_base_size,
        base_virtual_size_bytes: done.base_size,
        data_bytes: done.data_bytes,
        zero_bytes: done.zero_bytes,
        overlay: request.overlay,
        freed_bytes: done.emptied.freed_bytes,
        between: stale,
        notes,
    })
}

/// Removes the file, if that is still what has the name.
fn remove(path: &Path, id: FileId) -> Result<()> {
    if FileId::of(path)? != id {
        let message = "was replaced by another file meanwhile";
        return Err(Error::new(ErrorKind::Exists, message).at_path(path));
    }
    unpublish(path)
}

/// The images that take part, locked.
struct Chain {
    top: Link,
    between: Vec<Link>,
    base: Link,
}

impl Chain {
    fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.top).chain(&self.between).chain([&self.base])
    }

    /// Refuses what would make something else show other bytes than before.
    fn refuse(&self, request: &CommitRequest) -> Result<()> {
        if request.force {
            return Ok(());
        }
        let known = self.links().map(|link| link.storage.id()).collect::<Result<Vec<_>>>()?;
        for link in self.between.iter().chain([&self.base]) {
            refuse_dependents_beside(link.storage.path(), &known)?;
        }
        if request.overlay == Overlay::Delete {
            refuse_dependents_beside(self.top.storage.path(), &known)?;
        }
        // Those of the base keep what is theirs, by copy on write.
        for link in std::iter::once(&self.top).chain(&self.between) {
            let count = link.header.as_ref().map_or(0, |header| header.snapshots.count);
            if count > 0 {
                let message = format!(
                    "internal snapshots ({count}) show what is below where they hold nothing, and \
                     that changes"
                );
                return Err(Error::new(ErrorKind::HasSnapshots, message).at_path(&link.path));
            }
        }
        Ok(())
    }

    /// The name of the image that an emptied disk lies above afterwards, where that is not its
    /// backing file already.
    fn new_backing(&self, request: &CommitRequest) -> Result<Option<BackingName>> {
        if self.between.is_empty() || request.overlay != Overlay::Empty {
            return Ok(None);
        }
        let path = self.base.path.clone();
        let options = BackingOptions { path: path.clone(), format: None, store: None };
        let name = stored_name(&options, &folder_of(&self.top.path)?, &path)?;
        let format = Some(self.base.format.name().as_bytes().to_vec());
        Ok(Some(BackingName { name, format }))
    }

    fn notes(&self, request: &CommitRequest) -> Vec<String> {
        let mut notes = Vec::new();
        if request.force {
            notes.push(
                "forced: other images above it, and snapshots, may show something else now"
                    .to_owned(),
            );
        }
        for link in &self.between {
            let path = link.path.display();
            notes.push(format!("the disk of {path} may show something else now: it lies between"));
        }
        notes
    }

    /// Opens what is read, each image by itself, and what is written, with all that is below it.
    fn open(self, context: Context<'_>) -> Result<Commit> {
        let opening = context.opening();
        let Chain { top, between, base } = self;
        let mut above = Vec::new();
        for link in std::iter::once(&top).chain(&between) {
            above.push(link.storage.id()?);
        }
        let below = opening.below(&base, &above)?;
        let mut known = above.clone();
        known.push(base.storage.id()?);
        for link in &below {
            known.push(link.storage.id()?);
        }
        let alone = |link: Link| {
            let own = link.storage.id()?;
            let others: Vec<_> = known.iter().copied().filter(|id| *id != own).collect();
            opening.assemble(link, Vec::new(), &others, &DeviceOptions::default())
        };
        let top = alone(top)?;
        let between = between.into_iter().map(alone).collect::<Result<_>>()?;
        let written = DeviceOptions { writable: true, ..DeviceOptions::default() };
        let base = opening.assemble(base, below, &above, &written)?;
        Ok(Commit { top, between, base })
    }
}
