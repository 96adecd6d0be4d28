//! What is measured: works, who does each, and how well vmdisk should do.

use std::path::{Path, PathBuf};

use crate::check;
use crate::compact;
use crate::copy;
use crate::data;
use crate::format::{self, Writes};
use crate::inside;
use crate::look;
use crate::process::Invocation;
use crate::snapshots;

/// The disk that every work is about.
pub(crate) const DISK: &str = "disk.qcow2";
const GIB: u64 = 1 << 30;

/// The programs that take part.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) vmdisk: PathBuf,
    pub(crate) qemu_img: Option<PathBuf>,
}

/// What is there before each run.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// Nothing.
    Absent,
    /// What this makes, anew for each run.
    Fresh(Invocation),
    /// What these make, once: the work does not change it.
    Standing(Vec<Invocation>),
    /// What these make, once, and the disk, which is made anew for each run.
    Renewed { once: Vec<Invocation>, anew: Invocation },
}

/// How well vmdisk should do against somebody.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// So many times faster, at least.
    Faster(f64),
    /// So many times its time, at most.
    Within(f64),
    /// So many times its time: for information.
    Told,
}

/// Somebody to be compared with.
#[derive(Debug, Clone)]
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    pub(crate) invocation: Invocation,
    pub(crate) target: Target,
}

/// The most memory that vmdisk should have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    /// So many KiB.
    Kib(u64),
    /// This part of what its first rival has.
    Part(u64),
}

/// One piece of work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// For `--filter`.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) subject: Subject,
    pub(crate) vmdisk: Invocation,
    pub(crate) rivals: Vec<Rival>,
    /// The most memory that vmdisk should have.
    pub(crate) memory: Option<Memory>,
    /// Whether half of the runs must do.
    pub(crate) is_long: bool,
}

impl Programs {
    /// `vmdisk` with these arguments.
    pub(crate) fn vmdisk(&self, arguments: &str) -> Invocation {
        Invocation::new(&self.vmdisk, arguments)
    }

    /// `qemu-img` with these arguments, if it is there.
    pub(crate) fn qemu_img(&self, arguments: &str, times: f64) -> Option<Rival> {
        self.named("qemu-img", arguments, times)
    }

    /// The same under a name of its own, where it is called in several ways.
    pub(crate) fn named(&self, name: &'static str, arguments: &str, times: f64) -> Option<Rival> {
        let invocation = Invocation::new(self.qemu_img.as_ref()?, arguments);
        Some(Rival { name, invocation, target: Target::Faster(times) })
    }
}

/// The program that only writes, if it could be built.
fn floor(verb: &str, writes: &Writes, times: f64) -> Option<Rival> {
    let ranges: Vec<_> = writes.ranges.iter().map(|(at, len)| format!("{at}:{len}")).collect();
    let arguments = format!("{verb} {DISK} {} {}", writes.file_len, ranges.join(" "));
    let invocation = Invocation::new(built(env!("FLOOR"))?, &arguments);
    Some(Rival { name: "floor", invocation, target: Target::Within(times) })
}

/// The program that only starts, as far as its forms could be built.
fn starts() -> impl Iterator<Item = Rival> {
    let forms = [("start", env!("START")), ("static start", env!("START_STATIC"))];
    forms.into_iter().filter_map(|(name, path)| {
        let invocation = Invocation::new(built(path)?, "");
        Some(Rival { name, invocation, target: Target::Told })
    })
}

fn built(path: &str) -> Option<&Path> {
    (!path.is_empty()).then(|| Path::new(path))
}

/// Every work.
pub(crate) fn all(programs: &Programs) -> Vec<Work> {
    let mut works = creations(programs);
    works.extend(changes(programs));
    works.extend(looks(programs));
    works.extend(requests(programs));
    works.extend(check::all(programs));
    works.extend(inside::all(programs));
    works.extend(compact::all(programs));
    works.extend(snapshots::all(programs));
    works.extend(look::all(programs));
    works.extend(data::all(programs));
    works.extend(copy::all(programs));
    works
}

fn creations(programs: &Programs) -> Vec<Work> {
    let sizes = [
        ("create-20g", "create 20 GiB, metadata", 20, 10.0),
        ("create-1t", "create 1 TiB, metadata", 1024, 15.0),
    ];
    let create = |(name, title, gib, times)| {
        let theirs = format!("create -f qcow2 -o preallocation=metadata {DISK} {gib}G");
        let qemu_img = programs.qemu_img(&theirs, times);
        let floor = floor("create", &format::create(gib * GIB), 1.5);
        Work {
            name,
            title,
            subject: Subject::Absent,
            vmdisk: programs.vmdisk(&format!("create {DISK} --size {gib}G")),
            rivals: qemu_img.into_iter().chain(floor).collect(),
            memory: None,
            is_long: false,
        }
    };
    sizes.into_iter().map(create).collect()
}

fn changes(programs: &Programs) -> [Work; 2] {
    let grow = Work {
        name: "resize",
        title: "resize 20 -> 40 GiB, metadata",
        subject: Subject::Fresh(programs.vmdisk(&format!("create {DISK} --size 20G"))),
        vmdisk: programs.vmdisk(&format!("resize {DISK} --size 40G")),
        rivals: programs
            .qemu_img(&format!("resize --preallocation=metadata {DISK} 40G"), 8.0)
            .into_iter()
            .chain(floor("grow", &format::grow(20 * GIB, 40 * GIB), 2.0))
            .collect(),
        memory: None,
        is_long: false,
    };
    let shrink = Work {
        name: "shrink",
        title: "shrink an empty 1 TiB to 1 GiB",
        subject: Subject::Fresh(empty_terabyte(programs)),
        vmdisk: programs.vmdisk(&format!("resize {DISK} --size 1G --shrink")),
        rivals: programs
            .qemu_img(&format!("resize --shrink {DISK} 1G"), 100.0)
            .into_iter()
            .collect(),
        memory: None,
        is_long: false,
    };
    [grow, shrink]
}

fn empty_terabyte(programs: &Programs) -> Invocation {
    match &programs.qemu_img {
        Some(qemu_img) => Invocation::new(qemu_img, &format!("create -f qcow2 {DISK} 1T")),
        None => {
            programs.vmdisk(&format!("create {DISK} --size 1T --guest none --preallocation off"))
        }
    }
}

fn looks(programs: &Programs) -> [Work; 3] {
    let standing = Subject::Standing(vec![programs.vmdisk(&format!("create {DISK} --size 1T"))]);
    let work = |name, title, subject: &Subject, ours: &str, theirs: &str| Work {
        name,
        title,
        subject: subject.clone(),
        vmdisk: programs.vmdisk(ours),
        rivals: programs.qemu_img(theirs, 3.0).into_iter().chain(starts()).collect(),
        memory: None,
        is_long: false,
    };
    let info = format!("info {DISK}");
    let ensure = format!("ensure {DISK} --size 1T");
    [
        work("info", "info of 1 TiB, metadata", &standing, &info, &info),
        work("ensure", "ensure that changes nothing", &standing, &ensure, &info),
        work("version", "--version", &Subject::Absent, "--version", "--version"),
    ]
}

/// The protocol, against the command line and against itself.
fn requests(programs: &Programs) -> [Work; 3] {
    let standing = Subject::Standing(vec![programs.vmdisk(&format!("create {DISK} --size 1T"))]);
    let info = request("info", "");
    let ensure = request("ensure", r#","size":"1TiB""#);
    let rpc = || programs.vmdisk("rpc");
    let work = |name, title, vmdisk, rival, invocation, times| Work {
        name,
        title,
        subject: standing.clone(),
        vmdisk,
        rivals: vec![Rival { name: rival, invocation, target: Target::Within(times) }],
        memory: None,
        is_long: false,
    };
    let plain = programs.vmdisk(&format!("info {DISK}"));
    let one = "one-shot rpc";
    [
        work("rpc-info", "info, one-shot rpc", rpc().told(&info), "info", plain, 1.2),
        work(
            "session-info",
            "info, request in a session",
            rpc().asked(&info),
            one,
            rpc().told(&info),
            0.1,
        ),
        work(
            "session-ensure",
            "ensure, request in a session",
            rpc().asked(&ensure),
            one,
            rpc().told(&ensure),
            0.2,
        ),
    ]
}

/// A request about the disk, with these parameters more.
fn request(method: &str, more: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"path":"{DISK}"{more}}}}}"#)
}

/// What is asked over and over to see whether memory grows.
pub(crate) fn endless(programs: &Programs) -> (Invocation, Invocation, String) {
    let make = programs.vmdisk(&format!("create {DISK} --size 20G"));
    (make, programs.vmdisk("rpc"), request("info", ""))
}

/// Something whose peak of memory is looked at.
#[derive(Debug)]
pub(crate) struct MemoryCase {
    pub(crate) title: String,
    /// What makes the disk that is changed.
    pub(crate) before: Option<Invocation>,
    pub(crate) vmdisk: Invocation,
}

/// Every case of memory.
pub(crate) fn memory(programs: &Programs) -> Vec<MemoryCase> {
    let geometries = [("512G", "512.3G", "1T", "64K"), ("4T", "5000.3G", "8T", "2M")];
    geometries.into_iter().flat_map(|geometry| memory_of(programs, geometry)).collect()
}

fn memory_of(
    programs: &Programs,
    (half, odd, size, cluster): (&str, &str, &str, &str),
) -> impl Iterator<Item = MemoryCase> {
    let create =
        |size, more: &str| format!("create {DISK} --size {size} --cluster-size {cluster} {more}");
    let resize = |size, more| format!("resize {DISK} --size {size} {more}");
    let empty = "--guest none --preallocation off";
    let verbs = [
        (format!("create {size}"), None, create(size, "")),
        (format!("create {size}, empty"), None, create(size, empty)),
        (format!("resize {half} -> {size}"), Some(create(half, "")), resize(size, "")),
        // Its end is inside a table and inside a cluster.
        (format!("resize {odd} -> {size}"), Some(create(odd, "")), resize(size, "")),
        (format!("resize {half} -> {size}, empty"), Some(create(half, empty)), resize(size, "")),
        (format!("shrink {size} -> 1 GiB"), Some(create(size, "")), resize("1G", "--shrink")),
        (
            format!("shrink {size} -> 1 GiB, empty"),
            Some(create(size, empty)),
            resize("1G", "--shrink"),
        ),
        (format!("info {size}"), Some(create(size, "")), format!("info {DISK}")),
        (format!("ensure {size}"), Some(create(size, "")), format!("ensure {DISK} --size {size}")),
    ];
    verbs
        .map(|(title, before, ours)| MemoryCase {
            title: format!("{title}, clusters of {cluster}"),
            before: before.map(|arguments| programs.vmdisk(&arguments)),
            vmdisk: programs.vmdisk(&ours),
        })
        .into_iter()
}
