//! A file system of another kind for a test, in a file.

use std::path::Path;

use nix::sched::{CloneFlags, unshare};

use crate::support::Env;

/// Runs `work` in a folder on a new file system of this kind. Where that cannot be made or mounted, it
/// says so, and does nothing. The mount is one of this thread's own, and of those that it starts: it is
/// gone with them, however the test ends.
pub(crate) fn on(kind: &str, work: impl FnOnce(&Env) + Send) {
    let outside = Env::new();
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| match mount(kind, &outside) {
            Ok(()) => work(&Env::within(&outside.path("mnt"))),
            Err(why) => println!("no {kind} to be had here: not tested ({})", why.trim()),
        });
        thread.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn mount(kind: &str, env: &Env) -> Result<(), String> {
    // No smaller one is made by `mkfs.xfs`.
    let file = std::fs::File::create(env.path("fs")).and_then(|file| file.set_len(320 << 20));
    file.map_err(|error| error.to_string())?;
    std::fs::create_dir(env.path("mnt")).map_err(|error| error.to_string())?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string())?;
    run(env, "mount --make-rprivate /")?;
    run(env, &format!("mkfs.{kind} -q fs"))?;
    run(env, "mount -o loop fs mnt")
}

fn run(env: &Env, line: &str) -> Result<(), String> {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin; exec {line}");
    let run = env.run("sh", ["-c", &script]);
    if run.code == Some(0) { Ok(()) } else { Err(run.stderr) }
}

/// Whether the file shares blocks with another one, as `filefrag` tells.
pub(crate) fn shares_blocks(file: &Path) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let told =
        std::process::Command::new("filefrag").arg("-v").arg(file).env("PATH", path).output();
    let told = told.expect("filefrag, of e2fsprogs");
    assert!(told.status.success(), "{told:?}");
    String::from_utf8_lossy(&told.stdout).contains("shared")
}
