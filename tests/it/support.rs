//! A folder, the program, and the oracles.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What one run of a program said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    fn of(output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails the test unless the run ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Run {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// A folder of its own for one test.
pub(crate) struct Env {
    folder: tempfile::TempDir,
}

impl Env {
    pub(crate) fn new() -> Env {
        Env { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("a file in the temporary folder");
        path
    }

    /// Runs a program in the folder.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Run {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).stdin(std::process::Stdio::null());
        let output = command.output();
        Run::of(output.unwrap_or_else(|error| panic!("cannot run {program:?}: {error}")))
    }

    /// Runs `vmdisk` with arguments separated by blanks.
    pub(crate) fn vmdisk(&self, line: &str) -> Run {
        self.run(VMDISK, line.split_whitespace())
    }

    /// Runs `vmdisk … --json`, which must succeed, and returns its report.
    #[track_caller]
    pub(crate) fn report(&self, line: &str) -> Value {
        self.vmdisk(&format!("{line} --json")).exits(0).json()
    }

    /// Runs `vmdisk … --json`, which must fail with this code and kind, and returns the error.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, code: i32, kind: &str) -> Value {
        let error = self.vmdisk(&format!("{line} --json")).exits(code).json();
        assert_eq!(error["error"]["data"]["kind"], kind, "{line}: {error:#}");
        error["error"].clone()
    }

    /// Runs `qemu-img` with arguments separated by blanks; it must succeed.
    #[track_caller]
    pub(crate) fn qemu_img(&self, line: &str) -> Run {
        self.run("qemu-img", line.split_whitespace()).exits(0)
    }

    /// Runs one `qemu-io` command on an image; it must succeed.
    #[track_caller]
    pub(crate) fn qemu_io(&self, format: &str, image: &str, command: &str) -> String {
        let run = self.run("qemu-io", ["-f", format, "-c", command, image]).exits(0);
        let failed = run.stdout.contains("failed") || run.stdout.contains("error");
        assert!(!failed, "{command}: {}", run.stdout);
        run.stdout
    }

    /// `qemu-img check` finds nothing at all.
    #[track_caller]
    pub(crate) fn is_clean(&self, image: &str) {
        let run = self.run("qemu-img", ["check", "-f", "qcow2", "--output=json", image]);
        assert_eq!(run.code, Some(0), "{image}: {run:?}");
    }

    /// The bytes of the guest's disk, by way of `qemu-img`.
    pub(crate) fn guest_bytes(&self, image: &str, offset: u64, len: usize) -> Vec<u8> {
        // A block size of 512 so that any sector can be asked for.
        let (skip, count) = (offset / 512, len.div_ceil(512));
        let args = [
            "dd".to_owned(),
            "-O".to_owned(),
            "raw".to_owned(),
            "bs=512".to_owned(),
            format!("skip={skip}"),
            format!("count={}", skip as usize + count),
            format!("if={image}"),
            "of=dd.out".to_owned(),
        ];
        self.run("qemu-img", args).exits(0);
        let mut bytes = std::fs::read(self.path("dd.out")).expect("qemu-img's output");
        std::fs::remove_file(self.path("dd.out")).expect("the output just read");
        bytes.truncate(len);
        bytes
    }
}

impl Env {
    /// The whole of the guest's disk, by way of `qemu-img`, and its backing files.
    pub(crate) fn disk(&self, format: &str, image: &str) -> Vec<u8> {
        self.converted(["-f", format, image])
    }

    /// The whole disk as an internal snapshot has it.
    pub(crate) fn snapshot_disk(&self, image: &str, snapshot: &str) -> Vec<u8> {
        self.converted(["-f", "qcow2", "-l", snapshot, image])
    }

    fn converted<const N: usize>(&self, args: [&str; N]) -> Vec<u8> {
        let args = ["convert", "-O", "raw"].into_iter().chain(args).chain(["disk.out"]);
        self.run("qemu-img", args).exits(0);
        let bytes = std::fs::read(self.path("disk.out")).expect("qemu-img's output");
        std::fs::remove_file(self.path("disk.out")).expect("the output just read");
        bytes
    }

    /// What `qemu-img info` says. It opens no backing file and heeds no lock.
    pub(crate) fn qemu_info(&self, image: &str) -> Value {
        self.run("qemu-img", ["info", "-U", "-f", "qcow2", "--output=json", image]).exits(0).json()
    }

    /// Runs `qemu-io` commands on a qcow2 image in one go; all must succeed.
    #[track_caller]
    pub(crate) fn qemu_io_all(&self, image: &str, commands: &[String]) {
        let args = ["-f", "qcow2"].map(str::to_owned).into_iter();
        let commands = commands.iter().flat_map(|command| ["-c".to_owned(), command.clone()]);
        let run = self.run("qemu-io", args.chain(commands).chain([image.to_owned()])).exits(0);
        let failed = run.stdout.contains("failed") || run.stdout.contains("error");
        assert!(!failed, "{}", run.stdout);
    }

    /// Runs `vmdisk … --json`, which must fail with this code and kind and leave every byte of the
    /// file as it was.
    #[track_caller]
    pub(crate) fn refuses(&self, line: &str, file: &str, code: i32, kind: &str) -> Value {
        let before = std::fs::read(self.path(file)).expect("the file before");
        let error = self.fails(line, code, kind);
        let after = std::fs::read(self.path(file)).expect("the file afterwards");
        assert!(before == after, "{line}: {file} has changed");
        assert_ne!(error["data"]["changed"], true, "{line}: {error:#}");
        error
    }

    /// Overwrites bytes of a file.
    pub(crate) fn patch(&self, file: &str, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(self.path(file));
        file.and_then(|file| file.write_all_at(bytes, offset)).expect("a patched file");
    }
}

/// Fails with the place of the first difference: two disks are too long to be printed.
#[track_caller]
pub(crate) fn same_bytes(found: &[u8], expected: &[u8], what: &str) {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = at {
        let (found, expected) = (found[at], expected[at]);
        panic!("{what}: byte {at} is {found:#04x}, expected {expected:#04x}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: the length");
}

/// The program as built for this test run.
pub(crate) const VMDISK: &str = env!("CARGO_BIN_EXE_vmdisk");

/// A public key that no private key is known for.
pub(crate) const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g test\n";
