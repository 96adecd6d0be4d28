//! Against the programs themselves; a program that is not installed is not tested against.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::LockMode::{Reader, Shared, Writer};
use super::tests::{image, try_lock};
use super::{LockMode, Obstacle, holder};
use crate::error::{ErrorKind, Holder};
use crate::host::file::FileId;

/// A process that keeps a file open until it is dropped.
struct Program(Child);

impl Program {
    /// Starts it and waits for its first line. `None` when it is not installed.
    fn start(command: &mut Command, first_words: &str) -> Option<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().ok()?;
        let input = child.stdin.as_mut().unwrap();
        std::io::Write::write_all(input, first_words.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_ne!(line, "", "it ended at once");
        Some(Program(child))
    }

    fn qemu_io(options: &[&str], path: &Path) -> Option<Self> {
        let mut command = Command::new("qemu-io");
        Self::start(command.args(options).arg(path), "length\n")
    }

    fn holder(&self, command: &str) -> Holder {
        Holder { pid: self.0.id(), command: command.to_owned() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // All of them end with their input; killing would leave a shell's children behind.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Whether the program ends with success.
fn succeeds(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdin(Stdio::null());
    command.output().unwrap().status.success()
}

fn qcow2() -> Option<(TempDir, PathBuf)> {
    let (dir, path) = image();
    let path = path.with_extension("qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M");
    create.status().ok()?.success().then_some((dir, path))
}

#[track_caller]
fn assert_held(path: &Path, mode: LockMode, by: &Holder) {
    let before = fs::read(path).unwrap();
    let error = try_lock(path, mode).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert_eq!(error.holder(), Some(by), "{error}");
    assert_eq!(fs::read(path).unwrap(), before);
}

#[test]
fn a_writing_qemu_keeps_us_out() {
    let Some((_dir, qcow2)) = qcow2() else { return };
    let (_dir, raw) = image();
    for (path, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
        let qemu = Program::qemu_io(&["-f", format], path).unwrap();
        assert_held(path, Writer, &qemu.holder("qemu-io"));
        assert_held(path, Reader, &qemu.holder("qemu-io"));
        try_lock(path, Shared).unwrap();
        drop(qemu);
        try_lock(path, Writer).unwrap();
    }
}

#[test]
fn a_reading_qemu_lets_readers_in() {
    let Some((_dir, path)) = qcow2() else { return };
    let qemu = Program::qemu_io(&["-r", "-f", "qcow2"], &path).unwrap();
    assert_held(&path, Writer, &qemu.holder("qemu-io"));
    try_lock(&path, Reader).unwrap();
    try_lock(&path, Shared).unwrap();
}

#[test]
fn our_locks_keep_qemu_out() {
    let Some((_dir, path)) = qcow2() else { return };
    let write = ["-f", "qcow2", "-c", "write 0 512"];
    let before = fs::read(&path).unwrap();

    let writer = try_lock(&path, Writer).unwrap();
    assert!(!succeeds("qemu-img", &["info"], &path));
    assert!(succeeds("qemu-img", &["info", "-U"], &path));
    assert!(!succeeds("qemu-io", &write, &path));
    assert!(!succeeds("qemu-io", &["-r", "-f", "qcow2", "-c", "length"], &path));
    assert!(!succeeds("qemu-io", &["-f", "raw", "-c", "write 0 512"], &path));
    drop(writer);

    let reader = try_lock(&path, Reader).unwrap();
    assert!(succeeds("qemu-img", &["info"], &path));
    assert!(succeeds("qemu-io", &["-r", "-f", "qcow2", "-c", "length"], &path));
    assert!(!succeeds("qemu-io", &write, &path));
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(reader);

    let shared = try_lock(&path, Shared).unwrap();
    assert!(succeeds("qemu-io", &write, &path));
    drop(shared);
}

#[test]
fn a_flock_alone_keeps_us_out() {
    let (_dir, path) = image();
    for (option, mode) in [("-x", Writer), ("-x", Reader), ("-s", Writer)] {
        let mut command = Command::new("flock");
        command.args(["-o", option]).arg(&path).args(["-c", "echo held; read line"]);
        let Some(flock) = Program::start(&mut command, "") else { return };
        assert_held(&path, mode, &flock.holder("flock"));
        if option == "-s" {
            try_lock(&path, Reader).unwrap();
        }
        try_lock(&path, Shared).unwrap();
    }
}

#[test]
fn holders_are_found_by_the_very_lock() {
    let (_dir, path) = image();
    let id = FileId::of(&path).unwrap();
    let _reader = try_lock(&path, Reader).unwrap();
    let found = |byte| holder::find(id, Obstacle::Byte(byte)).map(|holder| holder.pid);
    let us = Some(std::process::id());
    assert_eq!([100, 101, 200, 201, 202, 203].map(found), [us, None, None, us, None, us]);
    let other = FileId::of(path.parent().unwrap()).unwrap();
    assert_eq!(holder::find(other, Obstacle::Flock), None);
}
