//! What is measured of looking at what a disk is mapped to.

use crate::work::{DISK, Memory, Programs, Subject, Work};

/// Every work that looks at a map.
pub(crate) fn all(programs: &Programs) -> [Work; 1] {
    let theirs = format!("map -f qcow2 --output=json {DISK}");
    let map = Work {
        name: "map-1t",
        title: "map of 1 TiB, metadata, as JSON",
        subject: Subject::Standing(vec![programs.vmdisk(&format!("create {DISK} --size 1T"))]),
        vmdisk: programs.vmdisk(&format!("map {DISK} --output qemu-json")),
        rivals: programs.qemu_img(&theirs, 15.0).into_iter().collect(),
        memory: Some(Memory::Kib(64 << 10)),
        is_long: false,
    };
    [map]
}
