//! What goes to which stream: data, outcomes, logs and colours.

use std::fs;

use serde_json::Value;

use crate::draw::each;
use crate::help::{ACTIONS, VERBS};
use crate::support::{Env, Run, VMDISK};

/// What a call prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// What it was called for: always.
    Data,
    /// What became of a disk: not with `--quiet`.
    Outcome,
}

use Told::{Data, Outcome};

/// Calls of every verb in the folder that [`scene`] makes; all succeed.
const CALLS: &[(&str, Told)] = &[
    ("create n.qcow2 --size 1M", Outcome),
    ("create d.qcow2 --size 1M --if-exists keep", Outcome),
    ("ensure d.qcow2 --size 1M", Outcome),
    ("ensure d.qcow2 --size 2M", Outcome),
    ("resize d.qcow2 --size 2M", Outcome),
    ("resize d.raw --size 2M", Outcome),
    ("rebase over.qcow2 --no-backing", Outcome),
    ("amend d.qcow2 --lazy-refcounts on", Outcome),
    ("amend d.qcow2 --lazy-refcounts on --dry-run", Data),
    ("info over.qcow2 --chain", Data),
    ("info d.qcow2 --output qemu-json", Data),
    ("guest d.qcow2", Data),
    ("map d.qcow2", Data),
    ("map d.qcow2 --picture", Data),
    ("measure --size 1G", Data),
    ("chain over.qcow2 --dependents .", Data),
    ("inspect d.qcow2 --untrusted", Data),
    ("check d.qcow2", Outcome),
    ("check leaks.qcow2 --repair leaks", Outcome),
    ("salvage d.qcow2 n.raw", Outcome),
    ("commit over.qcow2 --into base.qcow2", Outcome),
    ("flatten over.qcow2", Outcome),
    ("compact d.qcow2", Outcome),
    ("compact d.qcow2 --dry-run", Data),
    ("clone d.qcow2 n.qcow2 --method copy", Outcome),
    ("snapshot list kept.qcow2", Data),
    ("snapshot show kept.qcow2 one", Data),
    ("snapshot create d.qcow2 one", Outcome),
    ("snapshot apply kept.qcow2 one", Outcome),
    ("snapshot delete kept.qcow2 one", Outcome),
    ("convert d.qcow2 n.raw", Outcome),
    ("compare d.qcow2 d.qcow2", Outcome),
    ("hash d.qcow2", Data),
    ("bitmap list marked.qcow2 --count", Data),
    ("bitmap add d.qcow2 new", Outcome),
    ("bitmap remove marked.qcow2 old", Outcome),
    ("bitmap clear marked.qcow2 old", Outcome),
    ("bitmap enable marked.qcow2 old", Outcome),
    ("bitmap disable marked.qcow2 old", Outcome),
    ("bitmap merge marked.qcow2 old older", Outcome),
    ("capabilities .", Data),
    ("schema", Data),
    ("completions bash", Data),
    ("man create", Data),
];

/// These touch no disk, so that there is nothing to log.
const WITHOUT_DISK: &[&str] = &["measure", "schema", "completions", "man"];

fn scene() -> Env {
    let env = Env::new();
    for line in [
        "create base.qcow2 --size 1M",
        "create d.qcow2 --size 1M",
        "create d.raw --size 1M",
        "create over.qcow2 --backing base.qcow2",
        "create kept.qcow2 --size 1M",
        "snapshot create kept.qcow2 one",
        "create marked.qcow2 --size 1M",
        "bitmap add marked.qcow2 old",
        "bitmap add marked.qcow2 older",
        "create leaks.qcow2 --size 1M --guest none --preallocation off",
        "damage leaks.qcow2 --kind leak",
    ] {
        env.report(line);
    }
    env
}

/// Makes a folder what another one is.
fn restore(env: &Env, scene: &Env) {
    for entry in fs::read_dir(env.path("")).expect("a folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("a file of the test");
    }
    for entry in fs::read_dir(scene.path("")).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), env.path(entry.file_name())).expect("a copy");
    }
}

/// The lines, without figures that are the host's affair or the clock's.
fn settled(text: &str) -> Vec<String> {
    let varies = |line: &str| {
        ["on the host", "allocated", "date_", "folder", "repair-"]
            .iter()
            .any(|word| line.contains(word))
    };
    let figure = |c: char| c.is_ascii_digit() || c == '.';
    let lines = text.lines().map(|line| match varies(line) {
        true => line.replace(figure, ""),
        false => line.to_owned(),
    });
    lines.collect()
}

/// For every verb: `--quiet` prints data and no outcome, `--verbose` speaks on standard error
/// alone, and neither changes a byte of `--json`.
#[test]
fn what_was_asked_for_goes_to_standard_output() {
    let scene = scene();
    each(CALLS, |(line, told)| {
        let env = Env::new();
        let run = |line: &str| {
            restore(&env, &scene);
            env.vmdisk(line).exits(0)
        };
        let plain = run(line);
        assert!(!plain.stdout.is_empty() && plain.stderr.is_empty(), "{plain:?}");
        let quiet = run(&format!("{line} --quiet"));
        match told {
            Data => assert_eq!(settled(&quiet.stdout), settled(&plain.stdout)),
            Outcome => assert_eq!(quiet.stdout, ""),
        }
        assert_eq!(quiet.stderr, "");
        let verbose = run(&format!("-vv {line}"));
        assert_eq!(settled(&verbose.stdout), settled(&plain.stdout));
        let silent = WITHOUT_DISK.iter().any(|verb| line.starts_with(verb));
        assert_eq!(verbose.stderr.is_empty(), silent, "{verbose:?}");
        assert!(verbose.stderr.lines().all(|line| line.starts_with("vmdisk")), "{verbose:?}");

        if ["schema", "--picture", "--output"].iter().any(|word| line.contains(word)) {
            return;
        }
        let json = run(&format!("{line} --json"));
        json.json();
        for flag in ["--quiet", "--verbose"] {
            let run = run(&format!("{line} --json {flag}"));
            assert_eq!(settled(&run.stdout), settled(&json.stdout), "{flag}");
            assert!(flag != "--quiet" || run.stderr.is_empty(), "{run:?}");
        }
    });
    // The protocol has a test of its own.
    let called =
        |verb: &&str| *verb == "rpc" || CALLS.iter().any(|(line, _)| line.starts_with(*verb));
    assert!(VERBS.iter().chain(ACTIONS).all(called), "every verb is called");
}

/// What is found and is not as it should be, and what fails, is told in any case.
#[test]
fn what_is_wrong_is_told_quietly_too() {
    let env = scene();
    env.qemu_img("create -q -f raw other.raw 1M");
    env.qemu_img("convert -q -O qcow2 d.qcow2 torn.qcow2");
    env.report("damage torn.qcow2 --kind undercount");
    let found = |line: &str, code: i32, words: &str| {
        let run = env.vmdisk(&format!("{line} -q")).exits(code);
        assert!(run.stdout.contains(words) && run.stderr.is_empty(), "{line}: {run:?}");
    };
    found("check leaks.qcow2", 3, "leak");
    found("check leaks.qcow2 --repair leaks --dry-run", 3, "would replace");
    found("check torn.qcow2", 2, "CORRUPT");
    found("compare d.qcow2 other.raw", 1, "differ");
    found("inspect over.qcow2 --untrusted", 2, "unsafe");
    env.refuses("info missing.qcow2 --quiet", "not_found");
    env.refuses("resize d.qcow2 --size 512B --quiet", "would_shrink");
    let hint = env.vmdisk("resize d.qcow2 --size 512B --quiet").stderr;
    assert!(hint.contains("\nhint: pass --shrink"), "{hint}");
}

/// A repair that costs the guest something says what, however quiet it is to be.
#[test]
fn losses_are_told_quietly_too() {
    let env = Env::new();
    env.qemu_img("create -q -f qcow2 d.qcow2 1M");
    env.qemu_io("qcow2", "d.qcow2", "write 0 1M");
    env.report("damage d.qcow2 --kind beyond-file");
    let salvaged = env.vmdisk("salvage d.qcow2 s.raw -q").exits(2);
    assert!(salvaged.stdout.contains("LOST: 1 MiB"), "{salvaged:?}");
    let repaired = env.vmdisk("check d.qcow2 --repair all -q").exits(0);
    assert!(repaired.stdout.contains("lost: guest bytes"), "{repaired:?}");
}

/// Notes beside what was asked for were not asked for.
#[test]
fn notes_are_not_told_quietly() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let held = fs::File::open(env.path("d.qcow2")).expect("a disk");
    held.lock().expect("a lock");
    for verb in ["guest", "chain"] {
        let plain = env.vmdisk(&format!("{verb} d.qcow2")).exits(0).stdout;
        let quiet = env.vmdisk(&format!("{verb} d.qcow2 -q")).exits(0).stdout;
        let (data, notes) = plain.split_once("  note: ").unwrap_or_else(|| panic!("{plain}"));
        assert!(quiet == data && notes.starts_with("in use: "), "{quiet} {plain}");
    }
}

/// Nobody is quiet and verbose at once, wherever the flags stand.
#[test]
fn quiet_or_verbose() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    for line in
        ["info d.qcow2 -q -v", "-q info d.qcow2 -v", "-v info d.qcow2 -q", "-qv info d.qcow2"]
    {
        env.refuses(line, "incompatible_options");
    }
    let check = env.vmdisk("check d.qcow2 -qv --json");
    assert_eq!(
        (check.code, check.json()["error"]["data"]["kind"].as_str()),
        (Some(64), Some("incompatible_options"))
    );
}

/// Runs the program with variables of the environment, such as `A=b`.
fn with(env: &Env, variables: &[&str], line: &str) -> Run {
    let words = variables.iter().copied().chain([VMDISK]);
    env.run("env", words.chain(line.split_whitespace()))
}

/// The steps of a change are logged in their order, as far as is asked for.
#[test]
fn logs() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let logged = |variables: &[&str], line: &str| with(&env, variables, line).exits(0).stderr;
    let all = logged(&["VMDISK_LOG=vmdisk=debug"], "resize d.qcow2 --size 2M");
    let mut rest = &*all;
    for step in [
        "opened ",
        "locked ",
        "d.qcow2 is qcow2",
        "plan: 1048576 -> 2097152 bytes",
        "synced ",
        "synced ",
        "the switch is done: a disk of 2097152 bytes",
    ] {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("no '{step}' in {all}")).1;
    }
    let qcow2 = logged(&["VMDISK_LOG=vmdisk::qcow2=debug"], "resize d.qcow2 --size 3M");
    assert!(qcow2.contains("the switch") && !qcow2.contains("vmdisk::host"), "{qcow2}");
    assert_eq!(
        logged(&["RUST_LOG=vmdisk::qcow2=debug"], "resize d.qcow2 --size 4M").lines().count(),
        qcow2.lines().count()
    );
    assert_eq!(logged(&["VMDISK_LOG=off", "RUST_LOG=trace"], "info d.qcow2"), "");
    // Beside JSON, they are JSON.
    let both = env.vmdisk("convert d.qcow2 o.qcow2 --progress json -v").exits(0).stderr;
    let lines: Vec<Value> =
        both.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["level"] == "info"), "{both}");
    assert!(lines.iter().any(|line| line["level"].is_null()), "{both}");
    assert_eq!(logged(&["VMDISK_LOG="], "info d.qcow2"), "");
    assert_eq!(logged(&[], "info d.qcow2"), "");
    // A flag that asks for more gets it, and one that asks for less takes nothing away.
    let info = logged(&["VMDISK_LOG=off"], "info d.qcow2 -v");
    assert!(info.starts_with("vmdisk: info: ") && info.lines().count() == 1, "{info}");
    assert!(logged(&["VMDISK_LOG=trace"], "info d.qcow2 -q").contains("debug: opened"));
    let wrong = logged(&["VMDISK_LOG=vmdisk=loud"], "info d.qcow2");
    assert!(wrong.starts_with("vmdisk: warning: ignored: VMDISK_LOG: "), "{wrong}");
    assert_eq!(wrong.lines().count(), 1, "{wrong}");
}

/// Who waits for a lock says so.
#[test]
fn a_wait_is_logged() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let held = fs::File::open(env.path("d.qcow2")).expect("a disk");
    held.lock().expect("a lock");
    let run = env.vmdisk("resize d.qcow2 --size 2M --lock-timeout 0.2 -v").exits(75);
    assert_eq!(run.stderr.matches("info: ").count(), 1, "{run:?}");
    assert!(run.stderr.contains("d.qcow2 is in use: waiting ") && run.stderr.contains("ms\n"));
}

/// What is done with journals and with what killed runs left is logged too.
#[test]
fn logs_of_new_files() {
    let env = Env::new();
    env.write(".vmdisk-0123456789ab.tmp", "");
    let run = env.vmdisk("create d.raw --size 8M -v").exits(0);
    assert!(run.stderr.contains(".vmdisk-0123456789ab.tmp, which a run left"), "{run:?}");
    assert!(run.stderr.contains("info: published "), "{run:?}");
    env.run("mkfs.ext4", ["-q", "-F", "d.raw"]).exits(0);
    let run = env.vmdisk("resize d.raw --size 64M -vv").exits(0);
    for step in ["by a journal", "published ", "stage 1 of ", "removed "] {
        assert!(run.stderr.contains(step), "{step}: {run:?}");
    }
}

/// A log is one line, whatever names are in it.
#[test]
fn a_log_is_a_line() {
    let env = Env::new();
    let run = env.run(VMDISK, ["create", "a\n\x1b[31mb.qcow2", "--size", "1M", "-v"]).exits(0);
    assert!(
        run.stderr.contains(r"a\n\u{1b}[31mb.qcow2") && !run.stderr.contains('\x1b'),
        "{run:?}"
    );
    assert!(run.stderr.lines().all(|line| line.starts_with("vmdisk: info: ")), "{run:?}");
}

/// Requests are logged with their id, method and time; standard output carries the protocol alone.
#[test]
fn logs_of_requests() {
    let env = Env::new();
    let requests = r#"{"jsonrpc":"2.0","id":"one","method":"create","params":{"path":"d.qcow2","size":"1M"}}
{"jsonrpc":"2.0","id":2,"method":"info","params":{"path":"missing"}}
{"jsonrpc":"2.0","method":"noted"}
{
"#;
    env.write("requests", requests);
    let logged = |flags: &str| {
        let _ = fs::remove_file(env.path("d.qcow2"));
        let script = format!("exec \"$0\" rpc {flags} <requests");
        let run = env.run("sh", ["-c", &script, VMDISK]).exits(0);
        let lines: Vec<Value> =
            run.stdout.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
        let ids: Vec<_> = lines.iter().map(|line| line["id"].to_string()).collect();
        assert_eq!(ids, ["\"one\"", "2", "null"], "{run:?}");
        run.stderr
    };
    let text = logged("-vvv");
    for words in [
        "request one: create: done after ",
        "request 2: info: not_found after ",
        "warning: ignored: a notification 'noted'",
        "refused: ",
        "published ",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = logged("-v --log-format json");
    let entries: Vec<Value> = json.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    let done = entries
        .iter()
        .find(|entry| entry["message"].as_str().is_some_and(|m| m.starts_with("request one")));
    let done = done.unwrap_or_else(|| panic!("no request in {json}"));
    assert_eq!(
        (&done["level"], &done["target"]),
        (&"info".into(), &"vmdisk::protocol::session".into())
    );
    // Warnings are there unless nobody wants them.
    assert_eq!(logged("").lines().count(), 1);
    assert_eq!(logged("-q"), "");
}

/// Runs a line of the shell on a terminal.
fn on_terminal(env: &Env, variables: &str, line: &str) -> String {
    let script = format!("unset NO_COLOR; export TERM=xterm {variables}; stty cols 100; {line}");
    env.run("script", ["-qec", &script, "/dev/null"]).stdout
}

/// Help, errors and findings have colours on a terminal, each stream for itself, and nowhere else.
#[test]
fn colours() {
    let env = Env::new();
    env.report("create leaks.qcow2 --size 1M");
    env.report("damage leaks.qcow2 --kind leak");
    let calls =
        ["--help", "info", "info missing.qcow2", "check leaks.qcow2", "info leaks.qcow2 -vv"];
    for call in calls {
        let line = format!("'{VMDISK}' {call}");
        assert!(on_terminal(&env, "", &line).contains("\x1b["), "{call}");
        assert!(on_terminal(&env, "NO_COLOR=", &line).contains("\x1b["), "{call}");
        for variables in ["NO_COLOR=1", "TERM=dumb", "TERM="] {
            let text = on_terminal(&env, variables, &line);
            assert!(!text.is_empty() && !text.contains('\x1b'), "{variables} {call}: {text:?}");
        }
        let run = with(&env, &["CLICOLOR_FORCE=1", "TERM=xterm"], call);
        assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'), "{run:?}");
    }
    on_terminal(
        &env,
        "",
        &format!("'{VMDISK}' info missing.qcow2 2>error; '{VMDISK}' check leaks.qcow2 >findings"),
    );
    for file in ["error", "findings"] {
        let text = fs::read_to_string(env.path(file)).expect("what was told");
        assert!(
            text.contains("leak") != text.contains("missing") && !text.contains('\x1b'),
            "{text:?}"
        );
    }
}

/// What takes its time has a bar on a terminal; it makes room for logs, and nobody who is quiet
/// sees it.
#[test]
fn bars() {
    let slow = "(head -c 1M /dev/zero; sleep 1; head -c 40M /dev/zero)";
    let drawn = |variables: &str, flags: &str| {
        let env = Env::new();
        let line = format!("{slow} | '{VMDISK}' convert - o.raw {flags}");
        on_terminal(&env, variables, &line)
    };
    let cases = [("", "", true), ("", "-vv", true), ("", "-q", false), ("TERM=dumb", "-vv", false)];
    each(&cases, |(variables, flags, is_drawn)| {
        let text = drawn(variables, flags);
        assert_eq!(text.contains("copy"), *is_drawn, "{text:?}");
        assert!(*is_drawn || !text.contains('\x1b'), "{text:?}");
        assert_eq!(text.contains("synced what is to be"), *flags == "-vv", "{text:?}");
    });
}

/// A path is told on one line, whatever is in it.
#[test]
fn a_path_is_a_line() {
    let env = Env::new();
    let told = env.run(VMDISK, ["info", "a\nhint: rm\u{1b}[2J"]).exits(1).stderr;
    assert!(told.starts_with("vmdisk: a\\nhint: rm\\u{1b}[2J: "), "{told}");
}
