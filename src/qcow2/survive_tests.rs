//! Images that lie.

use std::sync::Arc;

use super::check::scan;
use super::header::Header;
use super::shape_tests::{Shape, to_size};
use super::subject_tests::Step;
use crate::block::BlockDevice;
use crate::host::storage::{MemoryStorage, Storage};
use crate::task::{Cancel, Silent, Task};

/// Damages an image, each time with a word at an offset, and then does all that can be done with
/// it: whatever it answers, it does answer, and what it is asked for bounds its work.
pub(super) fn survive(shape: Shape, damage: &[(u64, u64)], steps: &[Step]) {
    let files = shape.create().into_iter().map(|bytes| Arc::new(MemoryStorage::new(bytes)));
    let files: Vec<_> = files.collect();
    let storage = &*files[0];
    let len = storage.len().unwrap();
    for (at, word) in damage {
        storage.write_at(at % len, &word.to_be_bytes()).unwrap();
    }
    let cancel = Cancel::new();
    let task = Task::new(&Silent, &cancel);
    if let Ok(header) = Header::read(storage) {
        let _ = scan(storage, &header, task);
    }
    for writable in [false, true] {
        let Ok(image) = shape.open(&files, writable) else { continue };
        let mut buf = vec![0; 40_000];
        for step in steps {
            let (Step::Write(at, ..) | Step::Zero(at, _) | Step::Discard(at, _)) = *step else {
                continue;
            };
            let at = at % image.size().max(1);
            let len = 40_000.min(image.size() - at);
            let _ = image.read_at(at, &mut buf[..len as usize]);
            let _ = image.extent(at, at + len);
            let _ = match step {
                Step::Write(..) => image.write_at(at, &buf[..len as usize]),
                Step::Zero(..) => image.write_zeroes(at, len),
                _ => image.discard(at, len),
            };
        }
        let _ = image.close();
    }
    if let Ok(image) = shape.open(&files, false) {
        let options = to_size(image.size() / 2 + 70_000);
        let _ = image.resize(&options, task);
    }
}
