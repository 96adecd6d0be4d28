//! Whole processes: started, waited for, timed.

use std::fs::{create_dir, read_dir, remove_dir_all, remove_file};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};

use crate::sys;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    program: PathBuf,
    arguments: Vec<String>,
}

/// What one process took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From before its start until after its end.
    pub(crate) elapsed: Duration,
    /// The most memory it had, in KiB.
    pub(crate) peak_kib: u64,
}

impl Invocation {
    /// `program` with arguments that hold no blanks, which separate them.
    pub(crate) fn new(program: &Path, arguments: &str) -> Invocation {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Invocation { program: program.to_owned(), arguments }
    }

    /// Runs it in `folder`, its output discarded.
    ///
    /// A child's peak counts what it was before it executed the program, so it is never below what
    /// this process, which is small, has itself.
    pub(crate) fn run(&self, folder: &Path) -> Result<Sample> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let child = command.spawn().map_err(|error| self.failed(&error.to_string()))?;
        let (status, peak_kib) = sys::wait(&child)?;
        let elapsed = start.elapsed();
        if !status.success() {
            return Err(self.failed(&status.to_string()));
        }
        Ok(Sample { elapsed, peak_kib })
    }

    /// The first line that it prints.
    pub(crate) fn first_line(&self) -> Result<String> {
        let output = Command::new(&self.program).args(&self.arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn failed(&self, why: &str) -> Error {
        let arguments = self.arguments.join(" ");
        Error::other(format!("{} {arguments}: {why}", self.program.display()))
    }
}

/// A folder of our own, removed at the end.
#[derive(Debug)]
pub(crate) struct WorkFolder(PathBuf);

impl WorkFolder {
    /// Makes it inside `parent`.
    pub(crate) fn inside(parent: &Path) -> Result<WorkFolder> {
        let path = parent.canonicalize()?.join(format!("vmdisk-bench.{}", id()));
        create_dir(&path)?;
        Ok(WorkFolder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes every file in it.
    pub(crate) fn clear(&self) -> Result<()> {
        read_dir(&self.0)?.try_for_each(|entry| remove_file(entry?.path()))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Nothing depends on it, and there is nobody to tell.
        let _ = remove_dir_all(&self.0);
    }
}
