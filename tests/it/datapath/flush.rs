//! A flush is over when everything is on the medium: watched from outside.

use std::process::Command;

use vmdisk::block::BlockDevice;
use vmdisk::image::gate::Trust;
use vmdisk::image::{Image, OpenOptions};

use crate::support::Env;

/// Tells the test below that it is watched, and where to work.
const FOLDER: &str = "VMDISK_TEST_FLUSH_IN";
const IMAGES: [&str; 4] = ["plain.qcow2", "apart.qcow2", "raw.qcow2", "d.raw"];

/// What is watched: writes, discards and flushes, a file's name looked up after each as a sign.
#[test]
fn writes_and_flushes() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = std::path::PathBuf::from(folder);
    let sign = |name: &str| {
        let _ = std::fs::read_link(folder.join(format!("sign-{name}")));
    };
    let options = OpenOptions { trust: Trust::Full, ..OpenOptions::to_write() };
    for name in IMAGES {
        let image = Image::open(folder.join(name), &options).expect("an image");
        for n in 0..4u64 {
            image.write_at(n * 200_000, &[7; 100_000]).expect("a write");
            image.flush().expect("a flush");
            sign("flushed");
        }
        image.discard(0, 64 << 10).expect("a discard");
        sign("discarded");
        image.flush().expect("a flush");
        sign("freed");
        image.close().expect("the end");
        sign("closed");
    }
}

/// What is not on the medium yet of an image's own file, or of its data file.
#[derive(Default)]
struct Pending {
    image: bool,
    data: bool,
}

/// Follows the calls up to each sign.
#[derive(Default)]
struct Watch {
    pending: Pending,
    writes: usize,
    signs: usize,
    /// Discards that gave room back before they were flushed: the image's own room waits.
    punched: usize,
}

impl Watch {
    fn see(&mut self, line: &str) {
        let is = |names: &[&str]| names.iter().any(|name| line.contains(&format!(" {name}(")));
        let data = line.contains(".data>");
        let ours = data || IMAGES.iter().any(|name| line.contains(&format!("/{name}>")));
        let pending = if data { &mut self.pending.data } else { &mut self.pending.image };
        if ours && is(&["pwrite64", "pwritev", "write", "fallocate", "ftruncate"]) {
            *pending = true;
            self.writes += 1;
            self.punched += usize::from(line.contains("PUNCH_HOLE") && data);
        } else if ours && is(&["fdatasync", "fsync"]) {
            assert!(line.ends_with("= 0"), "{line}");
            *pending = false;
            // Tables follow a sync of the image: by then the data that they refer to is there.
            assert!(!self.pending.data, "data is synced too late: {line}");
        } else if line.contains("/sign-") {
            self.sign(line);
        }
    }

    fn sign(&mut self, line: &str) {
        let Pending { image, data } = self.pending;
        let pending = match line {
            _ if line.contains("-discarded") => false,
            // What a flush has freed is given back behind it.
            _ if line.contains("-freed") => data,
            _ => image || data,
        };
        assert!(!pending, "written and not synced before {line}");
        self.signs += 1;
    }
}

/// Before a flush returns, a sync follows the last write to each file, and the data file's comes
/// first.
#[test]
fn nothing_is_written_after_the_last_sync() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 plain.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -o data_file=apart.data apart.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -o data_file=raw.data,data_file_raw=on raw.qcow2 1M");
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
    let mut watch = Watch::default();
    log.lines().for_each(|line| watch.see(line));
    assert_eq!(watch.signs, 7 * IMAGES.len(), "{log}");
    assert!(watch.writes >= 30 && watch.punched == 2, "{log}");
}
