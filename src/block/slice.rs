//! A part of a disk, such as a partition, as a disk of its own.

use super::{BlockDevice, Content, Extent, require_inside, require_run};
use crate::error::Result;

/// The bytes of a disk from one offset to another, used through the disk.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    disk: &'a dyn BlockDevice,
    start: u64,
    len: u64,
}

impl<'a> Slice<'a> {
    /// The `len` bytes of `disk` from `start` on, as far as the disk has them.
    pub fn new(disk: &'a dyn BlockDevice, start: u64, len: u64) -> Self {
        let start = start.min(disk.size());
        Slice { disk, start, len: len.min(disk.size() - start) }
    }

    /// Where a range of it is on the disk.
    fn on_disk(&self, what: &str, offset: u64, len: u64) -> Result<u64> {
        require_inside(self.len, what, offset, len)?;
        Ok(self.start + offset)
    }
}

impl std::fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slice").field("start", &self.start).field("len", &self.len).finish()
    }
}

impl BlockDevice for Slice<'_> {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(self.on_disk("read", offset, buf.len() as u64)?, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.disk.write_at(self.on_disk("write", offset, data.len() as u64)?, data)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.write_zeroes(self.on_disk("write of zeros", offset, len)?, len)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.discard(self.on_disk("discard", offset, len)?, len)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn extent(&self, offset: u64, end: u64) -> Result<Extent> {
        require_run(self.len, offset, end)?;
        let extent = self.disk.extent(self.start + offset, self.start + end)?;
        Ok(Extent { offset, ..extent })
    }

    fn content(&self, offset: u64, end: u64) -> Result<Content> {
        require_run(self.len, offset, end)?;
        let content = self.disk.content(self.start + offset, self.start + end)?;
        Ok(Content { end: content.end - self.start, ..content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{ExtentKind, MemoryDevice};

    #[test]
    fn a_slice_is_its_part_of_the_disk_and_nothing_else() {
        let disk = MemoryDevice::new((0..100).collect());
        let slice = Slice::new(&disk, 40, 20);
        let mut found = [0; 3];
        slice.read_at(17, &mut found).unwrap();
        assert_eq!((slice.size(), found), (20, [57, 58, 59]));
        slice.write_at(0, &[200]).unwrap();
        slice.write_zeroes(18, 2).unwrap();
        slice.discard(10, 1).unwrap();
        let contents = disk.contents();
        assert_eq!(contents[39..42], [39, 200, 41]);
        assert_eq!((contents[50], &contents[57..61]), (0, &[57, 0, 0, 60][..]));
        let extent = slice.extent(5, 9).unwrap();
        let kind = ExtentKind::Data { host_offset: 45 };
        assert_eq!(extent, Extent { offset: 5, len: 4, kind });
        for outside in [slice.read_at(18, &mut found), slice.write_zeroes(20, 1)] {
            assert!(outside.unwrap_err().to_string().contains("a disk of 20 bytes"));
        }
        assert!(slice.extent(0, 21).is_err());
        assert_eq!(Slice::new(&disk, 90, 20).size(), 10);
        assert_eq!(Slice::new(&disk, 120, 20).size(), 0);
    }
}
