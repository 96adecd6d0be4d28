//! Who waits for whom: a medium that takes its time with a sync keeps nobody from reading, or from
//! writing where a cluster is there.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::medium_tests::{Medium, On};
use super::shape_tests::{PLAIN, contents};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::host::storage::MemoryStorage;

/// Tells that a sync began, and lets it end when it is told to.
struct Slow {
    began: Sender<()>,
    may_end: Mutex<Receiver<()>>,
}

impl Medium for Slow {
    fn on_sync(&self) -> Result<()> {
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
    let slow = Slow { began, may_end: Mutex::new(may_end) };
    let storage = On::holding(slow, memory.contents());
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
