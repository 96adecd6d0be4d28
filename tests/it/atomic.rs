//! Whatever ends a run, and wherever: a disk is the old one or the new one, or not there.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Env, Running, VMDISK, failure, is_root, until};

/// Delays spread over the time that a run takes, by a fixed sequence.
struct Moments {
    state: u64,
    longest: Duration,
}

impl Moments {
    /// Times the run once, uncut.
    fn of(run: impl FnOnce()) -> Moments {
        let start = Instant::now();
        run();
        Moments { state: 7, longest: start.elapsed() }
    }

    fn next(&mut self) -> Duration {
        // Constants of Knuth's MMIX.
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.longest.mul_f64((self.state >> 40) as f64 / f64::from(1 << 24))
    }
}

/// The temporary files of ours in the folder.
fn temporaries(env: &Env) -> Vec<PathBuf> {
    let ours = |name: &String| name.starts_with(".vmdisk-") && name.ends_with(".tmp");
    env.names().iter().filter(|name| ours(name)).map(|name| env.path(name)).collect()
}

/// The image is whole, and this large: nothing wrong with it, but clusters that nobody uses if
/// `leaks` are forgiven.
#[track_caller]
fn whole(env: &Env, disk: &str, sizes: &[u64], leaks: bool) {
    let code = env.run("qemu-img", ["check", "-q", "-f", "qcow2", disk]).code;
    assert!(code == Some(0) || leaks && code == Some(3), "{disk}: check ended with {code:?}");
    let size = env.report(&format!("info {disk}"))["virtual_size_bytes"].as_u64();
    assert!(size.is_some_and(|size| sizes.contains(&size)), "{disk}: {size:?} of {sizes:?}");
}

/// `kill -9` at a hundred moments of a creation: the disk is whole or absent, and where one was
/// to be replaced, it is the old or the new one. What is left over goes with the next call.
#[test]
fn creation_survives_kill() {
    let lines = [
        ("create d.qcow2 --size 20G", false),
        ("create d.qcow2 --size 48M --preallocation full", false),
        ("create d.qcow2 --size 20G --if-exists replace", true),
        ("ensure d.qcow2 --size 20G", false),
    ];
    let (mut unborn, mut born) = (0, 0);
    for (line, replaces) in lines {
        let env = Env::new();
        let mut moments = Moments::of(|| drop(env.start(line).wait().exits(0)));
        let sizes = [20 << 30, 48 << 20];
        for _ in 0..25 {
            let _ = std::fs::remove_file(env.path("d.qcow2"));
            if replaces {
                env.report("create d.qcow2 --size 1M");
            }
            let run = env.start(line);
            std::thread::sleep(moments.next());
            run.kill();
            assert!(temporaries(&env).len() <= 1, "what a run before this one left");
            if replaces {
                whole(&env, "d.qcow2", &[1 << 20, 20 << 30], false);
            } else if env.path("d.qcow2").exists() {
                whole(&env, "d.qcow2", &sizes, false);
                born += 1;
            } else {
                unborn += 1;
            }
        }
        env.report("create next.qcow2 --size 1M");
        assert_eq!(temporaries(&env), Vec::<PathBuf>::new());
    }
    assert!(unborn > 5, "{unborn} of {} runs were cut", unborn + born);
}

/// `kill -9` at moments of growing and of shrinking: the disk has the old or the new size, and no
/// error; the same call again ends well; the guest's bytes are there all along.
#[test]
fn resizing_survives_kill() {
    for (from, resize, sizes) in [
        ("--size 1G", "resize d.qcow2 --size 30G", [1 << 30, 30 << 30]),
        (
            "--size 100M --preallocation off",
            "resize d.qcow2 --size 5G --preallocation metadata",
            [100 << 20, 5 << 30],
        ),
        ("--size 10G", "resize d.qcow2 --size 100M --shrink", [10 << 30, 100 << 20]),
        (
            "--size 48M --preallocation full",
            "resize d.qcow2 --size 3M --shrink",
            [48 << 20, 3 << 20],
        ),
        (
            "--size 4M --preallocation full",
            "resize d.qcow2 --size 48M --preallocation full",
            [4 << 20, 48 << 20],
        ),
    ] {
        let env = Env::new();
        env.report(&format!("create old.qcow2 {from}"));
        env.qemu_io("qcow2", "old.qcow2", "write -P 9 1M 1M");
        let renew = || env.run("cp", ["--sparse=always", "old.qcow2", "d.qcow2"]).exits(0);
        renew();
        let mut moments = Moments::of(|| drop(env.start(resize).wait().exits(0)));
        for _ in 0..10 {
            renew();
            let run = env.start(resize);
            std::thread::sleep(moments.next());
            run.kill();
            whole(&env, "d.qcow2", &sizes, true);
            env.qemu_io("qcow2", "d.qcow2", "read -P 9 1M 1M");
            env.report(resize);
            whole(&env, "d.qcow2", &sizes[1..], true);
            env.qemu_io("qcow2", "d.qcow2", "read -P 9 1M 1M");
            assert_eq!(env.report(resize)["changed"], false);
        }
    }
}

/// Stops a creation while its temporary file fills.
fn stopped(env: &Env, line: &str) -> (Running, PathBuf) {
    let others = temporaries(env);
    let mut run = env.start(line);
    let mut made = None;
    until("a temporary file", || {
        assert!(!run.has_ended(), "{line} was too fast to be stopped");
        let filled = |path: &PathBuf| path.metadata().is_ok_and(|about| about.len() > 0);
        made = temporaries(env).into_iter().find(|path| !others.contains(path) && filled(path));
        made.is_some()
    });
    run.signal("STOP");
    (run, made.expect("its temporary file"))
}

const SLOW: &str = "create d.qcow2 --size 300M --preallocation full --mode 0644 --json";

/// SIGTERM and SIGINT end a run in good order: nothing is left, and the exit code says why.
#[test]
fn signals_end_in_good_order() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let env = Env::new();
        let (run, temporary) = stopped(&env, SLOW);
        // Until it is published nobody else may read what is in it.
        let mode = temporary.metadata().expect("the temporary file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        run.signal(signal);
        run.signal("CONT");
        let error = run.wait().exits(code).json()["error"].clone();
        assert_eq!(error["data"]["kind"], "cancelled", "{error:#}");
        assert_eq!(error["data"]["changed"], false, "{error:#}");
        assert_eq!(error["data"]["retriable"], false, "{error:#}");
        assert!(env.names().is_empty(), "{:?}", env.names());
        let (run, _) = stopped(&env, SLOW.trim_end_matches("--json"));
        run.signal(signal);
        run.signal("CONT");
        let run = run.wait().exits(code);
        assert!(run.stdout.is_empty() && run.stderr.starts_with("vmdisk: "), "{run:?}");
    }
}

/// A limit on the size of files (`ulimit -f`) is an error like any other.
#[test]
fn a_limit_on_files_is_an_error() {
    let env = Env::new();
    for line in ["create d.qcow2 --size 10M --preallocation full", "create d.raw --size 10M"] {
        let script = format!("ulimit -f 1000; exec \"$0\" {line} --json");
        let run = env.run("sh", ["-c", &script, VMDISK]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.json()["error"]["data"]["changed"], false, "{run:?}");
        assert!(env.names().is_empty(), "{:?}", env.names());
    }
}

/// Somebody else's file appears under the name while the disk is made: it stays.
#[test]
fn what_appears_meanwhile_is_not_replaced() {
    let env = Env::new();
    let (run, _) = stopped(&env, SLOW);
    env.write("d.qcow2", "somebody else's");
    run.signal("CONT");
    failure(&run.wait(), "exists");
    assert_eq!(env.names(), ["d.qcow2"]);
    assert_eq!(std::fs::read(env.path("d.qcow2")).expect("the file"), b"somebody else's");
}

/// Leftovers of dead runs go with the next call in their folder; whatever could be anything else
/// stays.
#[test]
fn only_our_own_leftovers_are_removed() {
    let env = Env::new();
    let (run, left) = stopped(&env, SLOW);
    let (other, living) = stopped(&env, &SLOW.replace("d.qcow2", "e.qcow2"));
    run.kill();
    let kept = [
        ".vmdisk-.tmp",
        ".vmdisk-abcdefghijk_.tmp",
        ".vmdisk-abcdefghijkl",
        ".vmdisk-abcdefghijkl.tmp.bak",
        ".vmdisk-abcdefghijklmnopqrstuvwxyz0123456789.tmp",
        "vmdisk-abcdefghijkl.tmp",
        ".vmdisk-abcdefghijkl.TMP",
        "d.qcow2.tmp",
    ];
    for name in kept {
        env.write(name, "kept");
    }
    env.write(".vmdisk-abcdefghijkl.tmp", "a dead run's");
    std::fs::create_dir(env.path(".vmdisk-folder123456.tmp")).expect("a folder");
    symlink("d.qcow2.tmp", env.path(".vmdisk-link12345678.tmp")).expect("a link");
    env.run("mkfifo", [".vmdisk-pipe12345678.tmp"]).exits(0);
    env.write(".vmdisk-locked123456.tmp", "a living run's");
    let locked = File::open(env.path(".vmdisk-locked123456.tmp")).expect("the file just made");
    locked.lock().expect("a lock");
    let mut rest: Vec<String> = kept.map(str::to_owned).to_vec();
    rest.extend(
        ["folder123456", "link12345678", "locked123456", "pipe12345678"]
            .map(|random| format!(".vmdisk-{random}.tmp")),
    );
    if is_root() {
        env.write(".vmdisk-theirs123456.tmp", "another user's");
        env.run("chown", ["65534", ".vmdisk-theirs123456.tmp"]).exits(0);
        rest.push(".vmdisk-theirs123456.tmp".to_owned());
    }
    env.report("create n.qcow2 --size 1M");
    assert!(!left.exists());
    let living = living.file_name().expect("a name").to_string_lossy().into_owned();
    rest.extend([living, "n.qcow2".to_owned()]);
    rest.sort_unstable();
    assert_eq!(env.names(), rest);
    other.signal("CONT");
    other.wait().exits(0);
}

/// The permission bits are those asked for, 0600 if none were, whatever the umask says; the owner
/// is the one asked for.
#[test]
fn modes_and_owners() {
    let env = Env::new();
    let make = |umask: &str, flags: &str| {
        let _ = std::fs::remove_file(env.path("d.qcow2"));
        for verb in ["create d.qcow2", "create d.qcow2 --if-exists replace", "ensure d.qcow2"] {
            let script = format!("umask {umask}; exec \"$0\" {verb} --size 1M {flags}");
            env.run("sh", ["-c", &script, VMDISK]).exits(0);
            if verb == "create d.qcow2" {
                let script = format!("umask {umask}; exec \"$0\" ensure n.qcow2 --size 1M {flags}");
                let _ = std::fs::remove_file(env.path("n.qcow2"));
                env.run("sh", ["-c", &script, VMDISK]).exits(0);
            }
        }
        let about = |name| env.path(name).metadata().expect("the disk");
        let (one, other) = (about("d.qcow2"), about("n.qcow2"));
        assert_eq!((one.mode(), one.uid()), (other.mode(), other.uid()));
        (one.mode() & 0o7777, one.uid(), one.gid())
    };
    for umask in ["000", "022", "077", "777"] {
        assert_eq!(make(umask, "").0, 0o600, "umask {umask}");
        assert_eq!(make(umask, "--mode 0644").0, 0o644, "umask {umask}");
        assert_eq!(make(umask, "--mode 660").0, 0o660, "umask {umask}");
    }
    if is_root() {
        assert_eq!(make("022", "--owner nobody").1, 65534);
        assert_eq!(make("022", "--owner 12345:23456"), (0o600, 12345, 23456));
    } else {
        println!("not root: giving files away is not tested");
    }
}

/// A raw disk that is filled with zeros has its new size only when all of them are there: killed
/// before, the same call goes on.
#[test]
fn a_killed_fill_of_a_raw_disk_can_be_repeated() {
    let env = Env::new();
    env.report("create d.raw --size 1M");
    let line = "resize d.raw --size 600M --preallocation full";
    let run = env.start(line);
    std::thread::sleep(std::time::Duration::from_millis(60));
    run.kill();
    let size = || env.report("info d.raw")["virtual_size_bytes"].as_u64();
    assert!(size() <= Some(600 << 20));
    env.report(line);
    let info = env.report("info d.raw");
    assert_eq!(info["virtual_size_bytes"], 600 << 20);
    assert!(info["allocated_bytes"].as_u64() >= Some(598 << 20), "{info:#}");
}
