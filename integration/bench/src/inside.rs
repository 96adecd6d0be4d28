//! What is measured of growing what is inside of a disk: the last partition and its filesystem.

use crate::process::Invocation;
use crate::work::{DISK, Memory, Programs, Rival, Subject, Target, Work};

/// Makes `inside.qcow2`, a disk of 20 GiB with metadata laid out, a GPT and an ext4 filesystem, and
/// `bare`, the same filesystem alone.
const MAKE: &str = "
    truncate -s 20G raw
    printf 'label: gpt\\nstart=2048, type=linux\\n' | sfdisk -q --no-tell-kernel raw
    mke2fs -q -F -t ext4 -L boot2docker-data -i 8192 -E offset=1048576 raw 20969472k
    qemu-img convert -O qcow2 -o preallocation=metadata raw inside.qcow2
    rm raw
    truncate -s 20969472K bare
    mke2fs -q -F -t ext4 -L boot2docker-data -i 8192 bare";

/// The disk and the filesystem as they were.
const RENEW: &str = "
    cp --sparse=always inside.qcow2 disk.qcow2
    cp --sparse=always bare alone
    truncate -s 41940992K alone";

/// The most memory that growing may take, in KiB.
const MEMORY_KIB: u64 = 48 << 10;

/// Every work on what is inside, where the programs that make it are there.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    let tools = ["mke2fs", "resize2fs", "sfdisk"].iter().all(|tool| Invocation::finds(tool));
    if !tools || programs.qemu_img.is_none() {
        return Vec::new();
    }
    vec![grow(programs), ensure(programs)]
}

fn grow(programs: &Programs) -> Work {
    let resize = format!("resize {DISK} --size 40G");
    let outside = programs.vmdisk(&format!("{resize} --guest-fs off"));
    let alone = Invocation::shell("resize2fs alone");
    Work {
        name: "grow-inside",
        title: "grow 20 -> 40 GiB, partition and ext4 too",
        subject: Subject::Renewed {
            once: vec![Invocation::shell(MAKE)],
            anew: Invocation::shell(RENEW),
        },
        vmdisk: programs.vmdisk(&format!("{resize} --guest-fs require")),
        rivals: vec![
            Rival { name: "outside alone", invocation: outside, target: Target::Within(5.0) },
            Rival { name: "resize2fs", invocation: alone, target: Target::Faster(5.0) },
        ],
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: false,
    }
}

fn ensure(programs: &Programs) -> Work {
    let make = format!("{MAKE}\nmv inside.qcow2 {DISK}");
    let info = programs.vmdisk(&format!("info {DISK}"));
    Work {
        name: "ensure-inside",
        title: "ensure that changes nothing, looking inside",
        subject: Subject::Standing(vec![Invocation::shell(&make)]),
        vmdisk: programs.vmdisk(&format!("ensure {DISK} --size 20G --guest-fs require")),
        rivals: vec![Rival { name: "info", invocation: info, target: Target::Within(2.0) }],
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: false,
    }
}
