//! Locks, in both directions: what QEMU uses is left alone, and what is being changed here is
//! left alone by QEMU.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Env, Running, failure, until};

/// What QEMU's writers use, and ours. (On a raw disk, `qemu-io` would share it.)
const WRITES: u64 = 101;

/// Whether a process has a lock on this byte of a file.
fn has_lock(pid: u32, byte: u64) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let about = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let covers = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [.., family, _, _, _, _, first, last] = words[..] else { return false };
        let number = |word: &str| word.parse::<u64>().unwrap_or(u64::MAX);
        family == "OFDLCK" && (number(first)..=number(last)).contains(&byte)
    };
    about.into_iter().any(|text| text.lines().any(|line| line.starts_with("lock:") && covers(line)))
}

/// Whether a process has the `flock` of this file, which our writers take last of all.
fn has_flock(pid: u32, path: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let inode = std::fs::metadata(path).expect("the disk is there").ino().to_string();
    let about = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let is_it = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, _, "FLOCK", _, "WRITE", _, file, ..] = words[..] else { return false };
        file.rsplit(':').next() == Some(&inode)
    };
    about.into_iter().any(|text| text.lines().any(is_it))
}

/// A virtual machine's stand-in: `qemu-io` that has opened a disk for writing and waits.
pub(crate) fn qemu_io(env: &Env, disk: &str) -> Running {
    let qemu = env.spawn("qemu-io", ["-f", disk.rsplit('.').next().expect("a name"), disk]);
    until("qemu-io's lock", || has_lock(qemu.pid(), WRITES));
    qemu
}

/// Starts one or the other.
type Machine = fn(&Env, &str) -> Running;

fn qemu_nbd(env: &Env, disk: &str) -> Running {
    let socket = env.path("socket").display().to_string();
    let format = disk.rsplit('.').next().expect("a name");
    let qemu = env.spawn("qemu-nbd", ["-t", "-f", format, "-k", &socket, disk]);
    until("qemu-nbd's lock", || has_lock(qemu.pid(), WRITES));
    qemu
}

/// The error says to try again, and who is in the way.
#[track_caller]
fn names(error: &Value, holder: &Running, command: &str) {
    let about = &error["data"]["holder"];
    assert_eq!(about["pid"], holder.pid(), "{error:#}");
    assert_eq!(about["command"], command, "{error:#}");
    let hint = error["data"]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("--lock-timeout"), "{error:#}");
}

/// While a machine has a disk open, every verb that would change it ends with 75 and names the
/// machine; asking about the disk works. Once the machine is gone, killed or not, all is well.
#[test]
fn a_machine_keeps_its_disk() {
    for disk in ["d.qcow2", "d.raw"] {
        let machines: [(Machine, &str); 2] = [(qemu_io, "qemu-io"), (qemu_nbd, "qemu-nbd")];
        for (machine, command) in machines {
            let env = Env::new();
            env.report(&format!("create {disk} --size 1M"));
            let machine = machine(&env, disk);
            for line in [
                format!("resize {disk} --size 2M"),
                format!("resize {disk} --size 512K --shrink"),
                format!("ensure {disk} --size 1M"),
                format!("ensure {disk} --size 2M --no-lock"),
                format!("create {disk} --size 2M --if-exists replace"),
                format!("create {disk} --size 1M --if-exists keep"),
            ] {
                let error = env.refuses(&line, "locked");
                names(&error, &machine, command);
            }
            assert_eq!(env.report(&format!("info {disk}"))["virtual_size_bytes"], 1 << 20);
            machine.kill();
            env.report(&format!("resize {disk} --size 2M"));
        }
    }
}

/// A running machine protects what is below its disk as well.
#[test]
fn a_machine_keeps_its_base() {
    let env = Env::new();
    env.report("create base.qcow2 --size 1M");
    env.report("create middle.qcow2 --backing base.qcow2");
    env.report("create over.qcow2 --backing middle.qcow2");
    let machine = qemu_io(&env, "over.qcow2");
    for disk in ["base.qcow2", "middle.qcow2", "over.qcow2"] {
        for line in [
            format!("resize {disk} --size 2M"),
            format!("create {disk} --size 1M --if-exists replace"),
        ] {
            names(&env.refuses(&line, "locked"), &machine, "qemu-io");
        }
    }
    // Beside it, another machine's overlay may be made; over the running one it may not.
    env.report("create other.qcow2 --backing base.qcow2");
    env.refuses("create wrong.qcow2 --backing over.qcow2", "locked");
    let chain = env.report("info over.qcow2 --chain");
    assert_eq!(chain["chain"].as_array().map(Vec::len), Some(2), "{chain:#}");
    machine.kill();
    env.report("resize base.qcow2 --size 2M --force");
}

/// Stops a run of ours where it has all of its locks on `d.qcow2` and is not done.
fn stopped(env: &Env, line: &str) -> Running {
    let mut run = env.start(line);
    until("the lock", || {
        assert!(!run.has_ended(), "{line} was too fast to be stopped");
        has_flock(run.pid(), &env.path("d.qcow2"))
    });
    run.signal("STOP");
    run
}

/// While a disk is resized or about to be replaced, QEMU's tools refuse it; those that take no
/// notice of locks still read.
#[test]
fn qemu_keeps_off() {
    for line in [
        "resize d.qcow2 --size 300M --preallocation full",
        "create d.qcow2 --size 300M --preallocation full --if-exists replace",
        "ensure d.qcow2 --size 500G",
    ] {
        let env = Env::new();
        env.report("create d.qcow2 --size 1M");
        let slow = stopped(&env, line);
        for words in ["info d.qcow2", "check d.qcow2", "snapshot -c s d.qcow2"] {
            let run = env.run("qemu-img", words.split(' '));
            assert!(run.code != Some(0) && run.stderr.contains("lock"), "{words}: {run:?}");
        }
        let run = env.run("qemu-io", ["-f", "qcow2", "-c", "length", "d.qcow2"]);
        assert!(run.code != Some(0) && run.stderr.contains("lock"), "{run:?}");
        env.qemu_img("info -U d.qcow2");
        env.report("info d.qcow2");
        slow.signal("CONT");
        slow.wait().exits(0);
        env.is_clean("d.qcow2");
    }
}

/// Two runs of ours: the second ends at once with 75, or waits as long as it is told to; the
/// death of the first sets the disk free.
#[test]
fn runs_wait_for_one_another() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let first = stopped(&env, "resize d.qcow2 --size 400M --preallocation full");
    let second = "resize d.qcow2 --size 2M --json";
    names(&failure(&env.vmdisk(second), "locked"), &first, "vmdisk");
    let start = Instant::now();
    failure(&env.vmdisk(&format!("{second} --lock-timeout 0.3")), "locked");
    assert!(start.elapsed() >= Duration::from_millis(300));
    let mut third = env.start(&format!("{second} --lock-timeout 50"));
    let fourth = env.start("resize d.qcow2 --size 3M --json --lock-timeout 50");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!third.has_ended());
    // One that waits can be called off.
    fourth.signal("INT");
    let called_off = fourth.wait().exits(130).json();
    assert_eq!(called_off["error"]["data"]["kind"], "cancelled");
    assert_eq!(called_off["error"]["data"]["changed"], false);
    first.kill();
    third.wait().exits(0);
    let run = env.run("qemu-img", ["check", "d.qcow2"]);
    assert!([Some(0), Some(3)].contains(&run.code), "{run:?}");
    assert_eq!(env.report("info d.qcow2")["virtual_size_bytes"], 2 << 20);
}

/// Two that start together: both end well when they may wait, one after the other.
#[test]
fn two_resizes_take_turns() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let first = env.start("resize d.qcow2 --size +64M --preallocation full --lock-timeout 30");
    let second = env.start("resize d.qcow2 --size +32M --lock-timeout 30");
    first.wait().exits(0);
    second.wait().exits(0);
    assert_eq!(env.report("info d.qcow2")["virtual_size_bytes"], 97 << 20);
    env.is_clean("d.qcow2");
}

/// A disk that hyperkit or anybody else holds with flock(2) alone is in use too.
#[test]
fn flock_counts() {
    let env = Env::new();
    env.report("create d.raw --size 1M");
    let disk = std::fs::File::open(env.path("d.raw")).expect("the disk");
    disk.lock().expect("a lock");
    let error = env.refuses("resize d.raw --size 2M", "locked");
    assert_eq!(error["data"]["holder"]["pid"], std::process::id(), "{error:#}");
    env.refuses("create d.raw --size 2M --if-exists replace", "locked");
    drop(disk);
    env.report("resize d.raw --size 2M");
}
