//! What is measured of converting and hashing: 4 GiB of which 60 % are files of this machine, 20 %
//! zeros that are written and 20 % holes. Whoever does not sync what it wrote has it synced.

use crate::process::Invocation;
use crate::work::{DISK, Memory, Programs, Rival, Subject, Target, Work};

/// Makes `source.raw`.
const MAKE: &str = "
    truncate -s 4G source.raw
    (while :; do tar cf - /usr/bin /usr/lib /usr/share 2>/dev/null; done) | {
        i=0
        while [ $i -lt 409 ]; do
            dd of=source.raw bs=1M count=6 seek=$((i * 10)) conv=notrunc iflag=fullblock status=none
            dd if=/dev/zero of=source.raw bs=1M count=2 seek=$((i * 10 + 6)) conv=notrunc status=none
            i=$((i + 1))
        done
    }";

/// The most memory that any of it may take, in KiB.
const MEMORY_KIB: u64 = 64 << 10;

/// How everybody converts.
const CONVERT: &str = "qemu-img convert -m 16 -W";

/// Every work that reads a disk from end to end, where there is something to compare with.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    if programs.qemu_img.is_none() {
        return Vec::new();
    }
    let mut works = plain(programs);
    works.extend(packed(programs));
    works.extend(hashes(programs));
    works
}

fn work(
    name: &'static str,
    title: &'static str,
    make: &str,
    vmdisk: Invocation,
    rivals: Vec<Rival>,
) -> Work {
    // Everybody writes a new file: what there was before takes its time to go.
    let subject = Subject::Renewed {
        once: vec![Invocation::shell(make)],
        anew: Invocation::shell("rm -f ours.* theirs.*"),
    };
    Work {
        name,
        title,
        subject,
        vmdisk,
        rivals,
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: true,
    }
}

fn rival(name: &'static str, script: &str, target: Target) -> Rival {
    Rival { name, invocation: Invocation::shell(script), target }
}

fn plain(programs: &Programs) -> Vec<Work> {
    let convert = |line: &str| programs.vmdisk(&format!("convert {line} --if-exists replace"));
    let made = format!("{MAKE}\n{CONVERT} -f raw -O qcow2 source.raw source.qcow2");
    let copied = |from: &str| format!("cp --sparse=always {from} theirs.copy; sync theirs.copy");
    let theirs = |from: &str, options: &str| {
        format!("{CONVERT} {options} {from} theirs.disk; sync theirs.disk")
    };
    vec![
        work(
            "raw-to-qcow2",
            "4 GiB, raw to qcow2",
            MAKE,
            convert("source.raw ours.qcow2"),
            vec![
                rival("qemu-img", &theirs("source.raw", "-f raw -O qcow2"), Target::Faster(1.1)),
                rival("cp --sparse", &copied("source.raw"), Target::Within(1.0)),
            ],
        ),
        work(
            "qcow2-to-raw",
            "4 GiB, qcow2 to raw",
            &made,
            convert("source.qcow2 ours.raw"),
            vec![
                rival("qemu-img", &theirs("source.qcow2", "-f qcow2 -O raw"), Target::Faster(1.1)),
                rival("cp --sparse", &copied("source.qcow2"), Target::Within(1.0)),
            ],
        ),
        work(
            "raw-to-raw",
            "4 GiB, raw to raw",
            MAKE,
            convert("source.raw ours.raw"),
            vec![
                rival("cp", "cp source.raw theirs.copy; sync theirs.copy", Target::Within(1.0)),
                rival("qemu-img", &theirs("source.raw", "-f raw -O raw"), Target::Told),
            ],
        ),
    ]
}

fn packed(programs: &Programs) -> Vec<Work> {
    let pack = |kind: &str, out: &str| {
        format!(
            "{CONVERT} -c -f raw -O qcow2 -o compression_type={kind} source.raw {out}; sync {out}"
        )
    };
    let packing = |name, title, kind: &str, times| {
        let line = format!("convert source.raw ours.qcow2 --if-exists replace --compress {kind}");
        let theirs = rival("qemu-img", &pack(kind, "theirs.qcow2"), Target::Faster(times));
        work(name, title, MAKE, programs.vmdisk(&line), vec![theirs])
    };
    let unpack = format!("{CONVERT} -f qcow2 -O raw packed.qcow2 theirs.raw; sync theirs.raw");
    vec![
        packing("raw-to-zlib", "4 GiB, raw to qcow2, zlib", "zlib", 2.0),
        packing("raw-to-zstd", "4 GiB, raw to qcow2, zstd", "zstd", 1.5),
        work(
            "zlib-to-raw",
            "4 GiB, qcow2 with zlib to raw",
            &format!("{MAKE}\n{}", pack("zlib", "packed.qcow2")),
            programs.vmdisk("convert packed.qcow2 ours.raw --if-exists replace"),
            vec![rival("qemu-img", &unpack, Target::Faster(1.5))],
        ),
    ]
}

fn hashes(programs: &Programs) -> Vec<Work> {
    let create = programs.vmdisk(&format!("create {DISK} --size 1T"));
    let map = Invocation::shell(&format!("qemu-img map --output=json {DISK}"));
    vec![
        Work {
            name: "hash-1t",
            title: "hash of 1 TiB, metadata, next to nothing in it",
            subject: Subject::Standing(vec![create]),
            vmdisk: programs.vmdisk(&format!("hash {DISK}")),
            rivals: vec![Rival {
                name: "qemu-img map",
                invocation: map,
                target: Target::Within(3.0),
            }],
            memory: Some(Memory::Kib(MEMORY_KIB)),
            is_long: false,
        },
        work(
            "hash-4g",
            "hash of 4 GiB",
            &format!("{MAKE}\n{CONVERT} -f raw -O qcow2 source.raw {DISK}"),
            programs.vmdisk(&format!("hash {DISK}")),
            vec![
                // It cannot write to a pipe: it asks for its length.
                rival(
                    "qemu-img, sha256sum",
                    &format!(
                        "{CONVERT} -f qcow2 -O raw {DISK} theirs.raw; sha256sum theirs.raw >/dev/null"
                    ),
                    Target::Faster(2.0),
                ),
                rival(
                    "vmdisk | sha256sum",
                    &format!(
                        "{} convert {DISK} - | sha256sum >/dev/null",
                        programs.vmdisk.display()
                    ),
                    Target::Told,
                ),
            ],
        ),
    ]
}
