//! Images that depend on a disk: those that lie above it show what it holds to their guests, and
//! those that keep their guest's data in it have nowhere else to look.
//!
//! A disk does not know them; they are found by what the images in a folder name. Nothing that is
//! found is opened but to read its header, and what a header names is only looked up.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::gate::{Named, protocol};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{Access, FileId, FileKind, FileStorage, Walk, resolve};
use crate::qcow2::{Header, MAGIC};
use crate::task::Cancel;

/// So many files of a disk's own folder are looked at, at most, before it is changed.
const MAX_BESIDE: usize = 1 << 16;
/// So many files of a tree are looked at, at most.
const MAX_FILES: usize = 1 << 17;
/// So many of those that could not be looked at are told.
const MAX_TOLD: usize = 100;

/// An image that depends on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// Where it was found.
    pub path: PathBuf,
    /// What it names the file below it for.
    pub named: Named,
    /// Where the file that it names was found; the disk itself, where `depth` is 1.
    pub below: PathBuf,
    /// How many steps it is away from the disk, from 1.
    pub depth: u64,
}

/// Who depends on a disk, as far as a search went.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Dependents {
    /// Those that were found, the nearest first, in the order of their paths.
    pub found: Vec<Dependent>,
    /// How many files were looked at.
    pub files: u64,
    /// How many files and folders could not be looked at: an image among them may depend on the
    /// disk.
    pub unread: u64,
    /// Why, of the first of them.
    pub why_unread: Vec<Error>,
    /// Images that name what is below them in a way that is not followed (`json:`, `nbd:` and the
    /// like): they may depend on the disk.
    pub not_followed: Vec<PathBuf>,
    /// Whether there were more files than are looked at.
    pub has_more: bool,
}

/// Finds all images under `folder`, however deep, that depend on the disk at `path`, directly or by
/// way of one another. Symbolic links to folders are not followed.
///
/// # Errors
/// [`Cancelled`](ErrorKind::Cancelled), what finding the disk says, and listing the folder.
pub fn find_dependents(path: &Path, folder: &Path, cancel: &Cancel) -> Result<Dependents> {
    let (path, folder) = (resolve(path)?, resolve(folder)?);
    let disk = FileId::of(&path)?;
    let mut search = Search::default();
    let mut walk = Walk::under(&folder).peekable();
    if let Some(Err(error)) = walk.next_if(Result::is_err) {
        return Err(error);
    }
    for file in walk {
        cancel.check()?;
        if search.dependents.files >= MAX_FILES as u64 {
            search.dependents.has_more = true;
            break;
        }
        match file {
            Ok(file) => search.look_at(&file),
            Err(error) => search.could_not(error),
        }
    }
    Ok(search.above(disk, path))
}

/// Refuses where an image in the folder of this disk depends on it. Images in other folders are not
/// looked for, nor those in a folder of very many files.
///
/// # Errors
/// [`HasDependents`](ErrorKind::HasDependents), and what finding the disk says.
pub fn refuse_dependents(path: &Path) -> Result<()> {
    refuse_dependents_beside(path, &[])
}

/// The same, which says that the image `cannot` have something done to it.
///
/// # Errors
/// As [`refuse_dependents`].
pub fn refuse_dependents_of(path: &Path, cannot: &str) -> Result<()> {
    refuse_dependents(path).map_err(|error| match error.kind() {
        ErrorKind::HasDependents => {
            let message = format!("{cannot}: {}", error.without_path());
            Error::new(ErrorKind::HasDependents, message).at_path(path)
        }
        _ => error,
    })
}

/// The same, where those that are `known` may depend on it.
///
/// # Errors
/// As [`refuse_dependents`].
pub fn refuse_dependents_beside(path: &Path, known: &[FileId]) -> Result<()> {
    let path = resolve(path)?;
    let disk = FileId::of(&path)?;
    let Some(folder) = path.parent() else { return Ok(()) };
    let others = Walk::within(folder).flatten().take(MAX_BESIDE).filter(|other| *other != path);
    for other in others {
        let Ok(Looked::Image { id, names, .. }) = look_at(&other) else { continue };
        let named = names.into_iter().find(|(_, below)| *below == disk);
        if let Some((named, _)) = named.filter(|_| !known.contains(&id)) {
            let message = format!("it is the {named} of {}", other.display());
            return Err(Error::new(ErrorKind::HasDependents, message).at_path(&path));
        }
    }
    Ok(())
}

/// What a file is to a search.
enum Looked {
    /// Nothing: no qcow2 image, or one that stands alone.
    Alone,
    /// An image.
    Image {
        id: FileId,
        /// The files that it names and that exist.
        names: Vec<(Named, FileId)>,
        /// Whether it names something in a way that is not followed.
        is_odd: bool,
    },
}

/// Reads the header of a file, if it has one, past damage: what is damaged may be mended. Pipes,
/// sockets and devices are nothing, and are not opened.
fn look_at(file: &Path) -> Result<Looked> {
    if !FileKind::of(file).is_ok_and(|kind| kind == FileKind::Regular) {
        return Ok(Looked::Alone);
    }
    let file = resolve(file)?;
    let storage = FileStorage::open(&file, Access::Read)?;
    let mut magic = [0; MAGIC.len()];
    if storage.read_at(0, &mut magic)? < magic.len() || magic != MAGIC {
        return Ok(Looked::Alone);
    }
    let header = Header::read_past_damage(&storage).map_err(|error| error.at_path(&file))?;
    let backing = header.backing.as_ref().map(|backing| (Named::BackingFile, &backing.name[..]));
    let data = header.data_file().map(|name| (Named::DataFile, name));
    let (mut names, mut is_odd) = (Vec::new(), false);
    for (named, name) in backing.into_iter().chain(data) {
        let plain = name.strip_prefix(b"file:").unwrap_or(name);
        let odd = protocol(plain).is_some();
        let known = names.len();
        // Of a name like `json:{"file":{"filename":"base.qcow2"}}`, any string may be the file.
        let parts = plain.split(move |&byte| odd && byte == b'"');
        let Some(folder) = file.parent() else { continue };
        for part in parts.filter(|part| !part.is_empty()) {
            if let Ok(below) = FileId::of(&folder.join(OsStr::from_bytes(part))) {
                names.push((named, below));
            }
        }
        is_odd |= odd && names.len() == known;
    }
    match names.is_empty() && !is_odd {
        true => Ok(Looked::Alone),
        false => Ok(Looked::Image { id: storage.id()?, names, is_odd }),
    }
}

/// An image that was found, and which file it is.
#[derive(Debug, Clone)]
struct Above {
    path: PathBuf,
    id: FileId,
    named: Named,
}

#[derive(Default)]
struct Search {
    /// By the file that they name.
    above: HashMap<FileId, Vec<Above>>,
    dependents: Dependents,
}

impl Search {
    fn look_at(&mut self, file: &Path) {
        self.dependents.files += 1;
        match look_at(file) {
            Ok(Looked::Alone) => {}
            Ok(Looked::Image { id, names, is_odd }) => {
                if is_odd {
                    self.dependents.not_followed.push(file.to_owned());
                }
                for (named, below) in names {
                    let above = Above { path: file.to_owned(), id, named };
                    self.above.entry(below).or_default().push(above);
                }
            }
            Err(error) => self.could_not(error.at_path(file)),
        }
    }

    fn could_not(&mut self, error: Error) {
        self.dependents.unread += 1;
        if self.dependents.why_unread.len() < MAX_TOLD {
            self.dependents.why_unread.push(error);
        }
    }

    /// What depends on `disk`: each name once, though images that lie above one another in a circle
    /// come back to themselves.
    fn above(mut self, disk: FileId, path: PathBuf) -> Dependents {
        let mut level = vec![(disk, path)];
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            let mut next = Vec::new();
            for (below, below_path) in level {
                let mut above = self.above.remove(&below).unwrap_or_default();
                above.sort_by(|a, b| a.path.cmp(&b.path));
                for Above { path, id, named } in above {
                    next.push((id, path.clone()));
                    let below = below_path.clone();
                    self.dependents.found.push(Dependent { path, named, below, depth });
                }
            }
            level = next;
        }
        self.dependents.not_followed.sort();
        self.dependents
    }
}
