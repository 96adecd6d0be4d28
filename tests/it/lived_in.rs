//! Disks as their guests leave them: partitioned, formatted, with files; and what is to be true of
//! them afterwards, as `sfdisk`, `sgdisk`, `e2fsck`, `resize2fs` and the files themselves say.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Env, Run};

const MIB: u64 = 1 << 20;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How a guest lays out its disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) name: &'static str,
    /// The kind of table and its partitions, in `sfdisk`'s words; none for a filesystem that has
    /// the disk to itself.
    table: Option<(&'static str, &'static [&'static str])>,
    /// The number of the partition with the filesystem.
    pub(crate) data: u32,
    /// What `mke2fs` is told.
    features: &'static [&'static str],
}

impl Layout {
    pub(crate) const MINIKUBE: Layout = Layout {
        name: "minikube",
        table: Some(("gpt", &["disk1 : start=2048, type=linux"])),
        data: 1,
        features: &["-t", "ext4", "-i", "2048"],
    };
    pub(crate) const BOOT2DOCKER: Layout = Layout {
        name: "boot2docker",
        table: Some((
            "gpt",
            &["disk2 : start=2048, size=40960, type=swap", "disk1 : start=43008, type=linux"],
        )),
        data: 1,
        features: &["-t", "ext4", "-i", "8192", "-O", "^metadata_csum,^64bit,uninit_bg"],
    };
    pub(crate) const BOOT2DOCKER_MBR: Layout = Layout {
        name: "boot2docker before 18.09",
        table: Some((
            "dos",
            &["disk2 : start=2048, size=40960, type=82", "disk1 : start=43008, type=83"],
        )),
        data: 1,
        features: &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,^64bit,^flex_bg,uninit_bg"],
    };
    pub(crate) const RANCHEROS: Layout = Layout {
        name: "RancherOS",
        table: None,
        data: 0,
        features: &["-t", "ext4", "-b", "4096", "-L", "B2D_STATE"],
    };

    pub(crate) const ALL: &[Layout] =
        &[Layout::MINIKUBE, Layout::BOOT2DOCKER, Layout::BOOT2DOCKER_MBR, Layout::RANCHEROS];

    /// Makes the raw disk `disk` so long, with files, which stay in the folder `files` too.
    pub(crate) fn make(&self, env: &Env, disk: &str, bytes: u64) {
        self.make_with(env, disk, bytes, self.features);
    }

    /// The same, with another filesystem.
    pub(crate) fn make_with(&self, env: &Env, disk: &str, bytes: u64, features: &[&str]) {
        File::create(env.path(disk)).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        if let Some((label, partitions)) = self.table {
            let script = format!("label: {label}\n{}\n", partitions.join("\n"));
            let args = ["-q", "--no-tell-kernel", "--wipe", "never", disk];
            env.pipe("sfdisk", &args, &script).exits(0);
        }
        env.make_files();
        let (start, len) = env.partition(disk, self.data);
        let (offset, size) = (format!("offset={start}"), format!("{}k", len >> 10));
        let args = ["-q", "-F", "-d", "files", "-E", &offset, "-L", "boot2docker-data"];
        env.system("mke2fs", &[&args, features, &[disk, &size]].concat()).exits(0);
        env.take_out(disk, self.data);
        env.read_files("part", "files-as-read");
    }
}

impl Env {
    /// A program of the system's administrator, which may not be in the path.
    pub(crate) fn system(&self, program: &str, args: &[&str]) -> Run {
        let path = format!("PATH={PATH}");
        self.run("env", [&[path.as_str(), "LC_ALL=C", program], args].concat())
    }

    /// The same, with this on its standard input.
    fn pipe(&self, program: &str, args: &[&str], input: &str) -> Run {
        let mut command = Command::new(program);
        command.env("PATH", PATH).args(args).current_dir(self.path("."));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("its input");
        Run::of(child.wait_with_output().expect("its output"))
    }

    fn make_files(&self) {
        let folder = self.path("files");
        if folder.exists() {
            return;
        }
        fs::create_dir_all(folder.join("var/lib/deep")).expect("folders");
        for (number, len) in [1usize, 4095, 70_000, 1_300_000, 3_000_000].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251 + number) as u8).collect();
            fs::write(folder.join(format!("var/lib/file-{number}")), bytes).expect("a file");
        }
        for number in 0..120 {
            fs::write(folder.join(format!("var/lib/deep/{number}")), [number]).expect("a file");
        }
        std::os::unix::fs::symlink("var/lib", folder.join("link")).expect("a link");
    }

    /// Where a partition of a raw disk is, and how long, in bytes; number 0 is the whole disk.
    pub(crate) fn partition(&self, disk: &str, number: u32) -> (u64, u64) {
        if number == 0 {
            return (0, fs::metadata(self.path(disk)).expect("a disk").len());
        }
        let table: Value = self.system("sfdisk", &["--json", disk]).exits(0).json();
        let partitions = table["partitiontable"]["partitions"].as_array().expect("partitions");
        let node = format!("{disk}{number}");
        let found = partitions.iter().find(|partition| {
            let name = partition["node"].as_str().unwrap_or_default();
            name == node || name == format!("{disk}p{number}")
        });
        let found = found.unwrap_or_else(|| panic!("{number} of {table:#}"));
        let bytes = |field: &str| found[field].as_u64().expect("a number") * 512;
        (bytes("start"), bytes("size"))
    }

    /// The partition table of a raw disk as its guest and every program take it.
    #[track_caller]
    pub(crate) fn table_is_sound(&self, disk: &str) {
        let verdict = self.system("sfdisk", &["--verify", disk]).exits(0);
        assert!(verdict.stdout.contains("No errors detected"), "{verdict:?}");
        let dump = self.system("sfdisk", &["--dump", disk]).exits(0).stdout;
        if dump.contains("label: gpt") {
            let verdict = self.system("sgdisk", &["--verify", disk]).exits(0);
            assert!(verdict.stdout.contains("No problems found"), "{verdict:?}");
        }
    }

    /// Takes a partition of a raw disk out of it, into the file `part`.
    pub(crate) fn take_out(&self, disk: &str, number: u32) {
        let (start, len) = self.partition(disk, number);
        let args = [
            format!("if={disk}"),
            "of=part".to_owned(),
            "bs=1M".to_owned(),
            "iflag=skip_bytes,count_bytes".to_owned(),
            format!("skip={start}"),
            format!("count={len}"),
            "conv=sparse".to_owned(),
            "status=none".to_owned(),
        ];
        self.run("dd", args).exits(0);
        let part = File::options().write(true).open(self.path("part")).expect("the partition");
        part.set_len(len).expect("its length");
    }

    /// The filesystem in a partition of a raw disk is sound, fills it, and has every file.
    #[track_caller]
    pub(crate) fn filesystem_is_whole(&self, disk: &str, number: u32) {
        self.filesystem_is_whole_as_it_is(disk, number);
        let grown = self.system("resize2fs", &["part"]).exits(0);
        assert!(grown.stderr.contains("Nothing to do!"), "{grown:?}");
    }

    /// The filesystem in a partition of a raw disk is sound, and has every file.
    #[track_caller]
    pub(crate) fn filesystem_is_whole_as_it_is(&self, disk: &str, number: u32) {
        self.take_out(disk, number);
        self.system("e2fsck", &["-fn", "part"]).exits(0);
        self.has_its_files("part");
    }

    /// Every file of a filesystem is as it was when it was made.
    #[track_caller]
    pub(crate) fn has_its_files(&self, part: &str) {
        self.read_files(part, "found");
        let found = self.run("diff", ["-r", "-x", "lost+found", "files-as-read", "found"]);
        assert!(found.code == Some(0), "{found:?}");
    }

    /// Copies the files of a filesystem into a folder, as `debugfs` reads them.
    fn read_files(&self, part: &str, folder: &str) {
        let _ = fs::remove_dir_all(self.path(folder));
        fs::create_dir(self.path(folder)).expect("a folder");
        self.system("debugfs", &["-R", &format!("rdump / {folder}"), part]).exits(0);
    }

    /// What the guest sees of an image, as the raw disk `seen`.
    pub(crate) fn see(&self, format: &str, image: &str) {
        self.qemu_img(&format!("convert -f {format} -O raw {image} seen"));
    }
}

/// So many MiB, in bytes.
pub(crate) const fn mib(count: u64) -> u64 {
    count * MIB
}
