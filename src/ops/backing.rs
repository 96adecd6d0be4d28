//! The backing file of a new overlay: found, opened with everything below it, and named the way
//! the overlay will store it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::choices::BackingStore;
use super::context::Context;
use super::options::BackingOptions;
use crate::block::{BlockDevice, DeviceOptions};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::{FileId, FileStorage, folder_of, resolve};
use crate::image::chain::Link;
use crate::image::gate::{MAX_CHAIN_DEPTH, is_protocol};
use crate::image::journal::refuse_pending;
use crate::image::probe::Format;
use crate::image::{Image, refuse_dependents};
use crate::qcow2::{BackingName, MAX_BACKING_NAME};

/// A backing file, open and locked against writers.
pub(super) struct Base {
    /// Where it is.
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Its name as the overlay stores it.
    pub(super) name: Vec<u8>,
    pub(super) image: Image,
}

/// Where the backing file of an overlay at `overlay` is, without symbolic links.
///
/// # Errors
/// What finding it says.
pub(super) fn backing_path(options: &BackingOptions, overlay: &Path) -> Result<PathBuf> {
    resolve(&as_given(options, &folder_of(overlay)?))
}

/// The path that the caller means. Readers resolve stored characters against the image's folder: so
/// do we.
fn as_given(options: &BackingOptions, folder: &Path) -> PathBuf {
    match options.store {
        Some(BackingStore::AsGiven) => folder.join(&options.path),
        _ => options.path.clone(),
    }
}

impl Base {
    /// Looks at the backing file of an image that lies at `overlay` already, and gets its name and
    /// nothing else: what is below that file need not be there, and is told in `notes` where it is
    /// not. `recorded` is the format that the image has for the file so far, believed where none is
    /// told.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn look(
        options: &BackingOptions,
        recorded: Option<&[u8]>,
        overlay: &Path,
        notes: &mut Vec<String>,
        context: Context<'_>,
    ) -> Result<(BackingName, u64)> {
        let recorded = match recorded {
            Some(b"raw") => Some(super::Format::Raw),
            Some(b"qcow2") => Some(super::Format::Qcow2),
            _ => None,
        };
        let format = options.format.or(recorded);
        let options = BackingOptions { format, ..options.clone() };
        let found = Found::open(&options, overlay, context)?;
        match context.opening().below(&found.link, &found.above) {
            Err(error) if error.kind() == ErrorKind::BackingCycle => return Err(error),
            Err(error) => notes.push(format!("below the new backing file: {error}")),
            Ok(below) => require_depth(&found.path, below.len())?,
        }
        let size = match &found.link.header {
            Some(header) => header.virtual_size,
            None => found.link.storage.info()?.len,
        };
        let format = found.link.format.name().as_bytes().to_vec();
        Ok((BackingName { name: found.name, format: Some(format) }, size))
    }

    /// Opens the backing file of an overlay that will lie at `overlay`.
    ///
    /// # Errors
    /// [`BackingMissing`](ErrorKind::BackingMissing), [`FormatMismatch`](ErrorKind::FormatMismatch)
    /// when its format is neither told nor beyond doubt,
    /// [`BackingCycle`](ErrorKind::BackingCycle) also when the chain reaches the file that the
    /// overlay would replace, [`BadRequest`](ErrorKind::BadRequest) for a name too long to store.
    pub(super) fn open(
        options: &BackingOptions,
        overlay: &Path,
        context: Context<'_>,
    ) -> Result<Base> {
        let Found { path, name, link, above } = Found::open(options, overlay, context)?;
        let opening = context.opening();
        let below = opening.below(&link, &above)?;
        require_depth(&path, below.len())?;
        let format = link.format;
        let image = opening.assemble(link, below, &above, &DeviceOptions::default())?;
        Ok(Base { path, format, name, image })
    }

    /// What the overlay records.
    pub(super) fn backing_name(&self) -> BackingName {
        let format = self.format.name().as_bytes().to_vec();
        BackingName { name: self.name.clone(), format: Some(format) }
    }

    /// The size of the disk below, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.image.size()
    }
}

/// A backing file, open, and not yet put together with what is below it.
struct Found {
    path: PathBuf,
    /// Its name as the overlay stores it.
    name: Vec<u8>,
    link: Link,
    /// What must not come again below it.
    above: Vec<FileId>,
}

impl Found {
    fn open(options: &BackingOptions, overlay: &Path, context: Context<'_>) -> Result<Found> {
        let folder = folder_of(overlay)?;
        let given = as_given(options, &folder);
        let path = resolve(&given).map_err(|error| missing(error, &given))?;
        let above: Vec<FileId> = FileId::of(overlay).into_iter().collect();
        // Before it is opened: our own lock on what is replaced would be in the way.
        if above.contains(&FileId::of(&path)?) {
            let message = "the backing file is the image's own path";
            return Err(Error::new(ErrorKind::BackingCycle, message).at_path(&path));
        }
        let told = options.format.map(Format::from);
        let link = context.opening().named_by_caller(&path, told, false)?;
        if link.format == Format::Raw && told.is_none() {
            let message = "a backing file is never guessed to be raw: its guest may change what it looks like";
            return Err(Error::new(ErrorKind::FormatMismatch, message).at_path(&path));
        }
        if link.format == Format::Raw {
            refuse_pending(&path)?;
        }
        let name = stored_name(options, &folder, &given)?;
        Ok(Found { path, name, link, above })
    }
}

/// Refuses another name for what is below `disk` where images in its folder lie above it: they would
/// show what the new file has. Where the old one is gone they show nothing that could change, and where
/// it is the same file they go on to show the same.
///
/// # Errors
/// [`HasDependents`](ErrorKind::HasDependents), and what finding the disk says.
pub(super) fn refuse_another_below(
    disk: &FileStorage,
    old: Option<&BackingName>,
    new: Option<&BackingName>,
) -> Result<()> {
    let folder = folder_of(disk.path())?;
    let file = |backing: &BackingName| FileId::of(&folder.join(OsStr::from_bytes(&backing.name)));
    let shows_another = match old {
        Some(old) if !is_protocol(&old.name) => match file(old) {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            now => new.is_none_or(|new| new.format != old.format || file(new).ok() != now.ok()),
        },
        _ => true,
    };
    if shows_another { refuse_dependents(disk.path()) } else { Ok(()) }
}

/// Refuses a file with so many images below it as the backing file of another one.
fn require_depth(path: &Path, below: usize) -> Result<()> {
    if below.saturating_add(2) > MAX_CHAIN_DEPTH {
        let message = format!("the backing chain has more than {MAX_CHAIN_DEPTH} images");
        let error = Error::new(ErrorKind::BackingCycle, message).in_case(Case::TooDeep);
        return Err(error.at_path(path));
    }
    Ok(())
}

fn missing(error: Error, path: &Path) -> Error {
    if error.kind() == ErrorKind::NotFound {
        let message = "the backing file does not exist";
        return Error::new(ErrorKind::BackingMissing, message).at_path(path);
    }
    error
}

/// The characters that the overlay stores.
pub(super) fn stored_name(
    options: &BackingOptions,
    folder: &Path,
    given: &Path,
) -> Result<Vec<u8>> {
    // The last component stays as named: a link such as `latest.qcow2` is kept.
    let target = match given.file_name() {
        Some(last) => folder_of(given)?.join(last),
        None => resolve(given)?,
    };
    let relative = || relative_path(folder, &target);
    let path = match options.store {
        Some(BackingStore::AsGiven) => options.path.clone(),
        Some(BackingStore::Absolute) => target,
        Some(BackingStore::Relative) => relative(),
        None => {
            let relative = relative();
            let parents = relative.components().filter(|c| *c == Component::ParentDir).count();
            if parents <= 1 { relative } else { target }
        }
    };
    let mut name = path.as_os_str().as_bytes().to_vec();
    let first = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    if first.contains(&b':') {
        // QEMU would take what stands before the colon for a protocol.
        if options.store == Some(BackingStore::AsGiven) {
            let message = "the backing file name would be read as a protocol: put ./ before it";
            return Err(Error::new(ErrorKind::BadRequest, message));
        }
        name.splice(0..0, *b"./");
    }
    if name.len() > MAX_BACKING_NAME {
        let len = name.len();
        let message =
            format!("backing file name of {len} bytes: at most {MAX_BACKING_NAME} are allowed");
        return Err(Error::new(ErrorKind::BadRequest, message));
    }
    Ok(name)
}

/// The way from one folder to a file, both without symbolic links in their folders.
fn relative_path(from: &Path, to: &Path) -> PathBuf {
    let (mut from, mut to) = (from.components().peekable(), to.components().peekable());
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_lead_from_folder_to_file() {
        let way = |from: &str, to: &str| relative_path(Path::new(from), Path::new(to));
        assert_eq!(way("/a/b", "/a/b/c.qcow2"), Path::new("c.qcow2"));
        assert_eq!(way("/a/b", "/a/c/d.qcow2"), Path::new("../c/d.qcow2"));
        assert_eq!(way("/a/b", "/x"), Path::new("../../x"));
    }
}
