//! An image as a disk: every range checked, every change ordered.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::geometry::GuestOffset;
use super::lengths::len_of;
use super::mappings::Mapped;
use super::open::Qcow2;
use crate::block::{
    BlockDevice, Content, Extent, ExtentKind, Extents, is_zero, require_inside, require_run,
};
use crate::error::{Error, ErrorKind, Result};

impl BlockDevice for Qcow2 {
    fn size(&self) -> u64 {
        self.header.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        require_inside(self.size(), "read", offset, len_of(buf))?;
        self.read_mapped(GuestOffset::new(offset), buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.require_writable("write", offset, len_of(data))?;
        if self.options.detect_zeroes && is_zero(data) {
            return self.telling(|| self.zero_mapped(GuestOffset::new(offset), len_of(data)));
        }
        self.telling(|| self.write_mapped(GuestOffset::new(offset), data))
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.require_writable("write of zeros", offset, len)?;
        self.telling(|| self.zero_mapped(GuestOffset::new(offset), len))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.require_writable("discard", offset, len)?;
        self.telling(|| self.discard_mapped(GuestOffset::new(offset), len))
    }

    fn flush(&self) -> Result<()> {
        self.write_back(&self.order()?)
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        let wanted = require_run(self.size(), offset, end)?;
        let at = GuestOffset::new(offset);
        let found = self.run_for(at, usize::try_from(wanted).unwrap_or(usize::MAX));
        let (live, run) = found.map_err(|error| error.at_guest_offset(offset))?;
        drop(live);
        let found = self.mapped(at, run);
        Ok(Extent { offset, len: found.len.min(wanted), kind: found.kind })
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        let mut mappings = self.mappings();
        Extents::with(range, move |offset, end| {
            let Mapped { offset, len, kind, .. } = mappings.from(offset, end)?;
            Ok(Extent { offset, len, kind })
        })
    }

    fn content(&self, offset: u64, end: u64) -> Result<Content> {
        let Extent { len, kind, .. } = self.extent(offset, end)?;
        let end = offset.saturating_add(len);
        match (kind, &self.backing) {
            (ExtentKind::Data { host_offset }, _) => {
                // Room that was laid out and never written is a hole of the file.
                let run = self.data().run(host_offset, host_offset.saturating_add(len))?;
                let len = run.end.saturating_sub(host_offset);
                Ok(Content { is_zero: run.is_hole, end: offset.saturating_add(len) })
            }
            (ExtentKind::Unallocated, Some(below)) if offset < below.size() => {
                below.content(offset, end.min(below.size()))
            }
            (ExtentKind::Unallocated, None) => {
                Ok(Content { is_zero: self.header.backing.is_none(), end })
            }
            (ExtentKind::Zero | ExtentKind::Unallocated, _) => Ok(Content { is_zero: true, end }),
            (ExtentKind::Compressed, _) => Ok(Content { is_zero: false, end }),
        }
    }
}

impl Qcow2 {
    /// Runs a change, and where it fails half-way says that something was
    /// [changed](Error::changed): in a file, or in the tables that the next flush writes. What
    /// other threads change meanwhile counts too.
    pub(super) fn telling<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let changes = || (self.failure.changes(), self.entries_changed.load(Ordering::Relaxed));
        let before = changes();
        change().map_err(|error| error.after_changes_if(changes() != before))
    }

    fn require_writable(&self, what: &str, offset: u64, len: u64) -> Result<()> {
        require_inside(self.size(), what, offset, len)?;
        match self.options.writable {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Permission, "the image was opened to be read")),
        }
    }
}
