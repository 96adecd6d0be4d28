//! The command line.

use std::env;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// How the benchmark is called.
pub(crate) const USAGE: &str = "\
usage: vmdisk-bench [--vmdisk PATH] [--qemu-img PATH] [--runs NUMBER] [--filter NAME]
                    [--folder FOLDER] [--json FILE]

  --vmdisk    the release binary to measure [default: target/release/vmdisk]
  --qemu-img  what it is compared with [default: the one that the shell would find]
  --runs      timed runs of each program, after one that is not timed [default: 15]
  --filter    only works whose name contains this: create-20g, create-1t, resize, shrink,
              info, ensure, version, rpc-info, session-info, session-ensure, memory,
              session-memory, check-1t, check-scattered, inspect, grow-inside, ensure-inside,
              data-read, data-write, data-append, data-zlib, data-zstd, data-open-64k, data-open-2m, data-far-64k,
              data-far-2m, raw-to-qcow2, qcow2-to-raw, raw-to-raw, raw-to-zlib, raw-to-zstd,
              zlib-to-raw, hash-1t, hash-4g
  --folder    where disks are made, on the file system to be measured [default: where temporary
              files go]
  --json      also write everything measured to this file";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) vmdisk: PathBuf,
    pub(crate) qemu_img: Option<PathBuf>,
    pub(crate) runs: usize,
    pub(crate) filter: String,
    pub(crate) folder: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; `None` when help was asked for.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let mut options = Options {
            vmdisk: PathBuf::from("target/release/vmdisk"),
            qemu_img: find("qemu-img"),
            runs: 15,
            filter: String::new(),
            folder: env::temp_dir(),
            json: None,
        };
        while let Some(name) = arguments.next() {
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let value = arguments.next();
            let value = value.ok_or_else(|| Error::other(format!("{name} needs a value")))?;
            options.set(&name, value)?;
        }
        options.vmdisk = options
            .vmdisk
            .canonicalize()
            .map_err(|error| Error::other(format!("{}: {error}", options.vmdisk.display())))?;
        Ok(Some(options))
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "--vmdisk" => self.vmdisk = value.into(),
            "--qemu-img" => self.qemu_img = Some(Path::new(&value).canonicalize()?),
            "--runs" => {
                let runs = value.parse().ok().filter(|runs| *runs > 0);
                self.runs =
                    runs.ok_or_else(|| Error::other(format!("--runs {value}: no number")))?;
            }
            "--filter" => self.filter = value,
            "--folder" => self.folder = value.into(),
            "--json" => self.json = Some(value.into()),
            _ => return Err(Error::other(format!("{name} is not an option"))),
        }
        Ok(())
    }
}

/// Where the shell would find a program: searched for once, not at every start.
fn find(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}
