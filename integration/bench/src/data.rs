//! What is measured of the data path: guest data read and written through the library, by the
//! program `datapath`, against other libraries, the system's own calls and qemu-img.

use std::env::current_exe;
use std::path::PathBuf;

use crate::process::Invocation;
use crate::work::{DISK, Memory, Programs, Rival, Subject, Target, Work};

/// A raw file that holds the same as the disk.
const RAW: &str = "disk.raw";
/// The most memory to read a disk of 8 TiB, in KiB.
const MEMORY_KIB: u64 = 16 << 10;
/// In place of a file to be written: nothing is, and qemu-img is at its quickest.
const NULL: &str = "driver=null-co,size=1G,read-zeroes=on";

/// The program that reads and writes.
pub(crate) struct Datapath(PathBuf);

impl Datapath {
    /// Cargo builds it beside this one.
    pub(crate) fn find() -> Option<Datapath> {
        let path = current_exe().ok()?.with_file_name("datapath");
        if !path.is_file() {
            eprintln!("datapath is not built: what needs it will not be measured");
            return None;
        }
        Some(Datapath(path))
    }

    /// As a whole process.
    pub(crate) fn whole(&self, arguments: &str) -> Invocation {
        Invocation::new(&self.0, arguments)
    }

    /// What it takes without opening and closing.
    fn inside(&self, engine: &str, work: &str) -> Invocation {
        let file = if engine == "raw" { RAW } else { DISK };
        self.whole(&format!("{engine} {work} {file}")).telling_its_time()
    }

    fn rival(&self, name: &'static str, engine: &str, work: &str, target: Target) -> Rival {
        Rival { name, invocation: self.inside(engine, work), target }
    }
}

/// Every work of the data path.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    let Some(datapath) = Datapath::find() else { return Vec::new() };
    let mut works = pages(programs, &datapath);
    works.extend(append(programs, &datapath));
    works.extend(packed(programs, &datapath));
    works.extend(large(programs, &datapath));
    works
}

/// Single pages at random, in clusters that are there.
fn pages(programs: &Programs, datapath: &Datapath) -> Vec<Work> {
    let subject = Subject::Standing(vec![
        programs.vmdisk(&format!("create {DISK} --size 8G --guest none")),
        datapath.whole(&format!("vmdisk fill {DISK}")),
        datapath.whole(&format!("raw fill {RAW}")),
    ]);
    let work = |name, title, work, system| Work {
        name,
        title,
        subject: subject.clone(),
        vmdisk: datapath.inside("vmdisk", work),
        rivals: vec![
            datapath.rival("imago", "imago", work, Target::Faster(1.0)),
            datapath.rival("qcow2-rs", "qcow2-rs", work, Target::Faster(1.0)),
            datapath.rival(system, "raw", work, Target::Within(1.3)),
        ],
        memory: None,
        is_long: true,
    };
    vec![
        work("data-read", "400 000 reads of 4 KiB in 2 of 8 GiB", "read", "pread"),
        work("data-write", "400 000 writes of 4 KiB in 2 of 8 GiB", "write", "pwrite"),
    ]
}

/// A GiB into a disk that has no clusters yet.
fn append(programs: &Programs, datapath: &Datapath) -> Option<Work> {
    let bench = "bench -w -t writeback -f qcow2 -s 64k -c 16384 --pattern=165";
    let convert = "convert -t writeback -m 16 -W -f raw -O qcow2";
    let rivals = [
        ("qemu-img bench", format!("{bench} {DISK}")),
        ("qemu-img convert", format!("{convert} {RAW} {DISK}")),
    ];
    let rivals = rivals.map(|(name, arguments)| programs.named(name, &arguments, 1.5));
    Some(Work {
        name: "data-append",
        title: "1 GiB in writes of 64 KiB, allocating, and a flush",
        subject: Subject::Renewed {
            once: vec![datapath.whole(&format!("raw append {RAW}"))],
            anew: programs.vmdisk(&format!(
                "create {DISK} --size 1G --guest none --preallocation off --if-exists replace"
            )),
        },
        vmdisk: datapath.whole(&format!("vmdisk append {DISK}")),
        rivals: rivals.into_iter().flatten().collect(),
        memory: None,
        is_long: true,
    })
}

/// Compressed images, whole.
fn packed(programs: &Programs, datapath: &Datapath) -> Vec<Work> {
    let Some(qemu_img) = &programs.qemu_img else { return Vec::new() };
    let work = |name, title, kind| {
        let pack = format!("convert -c -m 16 -W -O qcow2 -o compression_type={kind} {RAW} {DISK}");
        let unpack = format!("convert -n -m 16 -W -f qcow2 --target-image-opts {DISK} {NULL}");
        Work {
            name,
            title,
            subject: Subject::Standing(vec![
                datapath.whole(&format!("raw gather {RAW}")),
                Invocation::new(qemu_img, &pack),
            ]),
            vmdisk: datapath.whole(&format!("vmdisk unpack {DISK}")),
            rivals: programs.named("qemu-img convert", &unpack, 1.5).into_iter().collect(),
            memory: None,
            is_long: true,
        }
    };
    vec![
        work("data-zlib", "reading 1 GiB of /usr, zlib, two threads", "zlib"),
        work("data-zstd", "reading 1 GiB of /usr, zstd, two threads", "zstd"),
    ]
}

/// A disk whose tables are larger than the memory that there is for them.
fn large(programs: &Programs, datapath: &Datapath) -> Vec<Work> {
    let work = |name, title, cluster, work, rivals: &[(&'static str, &str)]| Work {
        name,
        title,
        subject: Subject::Standing(vec![
            programs
                .vmdisk(&format!("create {DISK} --size 8T --guest none --cluster-size {cluster}")),
        ]),
        vmdisk: datapath.inside("vmdisk", work),
        rivals: rivals
            .iter()
            .map(|&(name, engine)| datapath.rival(name, engine, work, Target::Told))
            .collect(),
        memory: Some(Memory::Kib(MEMORY_KIB)),
        is_long: false,
    };
    let both = [("imago", "imago"), ("qcow2-rs", "qcow2-rs")];
    vec![
        work(
            "data-open-64k",
            "opening 8 TiB, clusters of 64 KiB, and a read",
            "64K",
            "open",
            &both,
        ),
        work("data-open-2m", "opening 8 TiB, clusters of 2 MiB, and a read", "2M", "open", &both),
        work("data-far-64k", "20 000 reads across 8 TiB, clusters of 64 KiB", "64K", "far", &both),
        work("data-far-2m", "20 000 reads across 8 TiB, clusters of 2 MiB", "2M", "far", &both),
    ]
}
