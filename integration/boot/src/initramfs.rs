//! The guest's whole system: an archive of the kernel's own format with `init`, the programs that
//! it needs with their libraries, and the drivers of its disk.

use std::collections::BTreeSet;
use std::fs::{read, read_dir};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What plays the guests.
const INIT: &[u8] = include_bytes!("../init");

/// Programs that are more than busybox's of the same name, or that it does not have. Dash is `sh`:
/// busybox's own shell would rather run busybox's commands.
const PROGRAMS: &[(&str, &str)] = &[
    ("sh", "dash"),
    ("blkid", "blkid"),
    ("blockdev", "blockdev"),
    ("busybox", "busybox"),
    ("fallocate", "fallocate"),
    ("fdisk", "fdisk"),
    ("mkfs.ext4", "mke2fs"),
    ("mkswap", "mkswap"),
    ("mount", "mount"),
    ("swapon", "swapon"),
    ("swapoff", "swapoff"),
    ("umount", "umount"),
];

/// Drivers of the disks; what they need comes with them. Filesystem, partitions and console are in
/// the kernel.
const DRIVERS: &[&str] = &["virtio_pci", "virtio_blk", "ata_piix", "sd_mod"];

/// The kernel of unpacked packages, and a system for it.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Vec<u8>,
}

impl System {
    /// Makes it of what packages hold: that of the kernel, and those of the programs.
    pub(crate) fn of(kernel: &Path, programs: &Path) -> Result<System> {
        let boot = kernel.join("boot");
        let name = names(&boot)?.into_iter().find(|name| name.starts_with("vmlinuz-"));
        let name = name.ok_or_else(|| missing("a kernel", &boot))?;
        let version = name.trim_start_matches("vmlinuz-").to_owned();
        let mut archive = Archive::default();
        for folder in
            ["bin", "dev", "etc", "home", "lib", "lib64", "mnt", "modules", "proc", "sys", "tmp"]
        {
            archive.folder(folder);
        }
        archive.file("init", 0o755, INIT);
        // The kernel opens it before there is a devtmpfs.
        archive.character_device("dev/console", 5, 1);
        add_programs(&mut archive, programs)?;
        add_drivers(&mut archive, kernel, &version)?;
        let config = found(programs, &["etc/mke2fs.conf", "usr/share/e2fsprogs/mke2fs.conf"])?;
        archive.file("etc/mke2fs.conf", 0o644, &read(config)?);
        Ok(System { kernel: boot.join(name), initramfs: archive.finish() })
    }
}

fn add_programs(archive: &mut Archive, root: &Path) -> Result<()> {
    let loader =
        ["lib", "usr/lib"].map(|lib| format!("{lib}/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
    let loader = found(root, &[&loader[0], &loader[1]])?;
    archive.file("lib64/ld-linux-x86-64.so.2", 0o755, &read(&loader)?);
    let mut libraries = BTreeSet::new();
    for (name, file) in PROGRAMS {
        let places =
            ["bin", "sbin", "usr/bin", "usr/sbin"].map(|folder| format!("{folder}/{file}"));
        let program = found(root, &places.each_ref().map(String::as_str))?;
        archive.file(&format!("bin/{name}"), 0o755, &read(&program)?);
        if *name != "busybox" {
            libraries.extend(libraries_of(&loader, root, &program)?);
        }
    }
    for library in libraries {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("lib/{name}"), 0o755, &read(&library)?);
    }
    let busybox = found(root, &["bin/busybox", "usr/bin/busybox"])?;
    let applets = Command::new(busybox).arg("--list").output()?.stdout;
    for applet in String::from_utf8_lossy(&applets).lines() {
        if !PROGRAMS.iter().any(|(name, _)| *name == applet) {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
    }
    Ok(())
}

/// The shared libraries of a program, as the packages' own loader finds them.
fn libraries_of(loader: &Path, root: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let folders = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let folders = folders.map(|folder| root.join(folder).display().to_string()).join(":");
    let mut list = Command::new(loader);
    let listed = list.args(["--library-path", &folders, "--list"]).arg(program).output()?;
    if !listed.status.success() {
        return Err(missing("every library", program));
    }
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = text.lines().filter_map(|line| line.split_once("=> ")?.1.split(" (").next());
    Ok(paths.map(PathBuf::from).filter(|path| path.starts_with(root)).collect())
}

/// Adds the drivers, each behind those that it needs, and a list of them in that order.
fn add_drivers(archive: &mut Archive, root: &Path, version: &str) -> Result<()> {
    let folder =
        found(root, &[&format!("lib/modules/{version}"), &format!("usr/lib/modules/{version}")])?;
    let mut files = Vec::new();
    collect(&folder.join("kernel"), &mut files)?;
    let mut loaded = Vec::new();
    for driver in DRIVERS {
        load(driver, &files, archive, &mut loaded)?;
    }
    let order: String = loaded.iter().map(|name| format!("{name}.ko\n")).collect();
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

fn load(
    name: &str,
    files: &[PathBuf],
    archive: &mut Archive,
    loaded: &mut Vec<String>,
) -> Result<()> {
    if loaded.iter().any(|driver| driver == name) {
        return Ok(());
    }
    let called = |file: &&PathBuf| {
        let stem = file.file_name().unwrap_or_default().to_string_lossy();
        stem.split('.').next().is_some_and(|stem| stem.replace('-', "_") == name)
    };
    let Some(file) = files.iter().find(called) else {
        return Ok(()); // Built into the kernel, else the guest will say that it has no disk.
    };
    let module = match file.extension().is_some_and(|ending| ending == "xz") {
        true => Command::new("xz").arg("-dc").arg(file).output()?.stdout,
        false => read(file)?,
    };
    for needed in needs(&module) {
        load(&needed, files, archive, loaded)?;
    }
    archive.file(&format!("modules/{name}.ko"), 0o644, &module);
    loaded.push(name.to_owned());
    Ok(())
}

/// The modules that one needs, by what its section `.modinfo` says.
fn needs(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let list = module[at + FIELD.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>> {
    read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The first of these places below `root` where something is.
fn found(root: &Path, places: &[&str]) -> Result<PathBuf> {
    let found = places.iter().map(|place| root.join(place)).find(|path| path.exists());
    found.ok_or_else(|| missing(places.last().unwrap_or(&"a file"), root))
}

fn missing(what: &str, place: &Path) -> Error {
    Error::other(format!("{}: {what} is missing", place.display()))
}

/// An archive that the kernel unpacks: "newc", as
/// `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel describes it.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), contents);
    }

    fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, (0, 0), target.as_bytes());
    }

    fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, (major, minor), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        // Inode, mode, owner, group, links, time, length, device (two numbers), device that it is
        // (two), the length of the name with its zero byte, and no checksum.
        let (inode, length, name_length) = (self.entries, contents.len(), name.len() + 1);
        let fields = format!(
            "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{length:08X}{0:08X}{0:08X}{major:08X}\
             {minor:08X}{name_length:08X}{0:08X}",
            0, 1
        );
        self.bytes.extend_from_slice(fields.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}
