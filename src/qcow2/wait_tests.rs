//! Who waits for whom: a medium that takes its time with a sync keeps nobody from reading, or from
//! writing where a cluster is there.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::shape_tests::{PLAIN, contents};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::host::storage::{Allocation, MemoryStorage, Storage};

/// Tells that a sync began, and lets it end when it is told to.
struct Slow {
    memory: MemoryStorage,
    began: Sender<()>,
    may_end: Mutex<Receiver<()>>,
}

impl Storage for Slow {
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.memory.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.memory.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.memory.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64, how: Allocation) -> Result<()> {
        self.memory.allocate(offset, len, how)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.punch_hole(offset, len)
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.zero_range(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.began.send(()).unwrap();
        self.may_end.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
        Ok(())
    }
}

#[test]
fn a_flush_keeps_nobody_from_reading_or_writing_in_place() {
    let memory = MemoryStorage::default();
    PLAIN.create_in(&memory);
    let (began, has_begun) = channel();
    let (let_end, may_end) = channel();
    let storage = Arc::new(Slow { memory, began, may_end: Mutex::new(may_end) });
    let image = PLAIN.open(&[storage], true).unwrap();
    image.write_at(0, &[1; 4096]).unwrap();
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| image.flush());
        for step in 2..4u8 {
            has_begun.recv_timeout(Duration::from_secs(20)).expect("a sync");
            image.write_at(512, &[step; 512]).unwrap();
            let disk = contents(&image).unwrap();
            assert_eq!((disk[0], disk[512], disk[1024]), (1, step, 1));
            let_end.send(()).unwrap();
        }
        flush.join().unwrap().unwrap();
    });
    assert!(has_begun.try_recv().is_err(), "two syncs, and no more");
}
