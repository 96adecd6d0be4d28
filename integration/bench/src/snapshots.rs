//! What is measured of internal snapshots: one that is made and deleted again.

use std::path::Path;

use crate::process::Invocation;
use crate::work::{DISK, Memory, Programs, Rival, Subject, Target, Work};

/// The most memory that it may take, in KiB.
const MEMORY_KIB: u64 = 64 << 10;

/// Every work on snapshots.
pub(crate) fn all(programs: &Programs) -> [Work; 2] {
    let work = |name, title, size: &str, times| {
        let both = |program: &Path, create: &str, delete: &str| {
            let program = program.display();
            Invocation::shell(&format!(
                "'{program}' snapshot {create}; '{program}' snapshot {delete}"
            ))
        };
        let theirs = programs.qemu_img.as_ref().map(|qemu_img| Rival {
            name: "qemu-img",
            invocation: both(qemu_img, &format!("-c s {DISK}"), &format!("-d s {DISK}")),
            target: Target::Faster(times),
        });
        Work {
            name,
            title,
            subject: Subject::Fresh(programs.vmdisk(&format!("create {DISK} --size {size}"))),
            vmdisk: both(
                &programs.vmdisk,
                &format!("create {DISK} s"),
                &format!("delete {DISK} s"),
            ),
            rivals: theirs.into_iter().collect(),
            memory: Some(Memory::Kib(MEMORY_KIB)),
            is_long: true,
        }
    };
    [
        work("snapshot-20g", "snapshot create + delete, 20 GiB, metadata", "20G", 5.0),
        work("snapshot-1t", "snapshot create + delete, 1 TiB, metadata", "1T", 5.0),
    ]
}
