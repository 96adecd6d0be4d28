//! Where the figures come from.

use std::fs::read_to_string;
use std::path::Path;
use std::thread::available_parallelism;

use crate::process::Invocation;
use crate::work::Programs;

/// The machine, in words.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Names and values.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// How many processes wanted to run during the last minute, where the system tells.
    pub(crate) load: Option<f64>,
}

impl Machine {
    /// What this one is, with the file system of `folder`.
    pub(crate) fn look(folder: &Path, programs: &Programs) -> Machine {
        let version = |program: &Path| {
            Invocation::new(program, "--version").first_line().unwrap_or_else(|e| e.to_string())
        };
        let qemu_img = programs.qemu_img.as_deref().map(version);
        let cores = available_parallelism().map_or(0, usize::from);
        let facts = vec![
            ("processor", field("/proc/cpuinfo", "model name")),
            ("cores", cores.to_string()),
            ("memory", memory()),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("file system", file_system(folder)),
            ("qemu-img", qemu_img.unwrap_or_else(|| "not found: not compared".to_owned())),
            ("vmdisk", version(&programs.vmdisk)),
        ];
        Machine { facts, load: load() }
    }
}

/// The load of the last minute.
pub(crate) fn load() -> Option<f64> {
    read("/proc/loadavg").split(' ').next()?.parse().ok()
}

fn read(path: &str) -> String {
    read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The first value of this name in a file of lines like `name: value`.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).next();
    value.unwrap_or("unknown").to_owned()
}

fn memory() -> String {
    let text = field("/proc/meminfo", "MemTotal");
    let kib: Option<f64> = text.strip_suffix(" kB").and_then(|kib| kib.parse().ok());
    kib.map_or(text, |kib| format!("{:.1} GiB", kib / f64::from(1 << 20)))
}

/// The type, device and options of the mount that `folder` is in.
fn file_system(folder: &Path) -> String {
    let mounts = read("/proc/self/mountinfo");
    let found = mounts.lines().filter_map(|line| {
        let (mount, device) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        folder.starts_with(point).then_some((point.len(), device))
    });
    // Of two mounts at one place the later one is seen.
    let nearest = found.max_by_key(|(len, _)| *len);
    nearest.map_or_else(|| "unknown".to_owned(), |(_, device)| device.to_owned())
}
