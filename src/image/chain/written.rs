//! The part of a chain that changes: from an image down to the one below that is written.

use std::path::Path;

use super::{Link, Named, Opening, Seen};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{FileId, resolve};
use crate::image::journal::refuse_pending;
use crate::image::probe::Format;

impl Opening<'_> {
    /// What lies between `top` and the image below that is written, nearest first, and that one,
    /// locked for it: the file `base` if the caller names it, else the next one. Who names it trusts
    /// it; else it must lie where [`trust`](Opening::trust) lets images have something written.
    ///
    /// # Errors
    /// [`BadRequest`](ErrorKind::BadRequest) for a file that is not below `top`, and where nothing is;
    /// [`Dirty`](ErrorKind::Dirty) for a raw disk whose change was interrupted; as
    /// [`below`](Self::below).
    pub fn down_to(&self, top: &Link, base: Option<&Path>) -> Result<(Vec<Link>, Link)> {
        let Some(base) = base else { return self.down(top, None) };
        let path = resolve(base)?;
        let id = FileId::of(&path)?;
        if id == top.storage.id()? {
            let message = "is the disk itself, and not below it";
            return Err(Error::new(ErrorKind::BadRequest, message).at_path(base).in_field("into"));
        }
        let trust = self.trust.clone().and(path);
        Opening { trust: &trust, ..*self }.down(top, Some((base, id)))
    }

    fn down(&self, top: &Link, base: Option<(&Path, FileId)>) -> Result<(Vec<Link>, Link)> {
        let mut seen = Seen(vec![top.storage.id()?]);
        let mut between = Vec::new();
        loop {
            let mut found = false;
            let what = |path: &Path| {
                let id = FileId::of(path)?;
                found = base.is_none_or(|(_, base)| base == id);
                Ok(if found { Named::BackingFileToWrite } else { Named::BackingFile })
            };
            let next = self.next(between.last().unwrap_or(top), what, &mut seen)?;
            let Some(next) = next else { return Err(nothing(top, base)) };
            seen.require_depth(top)?;
            if found {
                if next.format == Format::Raw {
                    refuse_pending(&next.path)?;
                }
                return Ok((between, next));
            }
            between.push(next);
        }
    }
}

fn nothing(top: &Link, base: Option<(&Path, FileId)>) -> Error {
    match base {
        None => {
            Error::new(ErrorKind::BadRequest, "the disk has no backing file").at_path(&top.path)
        }
        Some((base, _)) => {
            let message = format!("is not in the backing chain of {}", top.path.display());
            Error::new(ErrorKind::BadRequest, message).at_path(base).in_field("into")
        }
    }
}
