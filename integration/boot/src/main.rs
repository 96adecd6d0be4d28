//! Boots real kernels on disks of `vmdisk`. Guests that format their disk by themselves do so, are
//! let in, write a file and go off; the host grows the disk; then everything must be there, and
//! larger. What judges is the guest's kernel, `e2fsck` and `qemu-img check`.

mod course;
mod host;
mod initramfs;
mod machine;
mod packages;
mod scenarios;

use std::env;
use std::error::Error;
use std::fs::{create_dir_all, write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::{available_parallelism, scope};
use std::time::Instant;

use self::course::{Scenario, Seen, Stage, play};
use self::initramfs::System;

/// What fails a test, for people.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) fn failure<T>(message: String) -> Result<T> {
    Err(message.into())
}

/// So many machines run at the same time.
const MACHINES: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (vmdisk, cache, filter) = match &arguments[..] {
        [vmdisk, cache] => (vmdisk, cache, ""),
        [vmdisk, cache, filter] => (vmdisk, cache, filter.as_str()),
        _ => {
            eprintln!("usage: vmdisk-boot VMDISK CACHE-FOLDER [PART-OF-A-NAME]");
            return ExitCode::from(2);
        }
    };
    match run(Path::new(vmdisk), Path::new(cache), filter) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("boot-test: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all scenarios went well.
fn run(vmdisk: &Path, cache: &Path, filter: &str) -> Result<bool> {
    create_dir_all(cache)?;
    let (vmdisk, cache) = (vmdisk.canonicalize()?, cache.canonicalize()?);
    let packages = match packages::find(&cache) {
        Ok(packages) => packages,
        Err(missing) => {
            eprintln!("boot-test: SKIPPED, no guest was booted: {missing}");
            return Ok(true);
        }
    };
    let start = Instant::now();
    let system = System::of(&packages.kernel, &packages.programs)?;
    let folder = tempfile::Builder::new().prefix("run.").tempdir_in(&cache)?;
    let initramfs = folder.path().join("initramfs");
    write(&initramfs, &system.initramfs)?;
    let stage =
        Stage { vmdisk: &vmdisk, packages: &packages, system: &system, initramfs: &initramfs };
    let chosen = scenarios::ALL.iter().filter(|scenario| scenario.name.contains(filter));
    let waiting = Mutex::new(chosen.copied().enumerate());
    let failed = Mutex::new(Vec::new());
    let machines = available_parallelism().map_or(1, usize::from).min(MACHINES);
    scope(|scope| {
        for _ in 0..machines {
            scope.spawn(|| {
                let next = || waiting.lock().ok()?.next();
                while let Some((number, scenario)) = next() {
                    if !show(scenario, &stage, &folder.path().join(number.to_string())) {
                        failed.lock().map(|mut failed| failed.push(scenario.name)).ok();
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    eprintln!("boot-test: {} s, {} failed", start.elapsed().as_secs(), failed.len());
    if !failed.is_empty() {
        eprintln!("boot-test: disks and consoles are left in {}", folder.keep().display());
    }
    Ok(failed.is_empty())
}

/// Plays a scenario and tells how it went.
fn show(scenario: Scenario, stage: &Stage<'_>, folder: &Path) -> bool {
    let start = Instant::now();
    let played =
        create_dir_all(folder).map_err(Into::into).and_then(|()| play(scenario, stage, folder));
    let seconds = start.elapsed().as_secs_f64();
    match &played {
        Ok(Seen { allocated_mib }) => {
            println!(
                "ok    {:<26} {seconds:5.1} s, MiB after each boot: {allocated_mib:?}",
                scenario.name
            );
        }
        Err(error) => {
            let error: String = error.to_string().chars().take(2000).collect();
            println!("FAIL  {:<26} {seconds:5.1} s: {error}", scenario.name);
        }
    }
    played.is_ok()
}
