//! A flush is over when everything is on the medium: watched from outside.

use std::process::Command;

use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use crate::support::Env;

/// Tells the test below that it is watched, and where to work.
const FOLDER: &str = "VMDISK_TEST_FLUSH_IN";

/// What is watched: writes and flushes, a file's name looked up after each flush as a sign.
#[test]
fn writes_and_flushes() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = std::path::PathBuf::from(folder);
    for name in ["d.qcow2", "d.raw"] {
        let image = Image::open(folder.join(name), &OpenOptions::to_write()).expect("an image");
        for n in 0..4u64 {
            image.write_at(n * 200_000, &[7; 100_000]).expect("a write");
            image.flush().expect("a flush");
            let _ = std::fs::read_link(folder.join(format!("flushed-{name}-{n}")));
        }
        image.close().expect("the end");
        let _ = std::fs::read_link(folder.join(format!("closed-{name}")));
    }
}

/// Before a flush returns, a sync follows the last write to the file.
#[test]
fn nothing_is_written_after_the_last_sync() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    env.qemu_img("create -q -f raw d.raw 1M");
    let mut strace = Command::new("strace");
    let calls = "trace=pwrite64,pwritev,write,fallocate,ftruncate,fdatasync,fsync,readlink";
    strace.args(["-f", "-y", "-e", calls, "-o"]).arg(env.path("log"));
    strace.arg(std::env::current_exe().expect("this program"));
    strace.args(["--exact", "datapath::flush::writes_and_flushes", "--nocapture"]);
    let run = strace.env(FOLDER, env.path("")).output();
    if !run.is_ok_and(|run| run.status.success()) {
        println!("strace cannot be had: when a flush ends was not tested");
        return;
    }
    let log = std::fs::read_to_string(env.path("log")).expect("a log");
    let (mut pending, mut writes, mut flushes) = (false, 0, 0);
    for line in log.lines() {
        let is = |names: &[&str]| names.iter().any(|name| line.contains(&format!(" {name}(")));
        let ours = line.contains("/d.qcow2>") || line.contains("/d.raw>");
        if ours && is(&["pwrite64", "pwritev", "write", "fallocate", "ftruncate"]) {
            (pending, writes) = (true, writes + 1);
        } else if ours && is(&["fdatasync", "fsync"]) {
            assert!(line.ends_with("= 0"), "{line}");
            pending = false;
        } else if line.contains("/flushed-") || line.contains("/closed-") {
            assert!(!pending, "written and not synced before {line}\n{log}");
            flushes += 1;
        }
    }
    assert_eq!(flushes, 10, "{log}");
    assert!(writes >= 12, "{log}");
}
