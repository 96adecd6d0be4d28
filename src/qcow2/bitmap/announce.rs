//! Bitmaps that stay true while the disk is written: what is going to change is marked as dirty before
//! it does. At each point the bitmaps have at least what was written, so that whenever the power goes
//! the next backup that builds on them copies enough.

use std::ops::Range;

use super::decide::BitmapChange;
use super::directory::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::qcow2::open::Qcow2;
use crate::task::Task;

/// What is going to be written, looked up as often as it takes.
pub trait DirtyRanges: std::fmt::Debug {
    /// Shows the parts of `range`, bytes of the disk, that are going to be written; those that touch
    /// may come in pieces.
    ///
    /// # Errors
    /// What looking it up says.
    fn each(&self, range: Range<u64>, visit: &mut dyn FnMut(Range<u64>)) -> Result<()>;
}

/// What became of an image's bitmaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Announced {
    /// Whether anything was written.
    pub changed: bool,
    /// Why the image will not vouch for its bitmaps any more, if it will not.
    pub lost: Option<String>,
}

impl Qcow2 {
    /// Has every bitmap that is to be kept up to date take `dirty` as dirty, and the image go on to
    /// vouch for its bitmaps; nothing else may be written through it afterwards. Disabled bitmaps, and
    /// those that somebody has in use or did not save, stay as they are. Where a bitmap can never be
    /// changed, since the header has no room or it has extra data that nobody here knows, all of them
    /// are given up with the first write. The caller must hold the image's lock. Everything is on the
    /// medium afterwards.
    ///
    /// # Errors
    /// What the storage says; [`NoSpace`](ErrorKind::NoSpace) on a block device too;
    /// [`Cancelled`](ErrorKind::Cancelled).
    pub(crate) fn announce_writes(
        &mut self,
        dirty: &dyn DirtyRanges,
        task: Task<'_>,
    ) -> Result<Announced> {
        let mut done = Announced::default();
        let mut bitmaps = self.bitmaps()?;
        bitmaps.retain(|bitmap| bitmap.is_enabled() && !bitmap.is_in_use());
        if bitmaps.iter().any(Bitmap::is_foreign) {
            let why = "one has extra data that is not known here";
            return Ok(Announced { lost: Some(why.to_owned()), ..done });
        }
        for Bitmap { name, .. } in &bitmaps {
            let marked = self.change_bitmaps(&BitmapChange::Mark(name, dirty), task.quiet());
            match marked {
                Ok(marked) => done.changed |= marked.changed,
                Err(error) if is_refusal(&error) => {
                    return Ok(Announced { lost: Some(error.to_string()), ..done });
                }
                Err(error) => return Err(error.after_changes_if(done.changed)),
            }
        }
        // Whatever was decided for the writes before is decided anew.
        self.settle().map_err(|error| error.after_changes_if(done.changed))?;
        self.options.keeps_contents = true;
        Ok(done)
    }
}

/// Whether something can never be, where all is as it was.
fn is_refusal(error: &Error) -> bool {
    let never = matches!(error.kind(), ErrorKind::UnsupportedFeature | ErrorKind::Corrupt);
    never && !error.changed()
}
