//! What is measured of giving room back to the host, in place.

use crate::process::Invocation;
use crate::work::{DISK, Memory, Programs, Rival, Subject, Target, Work};

/// Makes `full.qcow2`, a disk of 20 GiB with a GPT and an ext4 filesystem of which 10 GiB were files of
/// this machine, and 8 GiB of them are deleted.
const MAKE: &str = "
    mkdir files
    (while tar cf - /usr/bin /usr/lib /usr/share 2>/dev/null; do :; done) | {
        head -c 8G > files/gone
        head -c 2G > files/kept
    }
    truncate -s 20G raw
    printf 'label: gpt\\nstart=2048, type=linux\\n' | sfdisk -q --no-tell-kernel raw
    mke2fs -q -F -t ext4 -L boot2docker-data -i 8192 -d files -E offset=1048576 raw 20969472k
    rm -r files
    debugfs -w -R 'rm gone' 'raw?offset=1048576' 2>/dev/null
    qemu-img convert -W -m 16 -f raw -O qcow2 raw full.qcow2
    rm raw";

/// The most memory that it may take, in KiB.
const MEMORY_KIB: u64 = 64 << 10;

/// Every work that gives room back, where the programs that make the disk are there.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    let tools = ["mke2fs", "debugfs", "sfdisk"].iter().all(|tool| Invocation::finds(tool));
    if !tools || programs.qemu_img.is_none() {
        return Vec::new();
    }
    vec![compact(programs), nothing(programs)]
}

fn compact(programs: &Programs) -> Work {
    let theirs = format!(
        "qemu-img convert -m 16 -W -f qcow2 -O qcow2 {DISK} theirs.qcow2; sync theirs.qcow2"
    );
    Work {
        name: "compact",
        title: "compact 20 GiB with 8 GiB deleted inside",
        subject: Subject::Renewed {
            once: vec![Invocation::shell(MAKE)],
            anew: Invocation::shell(&format!(
                "rm -f theirs.qcow2; cp --sparse=always full.qcow2 {DISK}"
            )),
        },
        vmdisk: programs.vmdisk(&format!("compact {DISK}")),
        rivals: vec![Rival {
            name: "qemu-img convert",
            invocation: Invocation::shell(&theirs),
            target: Target::Faster(3.0),
        }],
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: true,
    }
}

fn nothing(programs: &Programs) -> Work {
    let make = format!(
        "{MAKE}\nmv full.qcow2 {DISK}\n{} compact {DISK} >/dev/null",
        programs.vmdisk.display()
    );
    Work {
        name: "compact-nothing",
        title: "compact 20 GiB that are compact",
        subject: Subject::Standing(vec![Invocation::shell(&make)]),
        vmdisk: programs.vmdisk(&format!("compact {DISK}")),
        rivals: vec![Rival {
            name: "check",
            invocation: programs.vmdisk(&format!("check {DISK}")),
            target: Target::Within(3.0),
        }],
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: false,
    }
}
