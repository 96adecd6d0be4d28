//! The host's side: the program that is tested, and the tools that judge what it did.

use std::fs::remove_file;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Result, failure};

/// Programs of the host, at work in one folder.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    pub(crate) vmdisk: &'a Path,
    pub(crate) folder: &'a Path,
}

impl Host<'_> {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs `vmdisk … --json` with arguments separated by blanks; its report.
    pub(crate) fn vmdisk(&self, line: &str) -> Result<Value> {
        let (code, report) = self.vmdisk_ends(line)?;
        if code != 0 {
            return failure(format!("vmdisk {line}: exit code {code}: {report}"));
        }
        Ok(report)
    }

    /// The same, whatever its exit code is.
    pub(crate) fn vmdisk_ends(&self, line: &str) -> Result<(i32, Value)> {
        let mut command = Command::new(self.vmdisk);
        command.args(line.split_whitespace()).args(["--json", "--progress", "off"]);
        let output = command.current_dir(self.folder).stdin(Stdio::null()).output()?;
        let report = serde_json::from_slice(&output.stdout);
        let Some((code, report)) = output.status.code().zip(report.ok()) else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return failure(format!("vmdisk {line}: {}: {said}", output.status));
        };
        Ok((code, report))
    }

    /// A new key pair; the line of the public one.
    pub(crate) fn make_key(&self, name: &str, kind: &[&str]) -> Result<String> {
        let comment = format!("{name}@host");
        let args = ["-q", "-N", "", "-C", &comment, "-f", name];
        self.tool("ssh-keygen", &[&args, kind].concat())?;
        let line = std::fs::read_to_string(self.path(&format!("{name}.pub")))?;
        Ok(line.trim_end().to_owned())
    }

    /// What QEMU's own tools say about an image: nothing at all.
    pub(crate) fn qemu_finds_nothing(&self, disk: &str, format: &str) -> Result<()> {
        // Of a raw disk there is nothing that it could check.
        if format == "qcow2" {
            self.tool("qemu-img", &["check", "-q", "-f", format, disk])?;
        }
        Ok(())
    }

    /// What e2fsck says about the filesystem that begins at `start` of a disk: nothing at all.
    pub(crate) fn e2fsck_finds_nothing(&self, disk: &str, format: &str, start: u64) -> Result<()> {
        let raw = format!("{disk}.copy");
        let read = if format == "raw" { disk } else { &raw };
        if format != "raw" {
            self.tool("qemu-img", &["convert", "-f", format, "-O", "raw", disk, &raw])?;
        }
        let checked = self.tool("e2fsck", &["-fn", &format!("{read}?offset={start}")]);
        if format != "raw" {
            remove_file(self.path(&raw))?;
        }
        checked
    }

    /// Keeps a copy of a file, to be compared with it later.
    pub(crate) fn keep(&self, name: &str) -> Result<()> {
        self.tool("cp", &["--sparse=always", name, &format!("{name}.kept")])
    }

    /// Fails unless every byte of a file is what it was.
    pub(crate) fn is_as_kept(&self, name: &str) -> Result<()> {
        self.tool("cmp", &[name, &format!("{name}.kept")])
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut command = Command::new(program);
        command.args(args).env("PATH", path).current_dir(self.folder).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        failure(format!("{program} {}: {}\n{said}", args.join(" "), output.status))
    }
}
