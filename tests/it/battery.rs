//! What every verb owes to whoever calls it, stamped on each of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::support::{Env, Running, Stranger, VMDISK, exit_of, is_root, message, set_mode};

/// A verb that takes a disk.
struct Verb {
    name: &'static str,
    /// Its arguments for the disk `DISK` of 1 MiB, which exists.
    line: &'static str,
    locks: bool,
    writes: bool,
}

macro_rules! battery {
    ($($verb:ident, locks: $locks:literal, writes: $writes:literal, $line:literal;)+) => { $(
        mod $verb {
            const VERB: super::Verb = super::Verb {
                name: stringify!($verb),
                line: $line,
                locks: $locks,
                writes: $writes,
            };

            /// `--help` explains every flag, and every example in it runs.
            #[test]
            fn help() {
                super::help(&VERB.name.replace('_', " "));
            }

            /// What is not understood exits 2 and is named, in words and as JSON.
            #[test]
            fn usage() {
                super::usage(&VERB);
            }

            /// Folders, pipes, sockets and devices are refused at once, without opening them.
            #[test]
            fn what_is_no_disk() {
                super::what_is_no_disk(&VERB);
            }

            /// A user without privileges meets files that may not be read or written.
            #[test]
            fn what_may_not_be_opened() {
                super::what_may_not_be_opened(&VERB);
            }

            /// Headers that are cut off or lie are refused, with little memory.
            #[test]
            fn corrupt_headers() {
                super::corrupt_headers(&VERB);
            }

            /// A report is one JSON object, and whoever does not want it may close the pipe.
            #[test]
            fn reports() {
                super::reports(&VERB);
            }
        }
    )+ };
}

battery! {
    create, locks: true, writes: false, "create DISK --size 1M --if-exists keep";
    ensure, locks: true, writes: true, "ensure DISK --size 1M";
    resize, locks: true, writes: true, "resize DISK --size 2M";
    rebase, locks: true, writes: true, "rebase DISK --no-backing";
    amend, locks: true, writes: true, "amend DISK --lazy-refcounts on";
    info, locks: false, writes: false, "info DISK";
    guest, locks: false, writes: false, "guest DISK";
    flatten, locks: true, writes: true, "flatten DISK";
    compact, locks: true, writes: true, "compact DISK";
    clone, locks: true, writes: true, "clone DISK second.qcow2 --if-exists replace";
    snapshot_list, locks: false, writes: false, "snapshot list DISK";
    snapshot_create, locks: true, writes: true, "snapshot create DISK one";
    convert, locks: true, writes: true, "convert DISK o.raw --if-exists replace";
    hash, locks: true, writes: false, "hash DISK";
    bitmap, locks: true, writes: true, "bitmap add DISK new";
    map, locks: false, writes: false, "map DISK";
    measure, locks: false, writes: false, "measure DISK";
    compare, locks: true, writes: false, "compare DISK DISK";
    commit, locks: true, writes: true, "commit DISK --into base.qcow2";
    chain, locks: false, writes: false, "chain DISK";
}

/// What needs a snapshot to be there.
#[test]
fn actions_on_a_snapshot() {
    for verb in ["snapshot", "snapshot show", "snapshot apply", "snapshot delete"] {
        help(verb);
    }
}

impl Verb {
    fn on(&self, disk: &str) -> String {
        self.line.replace("DISK", disk)
    }

    /// Makes `d.qcow2`, above `base.qcow2` if that is where it goes.
    fn make(&self, env: &Env, options: &str) {
        let above = self.line.contains("--into");
        if above {
            env.report("create base.qcow2 --size 1M --if-exists keep");
        }
        let below = if above { "--backing base.qcow2" } else { "" };
        env.report(&format!("create d.qcow2 --size 1M {below} {options}"));
    }

    fn exit_of(&self, kind: &str) -> i32 {
        exit_of(&[self.name], kind)
    }
}

/// The verbs that only print.
#[test]
fn printing_verbs() {
    let env = Env::new();
    for verb in ["completions", "man"] {
        help(verb);
        env.refuses(&format!("{verb} --no-such-flag"), "bad_request");
        env.refuses(&format!("{verb} no-such-thing"), "bad_request");
    }
    env.refuses("completions", "bad_request");
    for line in ["completions zsh", "man create", "--help", "--version"] {
        assert!(!env.vmdisk(line).exits(0).stdout.is_empty(), "{line}");
        assert_eq!(closed_pipe(&env, line).wait().exits(0).stderr, "", "{line}");
    }
}

/// Without a verb, and with one that does not exist.
#[test]
fn no_verb() {
    let env = Env::new();
    let help = env.vmdisk("").exits(2);
    assert!(help.stdout.is_empty() && help.stderr.contains("Usage: vmdisk"), "{help:?}");
    assert!(message(&env.fails("", 2, "bad_request")).contains("subcommand"));
    let error = env.refuses("shrink d.qcow2", "bad_request");
    assert!(message(&error).contains("shrink"), "{error:#}");
}

fn help(verb: &str) {
    let env = Env::new();
    let help = env.vmdisk(&format!("{verb} --help")).exits(0);
    assert_eq!(help.stderr, "");
    let lines: Vec<&str> = help.stdout.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let flag = words.get(..2).is_some_and(|start| start == "--" || words.contains(", --"));
        if !words.starts_with('-') || !flag {
            continue;
        }
        // Beside it or below it.
        let beside = words.split_once("  ").map(|(_, beside)| beside.trim_start());
        let explanation = beside.unwrap_or_else(|| lines[number + 1].trim_start());
        let explained = explanation.starts_with(char::is_alphabetic);
        assert!(explained, "{verb}: nothing explains {words}");
    }
    let calls: Vec<_> = lines.iter().filter(|line| line.starts_with("  vmdisk ")).collect();
    assert!(!calls.is_empty(), "{verb}: no example");
    for call in calls {
        example(call.trim());
    }
}

/// Runs an example of the help where the files that it speaks of exist.
fn example(call: &str) {
    let env = Env::new();
    std::fs::create_dir(env.path(".ssh")).expect("a folder");
    env.write(".ssh/id_ed25519.pub", crate::support::PUBLIC_KEY);
    env.write("id.pub", crate::support::PUBLIC_KEY);
    env.qemu_img("create -f qcow2 boot2docker.qcow2 1G");
    if !call.contains("vmdisk create m.qcow2") {
        env.qemu_img("create -f qcow2 m.qcow2 20G");
    }
    if call.contains("vmdisk commit") {
        env.qemu_img("create -f qcow2 -b boot2docker.qcow2 -F qcow2 m.qcow2");
    }
    if ["show", "apply", "delete"].iter().any(|what| call.contains(&format!("snapshot {what}"))) {
        env.qemu_img("snapshot -c before-upgrade m.qcow2");
    }
    if call.contains("vmdisk compare") {
        env.qemu_img("create -f raw m.raw 20G");
    }
    // What it does with the output is the shell's affair.
    let call = call.split(['|', '>']).next().expect("a first part");
    let call = call.replacen("vmdisk", "\"$0\"", 1);
    let script = format!("HOME=.; {call}");
    env.run("sh", ["-c", &script, VMDISK]).exits(0);
}

fn usage(verb: &Verb) {
    let env = Env::new();
    verb.make(&env, "");
    let line = verb.on("d.qcow2");
    for (wrong, named) in [
        ("--no-such-flag", "--no-such-flag"),
        ("surplus", "surplus"),
        ("--trust everybody", "--trust"),
        ("--lock-timeout soon", if verb.locks { "soon" } else { "--lock-timeout" }),
        ("--format vdi", "vdi"),
        ("--format", "--format"),
    ] {
        let error = env.refuses(&format!("{line} {wrong}"), "bad_request");
        assert!(message(&error).contains(named), "{error:#}");
    }
    let words: Vec<_> = verb.name.split('_').chain([""]).collect();
    env.refuses_args(&words, "bad_request");
    if ["resize", "info"].contains(&verb.name) {
        env.refuses(verb.name, "bad_request");
    }
}

fn what_is_no_disk(verb: &Verb) {
    let env = Env::new();
    std::fs::create_dir(env.path("folder")).expect("a folder");
    env.run("mkfifo", ["pipe"]).exits(0);
    let _listens = UnixListener::bind(env.path("socket")).expect("a socket");
    std::os::unix::fs::symlink("folder", env.path("link")).expect("a link");
    for path in ["folder", "folder/", ".", "link", "pipe", "socket", "/dev/null"] {
        let error = env.refuses(&verb.on(path), "not_a_disk");
        assert!(message(&error).contains("a disk is") || message(&error).contains("is a folder"));
    }
    env.refuses(&verb.on("missing/d.qcow2"), "not_found");
    env.refuses(&verb.on("pipe/d.qcow2"), "not_found");
    if ["resize", "info"].contains(&verb.name) {
        env.refuses(&verb.on("missing.qcow2"), "not_found");
    }
}

fn what_may_not_be_opened(verb: &Verb) {
    let env = Env::new().open_to_all();
    let stranger = Stranger::new();
    let refuses = |line: &str| {
        let args: Vec<_> = line.split_whitespace().collect();
        let error = env.refuses_by(&stranger.prefix(), &args, "permission");
        assert_eq!(error["data"]["errno"], 13, "{line}: {error:#}");
    };
    verb.make(&env, "");
    if is_root() {
        refuses(&verb.on("d.qcow2"));
        std::fs::create_dir(env.path("closed")).expect("a folder");
        set_mode(&env.path("closed"), 0o700);
        refuses(&verb.on("closed/d.qcow2"));
    }
    set_mode(&env.path("d.qcow2"), 0o444);
    if verb.writes {
        refuses(&verb.on("d.qcow2"));
    } else {
        let prefix = stranger.prefix();
        let line = verb.on("d.qcow2");
        let run = env.run(prefix[0], prefix[1..].iter().copied().chain(line.split_whitespace()));
        run.exits(0);
    }
}

/// Fields of a qcow2 header: offset, value, width in bytes.
const LIES: &[(&str, usize, u64, usize)] = &[
    ("version 9", 4, 9, 4),
    ("clusters of 2^63", 20, 63, 4),
    ("clusters of 2^8", 20, 8, 4),
    ("a disk of 2^64 - 512", 24, u64::MAX - 511, 8),
    ("encryption method 77", 32, 77, 4),
    ("an L1 table of 2^32 entries", 36, u64::MAX >> 32, 4),
    ("an L1 table for less than the disk", 36, 0, 4),
    ("an L1 table off its grid", 40, 0x30001, 8),
    ("a refcount table off its grid", 48, 0x10001, 8),
    ("a refcount table of 2^32 clusters", 56, u64::MAX >> 32, 4),
    ("65536 snapshots and one more", 60, 65537, 4),
    ("an unknown incompatible feature", 72, 1 << 40, 8),
    ("refcounts of 2^64 bits", 96, 64, 4),
    ("a header shorter than its fields", 100, 80, 4),
    ("a header of 4 GiB", 100, u64::MAX >> 32, 4),
];

fn corrupt_headers(verb: &Verb) {
    let env = Env::new();
    verb.make(&env, "--preallocation off");
    let good = std::fs::read(env.path("d.qcow2")).expect("the disk");
    let refuses = |what: &str, image: &[u8], kinds: &[&str]| {
        env.write("d.qcow2", image);
        let line = verb.on("d.qcow2");
        let limited = ["sh", "-c", "ulimit -v 300000 2>/dev/null; exec \"$0\" \"$@\"", VMDISK];
        let run = env.vmdisk(&format!("{line} --json"));
        assert_eq!(run.code, Some(verb.exit_of("corrupt")), "{what}: {run:?}");
        let kind = run.json();
        let kind = kind["error"]["data"]["kind"].as_str().unwrap_or_default().to_owned();
        assert!(kinds.contains(&kind.as_str()), "{what}: {kind}");
        env.refuses_by(&limited, &line.split_whitespace().collect::<Vec<_>>(), &kind);
    };
    for len in [4, 8, 71, 103] {
        refuses(&format!("{len} bytes"), &good[..len], &["corrupt"]);
    }
    for &(what, offset, value, width) in LIES {
        let mut image = good.clone();
        image[offset..offset + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        refuses(what, &image, &["corrupt", "unsupported_feature"]);
    }
    let mut image = good.clone();
    image[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]);
    refuses("a backing file's name of 4 GiB", &image, &["corrupt"]);
    // Not even the magic is there: only `info` says what it sees all the same.
    for image in [&b""[..], b"QFI", b"KDMV", &[0x5a; 4096]] {
        env.write("d.qcow2", image);
        if verb.name == "info" {
            let report = env.report("info d.qcow2");
            assert_eq!(report["format"], "raw");
            assert!(report["format_doubt"].is_string(), "{report:#}");
        } else {
            env.refuses(&verb.on("d.qcow2"), "format_mismatch");
        }
    }
}

fn reports(verb: &Verb) {
    let env = Env::new();
    let renew = || {
        let _ = std::fs::remove_file(env.path("d.qcow2"));
        verb.make(&env, "");
    };
    renew();
    let line = verb.on("d.qcow2");
    let run = env.vmdisk(&format!("--json {line}")).exits(0);
    assert_eq!((run.json()["path"].as_str(), run.stderr.as_str()), (Some("d.qcow2"), ""));
    renew();
    assert_eq!(env.vmdisk(&line).exits(0).stderr, "");
    let refused = format!("{line} --format raw --size 1");
    let usage = verb.exit_of("bad_request");
    for (line, code) in [(&line, 0), (&format!("{line} --json"), 0), (&refused, usage)] {
        renew();
        let run = closed_pipe(&env, line).wait().exits(code);
        assert!(!run.stderr.contains("panicked"), "{line}: {run:?}");
    }
    // The first file opened gets the free number: the report must not end up in the disk.
    renew();
    let script = format!("exec \"$0\" {line} >&- 2>&-");
    env.run("sh", ["-c", &script, VMDISK]).exits(0);
    env.is_clean("d.qcow2");
}

/// Programs are told what is missing or possible, just as people are.
#[test]
fn usage_errors_are_whole_as_json() {
    let env = Env::new();
    for (line, words) in [
        ("resize", &["<PATH>", "--size"] as &[&str]),
        ("resize d.qcow2", &["--size"]),
        ("info", &["<PATH>"]),
        ("guest", &["<PATH>"]),
        ("map", &["<PATH>"]),
        ("measure", &["--size"]),
        ("chain", &["<PATH>"]),
        ("info d.qcow2 --format vdi", &["qcow2", "raw"]),
        ("create --trust all", &["folder"]),
        ("info d.qcow2 --jsn", &["--jsn"]),
    ] {
        let error = env.refuses(line, "bad_request");
        let whole = error.to_string();
        assert!(words.iter().all(|word| whole.contains(word)), "{line}: {words:?} in {error:#}");
        assert!(!message(&error).trim_end().ends_with(':'), "{line}: {error:#}");
    }
}

/// A name that is not UTF-8 works; `--json` shows it as far as it goes, and whole in hexadecimal.
#[test]
fn names_that_are_not_utf8() {
    let env = Env::new();
    let name = OsStr::from_bytes(b"d\xff.qcow2");
    if std::fs::write(env.path(name), "").is_err() {
        println!("no file here can have a name that is not UTF-8: nothing to test");
        return;
    }
    std::fs::remove_file(env.path(name)).expect("the file just made");
    for verb in ["create --size 1M", "ensure --size 1M", "resize --size 2M", "info"] {
        let args = verb.split_whitespace().chain(["--json"]).map(OsStr::new);
        let report = env.run(VMDISK, args.chain([name])).exits(0).json();
        assert_eq!(report["path"], "d\u{fffd}.qcow2", "{report:#}");
        assert_eq!(report["path_bytes_hex"], "64ff2e71636f7732", "{report:#}");
    }
}

/// Starts the program with a standard output that nobody reads.
fn closed_pipe(env: &Env, line: &str) -> Running {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(VMDISK);
    command.args(line.split_whitespace()).current_dir(env.path("")).stdin(Stdio::null());
    command.stdout(writer).stderr(Stdio::piped());
    Running::of(command)
}

/// A report that cannot be written is an error, not a success; the disk is there all the same.
#[test]
fn a_full_output_is_told() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("no /dev/full here: a full output is not tested");
        return;
    }
    let env = Env::new();
    for line in ["create d.qcow2 --size 1M", "info d.qcow2 --json", "man", "completions bash"] {
        let script = format!("exec \"$0\" {line} >/dev/full");
        let run = env.run("sh", ["-c", &script, VMDISK]).exits(1);
        assert!(run.stderr.contains("No space left") || line.contains("--json"), "{run:?}");
    }
    env.is_clean("d.qcow2");
}
