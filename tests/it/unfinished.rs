//! What a verb that writes a disk anew, beside it or in its place, leaves behind when it does not end:
//! called off at any step, on a medium that fails, in a full file system, killed at any of its calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use vmdisk::host::LockPolicy;
use vmdisk::image::gate::Trust;
use vmdisk::ops::{AmendRequest, CloneMethod, CloneRequest, Compression, Context, IfTaken};
use vmdisk::units::ByteSize;
use vmdisk::{ErrorKind, ops};

use crate::draw::whole_matrix;
use crate::stops::StopsAt;
use crate::support::{Env, VMDISK, same_bytes};

/// A disk above a base, one with compressed clusters, one with gaps, and a file that may be replaced.
fn folder() -> Env {
    let env = Env::new();
    env.qemu_img("create -q -f raw base.raw 3M");
    env.qemu_io("raw", "base.raw", "write -P 1 0 3M");
    env.qemu_img("create -q -f qcow2 -o refcount_bits=64 -b base.raw -F raw d.qcow2 8M");
    let writes = ["write -P 2 100k 300k", "write -P 3 3M 3M", "write -z 200k 700k"];
    env.qemu_io_all("d.qcow2", &writes.map(str::to_owned));
    env.qemu_img("create -q -f qcow2 p.qcow2 4M");
    env.qemu_io_all("p.qcow2", &["write -c -P 5 0 1M".to_owned(), "write -P 6 2M 1M".to_owned()]);
    env.qemu_img("create -q -f qcow2 g.qcow2 8M");
    let gaps = ["write -P 7 0 6M", "write -c -P 8 6M 1M", "discard 6M 200k", "discard 1M 4M"];
    env.qemu_io_all("g.qcow2", &gaps.map(str::to_owned));
    env.write("there.qcow2", "somebody's");
    env
}

/// What is done, the disk that it is done to, and the clone that it makes.
struct Case {
    line: &'static str,
    disk: &'static str,
    clone: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case { line: "amend d.qcow2 --cluster-size 4K", disk: "d.qcow2", clone: None },
    Case { line: "amend p.qcow2 --compression-type zstd", disk: "p.qcow2", clone: None },
    Case { line: "amend d.qcow2 --compat 0.10 --refcount-bits 16", disk: "d.qcow2", clone: None },
    Case { line: "clone d.qcow2 c.qcow2 --method copy", disk: "d.qcow2", clone: Some("c.qcow2") },
    Case {
        line: "clone d.qcow2 c.qcow2 --method overlay",
        disk: "d.qcow2",
        clone: Some("c.qcow2"),
    },
    Case {
        line: "clone d.qcow2 there.qcow2 --method copy --if-exists replace",
        disk: "d.qcow2",
        clone: Some("there.qcow2"),
    },
    Case { line: "compact g.qcow2", disk: "g.qcow2", clone: None },
];

/// The cases that are written anew, as requests.
fn run(env: &Env, case: usize, context: Context<'_>) -> vmdisk::Result<()> {
    let mut amend = AmendRequest::new(env.path("d.qcow2"));
    let mut clone = CloneRequest::new(env.path("d.qcow2"), env.path("c.qcow2"));
    match case {
        0 => {
            amend.cluster_size = Some(ByteSize::from_bytes(4096));
            ops::amend(&amend, context).map(drop)
        }
        1 => {
            amend.path = env.path("p.qcow2");
            amend.compression_type = Some(Compression::Zstd);
            ops::amend(&amend, context).map(drop)
        }
        2 => {
            clone.method = Some(CloneMethod::Copy);
            ops::clone(&clone, context).map(drop)
        }
        3 => {
            clone.method = Some(CloneMethod::Overlay);
            ops::clone(&clone, context).map(drop)
        }
        _ => {
            (clone.method, clone.out) = (Some(CloneMethod::Copy), env.path("there.qcow2"));
            clone.if_exists = IfTaken::Replace;
            ops::clone(&clone, context).map(drop)
        }
    }
}

/// Called off before it begins, and at each of its reports up to the last, it was never there.
#[test]
fn called_off_at_any_step() {
    for case in 0..5 {
        let env = folder();
        let before = env.contents();
        let (trust, locks) = (Trust::default(), LockPolicy::default());
        let stopped = |progress: &StopsAt| {
            let cancel = &progress.cancel;
            run(&env, case, Context { progress, cancel, trust: &trust, locks: &locks })
        };
        let called_off = |error: vmdisk::Error, at: &str| {
            let kind = (error.kind(), error.changed());
            assert_eq!(kind, (ErrorKind::Cancelled, false), "case {case}, at {at}: {error}");
            assert_eq!(env.contents(), before, "case {case}, called off at {at}");
        };
        let early = StopsAt::new(usize::MAX);
        early.cancel.trip();
        called_off(stopped(&early).expect_err("called off"), "the beginning");
        // One after the other, until there is no such report any more.
        let mut reports = 0;
        while let Err(error) = stopped(&StopsAt::new(reports)) {
            called_off(error, &format!("report {reports}"));
            reports += 1;
        }
        println!("case {case}: called off at each of {reports} reports");
        assert!(reports >= [4, 4, 2, 0, 2][case], "case {case} has {reports} reports only");
    }
}

/// Runs a line while the nth of these calls, of each thread, meets `what`. Returns how it ended and
/// whether any of them did.
fn traced(
    env: &Env,
    calls: &str,
    what: &str,
    nth: usize,
    line: &str,
) -> (Option<i32>, Value, bool) {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let log_path = log.path().display().to_string();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{what}:when={nth}"));
    let args = ["-f", "-o", &log_path, "-e", &trace, "-e", &inject, VMDISK];
    let run = env.run("strace", args.into_iter().chain(line.split_whitespace()).chain(["--json"]));
    let log = std::fs::read_to_string(log.path()).expect("the calls that were made");
    let met = log.contains("(INJECTED)") || log.contains("+++ killed by SIGKILL");
    (run.code, serde_json::from_str(&run.stdout).unwrap_or_default(), met)
}

/// What the disks of a folder show, and what lies there.
fn shown(env: &Env) -> BTreeMap<String, Vec<u8>> {
    let image = |name: &str| name.ends_with(".qcow2") && name != "there.qcow2";
    let names = env.names().into_iter().filter(|name| image(name));
    names.map(|name| (name.clone(), env.disk("qcow2", &name))).collect()
}

/// The disk shows what it showed, and where the clone has its name it shows the same; both are sound
/// but for leaks.
fn nothing_is_lost(env: &Env, case: &Case, before: &BTreeMap<String, Vec<u8>>, when: &str) {
    let names = env.names();
    let clone = case.clone.filter(|name| {
        names.iter().any(|there| there == name)
            && std::fs::metadata(env.path(name)).expect("a file").len() > 100
    });
    for name in [case.disk].into_iter().chain(clone) {
        let when = format!("{}: {name}, {when}", case.line);
        same_bytes(&env.disk("qcow2", name), &before[case.disk], &when);
        let check = env.run("qemu-img", ["check", "-q", "-f", "qcow2", name]);
        assert!(matches!(check.code, Some(0 | 3)), "{when}: {check:?}");
    }
    let is_whole = |name: &&String| name.ends_with(".tmp");
    assert_eq!(names.iter().find(is_whole), None, "{}, {when}", case.line);
}

/// Everything that changes a file.
const WRITES: &str = "pwrite64,ftruncate,fallocate,copy_file_range";
const SYNCS: &str = "fsync,fdatasync";
const NAMES: &str = "rename,renameat,renameat2,linkat";

/// The numbers of the calls that something happens at: the first ones, and then fewer.
fn numbers() -> impl Iterator<Item = usize> {
    let step = move |n: &usize| Some(n + if whole_matrix() { 1 } else { n.div_ceil(3) });
    std::iter::successors(Some(1), step)
}

/// Wherever a call fails, the error is of its kind, and what was there is there as it was, unless the
/// error says that something changed; then it shows the same.
#[test]
fn calls_that_fail() {
    let failures = [
        (WRITES, "error=ENOSPC", "no_space"),
        (SYNCS, "error=EIO", "io"),
        (NAMES, "error=EIO", "io"),
        (WRITES, "error=EIO", "io"),
    ];
    let failures = if whole_matrix() { &failures[..] } else { &failures[..3] };
    let failed = AtomicUsize::new(0);
    crate::draw::each(&[0, 1, 2, 3, 4, 5, 6], |&case| {
        let case = &CASES[case];
        for &(calls, what, kind) in failures {
            let mut env = folder();
            let disks = shown(&env);
            let mut before = env.contents();
            for nth in numbers() {
                let (code, said, met) = traced(&env, calls, what, nth, case.line);
                let when = format!("{}: {what} of {calls}, {nth}: {said:#}", case.line);
                if !met {
                    assert_eq!(code, Some(0), "{when}");
                    break;
                }
                if code == Some(0) {
                    // A hole that is not to be had is no failure.
                    nothing_is_lost(&env, case, &disks, &when);
                } else {
                    failed.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(
                        (code, &said["error"]["data"]["kind"]),
                        (Some(1), &kind.into()),
                        "{when}"
                    );
                    if said["error"]["data"]["changed"] == false {
                        assert_eq!(env.contents(), before, "{when}");
                        continue;
                    }
                    nothing_is_lost(&env, case, &disks, &when);
                }
                env = folder();
                before = env.contents();
            }
        }
    });
    let failed = failed.into_inner();
    println!("{failed} calls that failed");
    assert!(failed >= 25, "{failed}");
}

/// Killed at any of its calls, the disk is the old one or the new one, at worst with leaks; the clone
/// is not there or whole. The next run is not hindered, and removes what was left.
#[test]
fn killed_at_any_call() {
    let all = [WRITES, SYNCS, NAMES].join(",");
    let killed = AtomicUsize::new(0);
    crate::draw::each(&[0, 1, 2, 3, 4, 5, 6], |&case| {
        let case = &CASES[case];
        for nth in numbers() {
            let env = folder();
            let disks = shown(&env);
            let names = env.names();
            let (code, said, met) = traced(&env, &all, "signal=KILL", nth, case.line);
            if !met {
                assert_eq!(code, Some(0), "{said:#}");
                break;
            }
            killed.fetch_add(1, Ordering::Relaxed);
            let when = format!("killed at {nth}");
            let taken = case.clone.is_some_and(|clone| {
                !names.iter().any(|name| name == clone) && env.path(clone).exists()
            });
            let line = match taken {
                true => format!("{} --if-exists replace", case.line),
                false => case.line.to_owned(),
            };
            env.vmdisk(&line).exits(0);
            nothing_is_lost(&env, case, &disks, &when);
            // What a change in place left to be released, nobody else releases.
            env.vmdisk(&format!("check {} --repair leaks", case.disk));
            env.is_clean(case.disk);
        }
    });
    let killed = killed.into_inner();
    println!("killed {killed} times");
    assert!(killed >= 20, "{killed}");
}

/// In a file system without room for a second disk, the first is what it was, and nothing is left.
#[test]
fn a_full_file_system() {
    let env = Env::new();
    if env.run("unshare", ["-rm", "true"]).code != Some(0) {
        println!("no mount namespace can be had here: a full file system is not tested");
        return;
    }
    std::fs::create_dir(env.path("mnt")).expect("a folder");
    for line in
        ["amend mnt/d.qcow2 --cluster-size 4K", "clone mnt/d.qcow2 mnt/c.qcow2 --method copy"]
    {
        let script = r#"mount -t tmpfs -o size=6m none mnt
            qemu-img create -q -f qcow2 mnt/d.qcow2 8M
            qemu-io -f qcow2 -c 'write -P 7 0 4M' mnt/d.qcow2 >&2
            sum <mnt/d.qcow2 >&2
            if "$0" "$@" --json; then exit 99; fi
            sum <mnt/d.qcow2 >&2; ls -A mnt >&2"#;
        let words = ["-rm", "sh", "-ec", script, VMDISK].into_iter();
        let run = env.run("unshare", words.chain(line.split_whitespace())).exits(0);
        let error = &run.json()["error"]["data"];
        assert_eq!(
            (&error["kind"], &error["changed"]),
            (&"no_space".into(), &false.into()),
            "{run:?}"
        );
        let lines: Vec<_> = run.stderr.lines().rev().take(3).collect();
        assert_eq!(lines[0], "d.qcow2", "{run:?}");
        assert_eq!(lines[1], lines[2], "{line}: {run:?}");
    }
}
