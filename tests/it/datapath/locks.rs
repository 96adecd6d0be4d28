//! An image that the library has open is protected from others, and others' from it.

use std::io::Read;

use vmdisk::ErrorKind;
use vmdisk::block::BlockDevice;
use vmdisk::image::{Image, OpenOptions};

use crate::support::Env;

use super::disk::to_write;

/// Opens a file of the folder.
fn open(env: &Env, name: &str, options: &OpenOptions) -> vmdisk::Result<Image> {
    Image::open(env.path(name), options)
}

/// Nobody else may open it now, or only to read.
#[track_caller]
fn we_are_refused(env: &Env, name: &str, reads: bool) {
    let error = open(env, name, &OpenOptions::to_write()).expect_err("a lock");
    assert_eq!((error.kind(), error.changed()), (ErrorKind::Locked, false), "{name}: {error}");
    match open(env, name, &OpenOptions::to_read()) {
        Ok(_) => assert!(reads, "{name}"),
        Err(error) => {
            assert!(!reads, "{name}: {error}");
            assert_eq!(error.kind(), ErrorKind::Locked, "{name}: {error}");
        }
    }
}

#[track_caller]
fn qemu_io(env: &Env, args: &[&str], name: &str, allowed: bool) {
    let format = name.rsplit('.').next().expect("a name");
    let run = env.run("qemu-io", [&["-f", format], args, &[name]].concat());
    assert_eq!(run.code == Some(0), allowed, "{name} {args:?}: {run:?}");
    assert!(allowed || run.stderr.contains("lock"), "{name} {args:?}: {run:?}");
}

/// QEMU too may open it to read only, or not at all.
#[track_caller]
fn qemu_is_refused(env: &Env, name: &str, reads: bool) {
    qemu_io(env, &["-c", "write -P 9 0 512"], name, false);
    // It reads a raw disk whoever writes.
    let reads = reads || name.ends_with(".raw");
    qemu_io(env, &["-r", "-c", "read 0 512"], name, reads);
}

fn chain() -> Env {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 base.qcow2 1M");
    env.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2");
    env.qemu_img("create -q -f qcow2 -o data_file=data.raw e.qcow2 1M");
    env.qemu_img("create -q -f raw plain.raw 1M");
    env
}

/// While we write, nobody else opens the image; what is below it may be read by all, as what is
/// only read by us.
#[test]
fn what_we_use_is_left_alone() {
    let env = chain();
    for (name, below) in [
        ("d.qcow2", Some(("base.qcow2", true))),
        ("e.qcow2", Some(("data.raw", false))),
        ("plain.raw", None),
    ] {
        let image = open(&env, name, &to_write(&env)).expect("an image");
        image.write_at(0, b"ours").expect("a write");
        we_are_refused(&env, name, false);
        qemu_is_refused(&env, name, false);
        if let Some((below, reads)) = below {
            we_are_refused(&env, below, reads);
            qemu_is_refused(&env, below, reads);
        }
        let words = env.vmdisk(&format!("resize {name} --size 2M"));
        assert_eq!(words.code, Some(75), "{name}: {words:?}");
        image.close().expect("the end");

        let image = open(&env, name, &OpenOptions::to_read()).expect("an image");
        let mut found = [0; 4];
        image.read_at(0, &mut found).expect("a read");
        assert_eq!(&found, b"ours", "{name}");
        we_are_refused(&env, name, true);
        qemu_is_refused(&env, name, true);
        image.close().expect("the end");
        qemu_io(&env, &["-c", "write -P 9 0 512"], name, true);
    }
}

/// What QEMU has open to write is not opened at all; what it reads, to read.
#[test]
fn what_qemu_uses_is_left_alone() {
    for (args, reads) in [(&[][..], false), (&["-r"][..], true)] {
        let env = chain();
        let mut qemu = env.spawn("qemu-io", [&["-f", "qcow2"], args, &["d.qcow2"]].concat());
        // It asks for commands once everything is open.
        let mut prompt = [0; 7];
        qemu.stdout().read_exact(&mut prompt).expect("a prompt");
        we_are_refused(&env, "d.qcow2", reads);
        we_are_refused(&env, "base.qcow2", true);
        qemu.kill();
        let image = open(&env, "d.qcow2", &OpenOptions::to_write()).expect("free again");
        image.close().expect("the end");
    }
}

/// Whoever opens an image a second time himself is told so: there is no other program to look for.
#[test]
#[cfg(target_os = "linux")]
fn twice_in_one_process_is_said() {
    let env = chain();
    for name in ["d.qcow2", "plain.raw"] {
        for (first, second) in [
            (OpenOptions::to_write(), OpenOptions::to_write()),
            (OpenOptions::to_write(), OpenOptions::to_read()),
            (OpenOptions::to_read(), OpenOptions::to_write()),
        ] {
            let held = open(&env, name, &first).expect("an image");
            let error = open(&env, name, &second).expect_err("a lock");
            assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
            let message = error.to_string();
            assert!(message.contains("this process has it open already"), "{message}");
            let holder = error.holder().expect("a holder");
            assert_eq!(holder.pid, std::process::id(), "{error}");
            drop(held);
        }
    }
}

/// One that waits for a lock as long as it is told to gets it once it is free.
#[test]
fn waiting_helps() {
    let env = chain();
    let first = open(&env, "d.qcow2", &OpenOptions::to_write()).expect("an image");
    let mut patient = OpenOptions::to_write();
    patient.locks.timeout = std::time::Duration::from_secs(20);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| open(&env, "d.qcow2", &patient).map(|image| image.size()));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!second.is_finished());
        first.close().expect("the end");
        assert_eq!(second.join().expect("a thread").expect("a lock"), 1 << 20);
    });
}
