//! What is measured of looking for damage: images with nothing wrong, in which everything has to be
//! looked at, and of judging what a stranger's image claims.

use crate::data::Datapath;
use crate::work::{DISK, Memory, Programs, Subject, Work};

/// Every work that looks for damage.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    let mut works = vec![full(programs)];
    works.extend(scattered(programs));
    works.push(claims(programs));
    works
}

/// A disk that is mapped from end to end: 128 MiB of tables.
fn full(programs: &Programs) -> Work {
    Work {
        name: "check-1t",
        title: "check 1 TiB, metadata",
        subject: Subject::Standing(vec![programs.vmdisk(&format!("create {DISK} --size 1T"))]),
        vmdisk: programs.vmdisk(&format!("check {DISK}")),
        rivals: programs.qemu_img(&format!("check -f qcow2 {DISK}"), 8.0).into_iter().collect(),
        memory: Some(Memory::Part(3)),
        is_long: false,
    }
}

/// A disk whose clusters lie in its file in any order.
fn scattered(programs: &Programs) -> Option<Work> {
    let create = format!("create {DISK} --size 20G --guest none --preallocation off");
    Some(Work {
        name: "check-scattered",
        title: "check 20 GiB, 200 000 clusters in random order",
        subject: Subject::Standing(vec![
            programs.vmdisk(&create),
            Datapath::find()?.whole(&format!("vmdisk scatter {DISK}")),
        ]),
        vmdisk: programs.vmdisk(&format!("check {DISK}")),
        rivals: programs.qemu_img(&format!("check -f qcow2 {DISK}"), 3.0).into_iter().collect(),
        memory: None,
        is_long: false,
    })
}

/// What an image claims, followed nowhere.
fn claims(programs: &Programs) -> Work {
    Work {
        name: "inspect",
        title: "inspect --untrusted, 1 TiB, metadata",
        subject: Subject::Standing(vec![programs.vmdisk(&format!("create {DISK} --size 1T"))]),
        vmdisk: programs.vmdisk(&format!("inspect {DISK} --untrusted")),
        rivals: programs.qemu_img(&format!("info -f qcow2 {DISK}"), 3.0).into_iter().collect(),
        memory: None,
        is_long: false,
    }
}
