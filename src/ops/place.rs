//! Where a new file goes, and what it takes over from the one that it replaces.

use std::path::Path;

use super::choices::Format;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{DEFAULT_MODE, FileStorage, Occupant, Owner, Publish};
use crate::image::journal::refuse_orphan;
use crate::image::probe;

/// How a new file is published.
#[derive(Debug)]
pub(super) struct Place {
    /// Its permission bits.
    pub(super) mode: u32,
    /// Its owner, where that is not who runs the program.
    pub(super) owner: Option<Owner>,
    /// In whose place it comes.
    pub(super) publish: Publish,
}

impl Place {
    /// In the place of `replaced`, if there is one: that hands down its mode and owner, unless
    /// others are asked for. Else at `target`, unless the journal of a disk that is gone lies
    /// beside it.
    pub(super) fn of(
        target: &Path,
        replaced: Option<&FileStorage>,
        mode: Option<u32>,
        owner: Option<&str>,
    ) -> Result<Place> {
        if replaced.is_none() {
            refuse_orphan(target)?;
        }
        let old = replaced.map(FileStorage::info).transpose()?;
        let owner = match owner {
            Some(owner) => Some(Owner::parse(owner)?),
            None => old.map(|old| Owner { user: old.user, group: Some(old.group) }),
        };
        let mode = mode.or_else(|| old.map(|old| old.mode & 0o777)).unwrap_or(DEFAULT_MODE);
        let publish = old.map_or(Publish::NoReplace, |old| Publish::Replace(old.id));
        Ok(Place { mode, owner, publish })
    }
}

/// Whether a file is where `target`, which the caller named `path`, will be.
///
/// # Errors
/// [`NotADisk`](ErrorKind::NotADisk) for a folder, [`Exists`](ErrorKind::Exists) for a link that
/// leads nowhere: neither is replaced.
pub(super) fn is_taken(path: &Path, target: &Path) -> Result<bool> {
    let refuse = |kind, why: &str| Err(Error::new(kind, why).at_path(path));
    match Occupant::of(target)? {
        Occupant::Nobody => Ok(false),
        Occupant::File => Ok(true),
        Occupant::LinkToNowhere => {
            refuse(ErrorKind::Exists, "is a symbolic link that leads nowhere")
        }
        Occupant::Folder => refuse(ErrorKind::NotADisk, "is a folder: name a file in it"),
    }
}

/// That there is a file already.
pub(super) fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Exists, "exists already").at_path(path)
}

/// Refuses to force what is not done.
///
/// # Errors
/// [`IncompatibleOptions`](ErrorKind::IncompatibleOptions).
pub(super) fn refuse_idle_force(force: bool, replaces: bool) -> Result<()> {
    if !force || replaces {
        return Ok(());
    }
    let message = "force is of use with if_exists replace only: nothing else is lost";
    Err(Error::new(ErrorKind::IncompatibleOptions, message).in_field("force"))
}

/// Notes a name that promises another format than the new disk has.
pub(super) fn note_name(path: &Path, format: Format, notes: &mut Vec<String>) {
    let promised = probe::Format::promised_by(path).map(Format::from);
    if let Some(promised) = promised.filter(|promised| *promised != format) {
        notes.push(format!(
            "the name promises {promised}: other verbs will have to be told that the format is \
             {format}"
        ));
    }
    if promises_foreign(path).is_some() {
        notes.push(format!("the disk is {format}, whatever its name says"));
    }
}

/// Refuses the path of a new disk that promises a format which is not made here, unless the format is
/// `told`.
///
/// # Errors
/// [`BadRequest`](ErrorKind::BadRequest).
pub(super) fn refuse_foreign_name(path: &Path, told: Option<Format>) -> Result<()> {
    let Some(promised) = promises_foreign(path).filter(|_| told.is_none()) else { return Ok(()) };
    let message =
        format!("the name promises {promised}, which is not made here: say format raw or qcow2");
    Err(Error::new(ErrorKind::BadRequest, message).at_path(path).in_field("format"))
}

/// The format that is not handled here and that the name of a file promises.
fn promises_foreign(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_ascii_lowercase();
    ["vmdk", "vhd", "vhdx", "vdi", "qed", "dmg"].into_iter().find(|foreign| extension == *foreign)
}
