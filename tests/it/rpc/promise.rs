//! `changed: false` is a promise: whatever a request fails with, every byte of every file is as
//! it was. Every kind of failure that there is comes by here.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::schema::DOCUMENT;
use super::{Response, Session, cancel, one_shot, request, under};
use crate::support::{Env, PUBLIC_KEY, Stranger, code_of, set_mode};

/// Kinds that no request can fail with here: every file system under a test has locks, and a defect
/// is not to be had on demand.
const OUT_OF_REACH: &[&str] = &["lock_unavailable", "internal"];

/// Requests, and what they fail with in the folder that [`folder`] makes.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("create", r#"{"path":"n.qcow2"}"#, "bad_request"),
    ("create", r#"{"path":"n.qcow2","size":"1M","owner":"nosuchuser"}"#, "bad_request"),
    ("create", r#"{"path":"n.qcow2","size":"1M","guest":{"ssh_keys":["no key"]}}"#, "bad_request"),
    ("ensure", r#"{"path":"n.qcow2","size":"2M","layout":{"cluster_size":3000}}"#, "bad_request"),
    ("resize", r#"{"path":"d.qcow2"}"#, "bad_request"),
    ("info", r#"{"path":"d.qcow2","trust":"some"}"#, "bad_request"),
    ("create", r#"{"path":"old.qcow2","size":0,"if_exists":"replace"}"#, "bad_size"),
    ("ensure", r#"{"path":"d.qcow2","size":"3P"}"#, "bad_size"),
    ("resize", r#"{"path":"d.qcow2","size":"3P","force":true}"#, "bad_size"),
    ("ensure", r#"{"path":"d.qcow2","size":"1M"}"#, "would_shrink"),
    ("resize", r#"{"path":"d.qcow2","size":"1M"}"#, "would_shrink"),
    ("resize", r#"{"path":"d.raw","size":512}"#, "would_shrink"),
    ("create", r#"{"path":"d.qcow2","size":"2M"}"#, "exists"),
    ("create", r#"{"path":"pipe","size":"2M"}"#, "exists"),
    ("create", r#"{"path":"d.qcow2","size":"1M","if_exists":"keep"}"#, "exists"),
    ("ensure", r#"{"path":"d.qcow2","size":"2M","layout":{"cluster_size":4096}}"#, "exists"),
    ("create", r#"{"path":"d.qcow2","size":"2M","if_exists":"replace"}"#, "has_dependents"),
    (
        "convert",
        r#"{"path":"d.raw","source_format":"raw","out":"d.qcow2","if_exists":"replace"}"#,
        "has_dependents",
    ),
    (
        "clone",
        r#"{"path":"used.raw","format":"raw","out":"d.qcow2","if_exists":"replace"}"#,
        "has_dependents",
    ),
    ("salvage", r#"{"path":"old.qcow2","out":"d.qcow2","if_exists":"replace"}"#, "has_dependents"),
    ("resize", r#"{"path":"d.qcow2","size":"1M","shrink":true}"#, "has_dependents"),
    ("resize", r#"{"path":"d.qcow2","size":"1G"}"#, "has_dependents"),
    ("commit", r#"{"path":"leaf.qcow2","into":"d.qcow2"}"#, "has_dependents"),
    (
        "rebase",
        r#"{"path":"leaf.qcow2","backing":{"path":"used.raw","format":"raw"},"unsafe":true}"#,
        "has_dependents",
    ),
    ("create", r#"{"path":"d.qcow2","size":"2M","force":true}"#, "incompatible_options"),
    ("create", r#"{"path":"missing/n.qcow2","size":"1M"}"#, "not_found"),
    ("ensure", r#"{"path":"missing/n.qcow2","size":"1M"}"#, "not_found"),
    ("resize", r#"{"path":"missing.qcow2","size":"1M"}"#, "not_found"),
    ("info", r#"{"path":"missing.qcow2"}"#, "not_found"),
    ("capabilities", r#"{"folder":"missing"}"#, "not_found"),
    (
        "create",
        r#"{"path":"n.qcow2","size":"1M","guest":{"userdata_file":"missing"}}"#,
        "not_found",
    ),
    ("create", r#"{"path":"held.qcow2","size":"2M","if_exists":"replace"}"#, "locked"),
    ("create", r#"{"path":"held.qcow2","size":"1M","if_exists":"keep"}"#, "locked"),
    ("ensure", r#"{"path":"held.qcow2","size":"2M","lock_timeout_seconds":0.05}"#, "locked"),
    ("resize", r#"{"path":"held.qcow2","size":"2M"}"#, "locked"),
    (
        "create",
        r#"{"path":"n.qcow2","size":"1M","guest":{"ssh_keys":["KEY"]}}"#,
        "payload_too_large",
    ),
    (
        "ensure",
        r#"{"path":"n.qcow2","size":"1M","guest":{"ssh_keys":["KEY"]}}"#,
        "payload_too_large",
    ),
    ("resize", r#"{"path":"luks.qcow2","size":"2M"}"#, "unsupported_feature"),
    ("ensure", r#"{"path":"luks.qcow2","size":"2M"}"#, "unsupported_feature"),
    ("info", r#"{"path":"new.qcow2"}"#, "unsupported_feature"),
    ("create", r#"{"path":"n.raw","size":"1M","layout":{"compat":"1.1"}}"#, "incompatible_options"),
    (
        "ensure",
        r#"{"path":"n.raw","size":"1M","layout":{"preset":"qemu"}}"#,
        "incompatible_options",
    ),
    (
        "resize",
        r#"{"path":"d.raw","size":"2M","preallocation":"metadata"}"#,
        "incompatible_options",
    ),
    ("info", r#"{"path":"d.raw","trust":"full","allow":["."]}"#, "incompatible_options"),
    ("resize", r#"{"path":"corrupt.qcow2","size":"2M"}"#, "corrupt"),
    ("ensure", r#"{"path":"corrupt.qcow2","size":"2M"}"#, "corrupt"),
    ("info", r#"{"path":"corrupt.qcow2"}"#, "corrupt"),
    ("create", r#"{"path":"n.qcow2","backing":{"path":"corrupt.qcow2"}}"#, "corrupt"),
    ("resize", r#"{"path":"dirty.qcow2","size":"2M"}"#, "dirty"),
    ("ensure", r#"{"path":"dirty.qcow2","size":"2M"}"#, "dirty"),
    ("resize", r#"{"path":"old.qcow2","size":"2M"}"#, "has_snapshots"),
    ("ensure", r#"{"path":"old.qcow2","size":"2M"}"#, "has_snapshots"),
    ("ensure", r#"{"path":"junk","size":"1M"}"#, "format_mismatch"),
    ("ensure", r#"{"path":"d.raw","size":"1M","format":"qcow2"}"#, "format_mismatch"),
    ("resize", r#"{"path":"junk.qcow2","size":"1M"}"#, "format_mismatch"),
    ("create", r#"{"path":"n.qcow2","backing":{"path":"d.raw"}}"#, "format_mismatch"),
    (
        "create",
        r#"{"path":"n.qcow2","backing":{"path":"used.raw","format":"raw"},"guest":{"ssh_keys":["PUBLIC"]}}"#,
        "guest_not_empty",
    ),
    (
        "ensure",
        r#"{"path":"n.qcow2","backing":{"path":"used.raw","format":"raw"},"guest":{"ssh_keys":["PUBLIC"]}}"#,
        "guest_not_empty",
    ),
    (
        "resize",
        r#"{"path":"used.raw","format":"raw","size":"2M","guest_fs":"require"}"#,
        "guest_refused",
    ),
    ("resize", r#"{"path":"stale.raw","format":"raw","size":"2M"}"#, "journal_stale"),
    ("create", r#"{"path":"folder","size":"1M"}"#, "not_a_disk"),
    ("create", r#"{"path":"pipe","size":"1M","if_exists":"replace"}"#, "not_a_disk"),
    ("ensure", r#"{"path":"device","size":"1M"}"#, "not_a_disk"),
    ("resize", r#"{"path":"folder","size":"1M"}"#, "not_a_disk"),
    ("info", r#"{"path":"pipe"}"#, "not_a_disk"),
    ("create", r#"{"path":"n.qcow2","backing":{"path":"missing.qcow2"}}"#, "backing_missing"),
    ("info", r#"{"path":"orphan.qcow2","chain":true}"#, "backing_missing"),
    ("info", r#"{"path":"folder/over.qcow2","chain":true}"#, "backing_refused"),
    (
        "create",
        r#"{"path":"n.qcow2","backing":{"path":"folder/over.qcow2"},"trust":"none"}"#,
        "backing_refused",
    ),
    ("create", r#"{"path":"n.qcow2","backing":{"path":"a.qcow2"}}"#, "backing_cycle"),
    ("ensure", r#"{"path":"n.qcow2","backing":{"path":"b.qcow2"}}"#, "backing_cycle"),
    ("info", r#"{"path":"a.qcow2","chain":true}"#, "backing_cycle"),
    ("info", r#"{"path":"d.qcow2","protocol":"2"}"#, "protocol_unsupported"),
    ("resize", r#"{"path":"d.qcow2","size":"4M","protocol":"2"}"#, "protocol_unsupported"),
];

/// Disks of every kind, and what is none.
fn folder() -> Env {
    let env = Env::new();
    for line in [
        "create -q -f qcow2 d.qcow2 2M",
        "create -q -f raw d.raw 1M",
        "create -q -f raw used.raw 1M",
        "create -q -f raw stale.raw 1M",
        "create -q -f qcow2 held.qcow2 1M",
        "create -q -f qcow2 luks.qcow2 1M",
        "create -q -f qcow2 new.qcow2 1M",
        "create -q -f qcow2 corrupt.qcow2 1M",
        "create -q -f qcow2 dirty.qcow2 1M",
        "create -q -f qcow2 -o compat=0.10 old.qcow2 1M",
        "snapshot -c s old.qcow2",
        "create -q -f qcow2 -b d.qcow2 -F qcow2 a.qcow2",
        "create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2",
        "rebase -q -u -b b.qcow2 -F qcow2 a.qcow2",
        "create -q -f qcow2 -u -b gone.qcow2 -F qcow2 orphan.qcow2 1M",
        "create -q -f qcow2 -b d.qcow2 -F qcow2 leaf.qcow2",
        "create -q -f qcow2 -b leaf.qcow2 -F qcow2 top.qcow2",
        "create -q -f qcow2 -b d.qcow2 -F qcow2 side.qcow2",
    ] {
        env.qemu_img(line);
    }
    std::fs::create_dir(env.path("folder")).expect("a folder");
    env.qemu_img("create -q -f qcow2 -u -b ../d.qcow2 -F qcow2 folder/over.qcow2 2M");
    env.patch("used.raw", 40_000, b"something");
    env.patch("luks.qcow2", 32, &2_u32.to_be_bytes());
    env.patch("new.qcow2", 72, &[0x80]);
    env.patch("corrupt.qcow2", 40, &0x30001_u64.to_be_bytes());
    // Its snapshot needs counts of two, for which counts of one bit have no room.
    env.qemu_io_all("dirty.qcow2", &["write 0 64k".to_owned()]);
    env.qemu_img("snapshot -c s dirty.qcow2");
    env.patch("dirty.qcow2", 79, &[1]);
    env.patch("dirty.qcow2", 99, &[0]);
    env.write("stale.raw.vmdisk-journal", "of nobody");
    env.write("junk", "not empty");
    env.write("junk.qcow2", vec![0x5a; 4096]);
    env.run("mkfifo", ["pipe"]).exits(0);
    symlink("/dev/null", env.path("device")).expect("a link");
    env
}

/// Each of them, in a session and alone: the error is as the document says, nothing differs from
/// before, and alone it ends with the exit code of its kind.
#[test]
fn every_kind() {
    let env = folder();
    let held = std::fs::File::open(env.path("held.qcow2")).expect("a disk");
    held.lock().expect("a lock");
    let key = format!("{}{}", PUBLIC_KEY.trim_end(), "x".repeat(8000));
    let before = env.contents();
    let mut session = Session::new(&env);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (method, params, kind) in REQUESTS {
        let params = params.replace("KEY", &key).replace("PUBLIC", PUBLIC_KEY.trim_end());
        let params: Value = serde_json::from_str(&params).expect("parameters");
        let shown = format!("{method} {params:.200}");
        let answer = session.ask(method, params.clone());
        failed(&answer, kind, &shown);
        assert_eq!(env.contents(), before, "{shown} in a session");
        seen.insert((*kind).to_owned());
        let (said, run) = one_shot(&env, request("alone", method, params));
        let alone = Response::of(said[0].clone());
        failed(&alone, kind, &shown);
        assert_eq!(alone.outcome, answer.outcome, "{shown}");
        assert_eq!((said.len(), run.code), (1, Some(code_of(kind))), "{shown}: {run:?}");
        assert_eq!(run.stderr, "", "{shown}");
        assert_eq!(env.contents(), before, "{shown} alone");
    }
    // Those that take more than a folder have tests of their own, here below.
    seen.extend(["permission", "no_space", "io", "cancelled"].map(str::to_owned));
    seen.extend(OUT_OF_REACH.iter().map(|kind| (*kind).to_owned()));
    let known = DOCUMENT["components"]["errors"].as_object().expect("kinds");
    assert_eq!(seen, known.keys().cloned().collect(), "a kind that no request is known for");
}

/// The answer is a failure of this kind that changed nothing.
#[track_caller]
fn failed(answer: &Response, kind: &str, what: &str) {
    assert!(answer.outcome.is_err(), "{what}: {answer:?}");
    assert_eq!(answer.kind(), kind, "{what}: {answer:?}");
    assert_eq!(answer.error()["data"]["changed"], false, "{what}: {answer:?}");
    super::checked("", &answer.outcome);
}

/// Who may not read or write says so.
#[test]
fn permission() {
    let env = Env::new().open_to_all();
    env.report("create d.qcow2 --size 1M");
    std::fs::create_dir(env.path("closed")).expect("a folder");
    set_mode(&env.path("closed"), 0o555);
    set_mode(&env.path("d.qcow2"), 0o444);
    let stranger = Stranger::new();
    let words = stranger.prefix();
    let start = || env.spawn(words[0], words[1..].iter().copied().chain(["rpc"]));
    let before = env.contents();
    for (method, params) in [
        ("create", json!({ "path": "closed/n.qcow2", "size": "1M" })),
        ("ensure", json!({ "path": "closed/n.qcow2", "size": "1M" })),
        ("ensure", json!({ "path": "d.qcow2", "size": "2M" })),
        ("resize", json!({ "path": "d.qcow2", "size": "2M" })),
        ("capabilities", json!({ "folder": "closed" })),
    ] {
        let mut session = Session::of(start());
        let answer = session.ask(method, params);
        failed(&answer, "permission", method);
        assert_eq!(answer.error()["data"]["errno"], 13, "{answer:?}");
        assert_eq!(session.close().1.code, Some(1));
        assert_eq!(env.contents(), before, "{method}");
    }
}

/// What cannot be read is told so: address 0 of a process, which passes for a file.
#[test]
#[cfg(target_os = "linux")]
fn io() {
    let env = Env::new();
    let mut session = Session::new(&env);
    for method in ["info", "resize"] {
        let mut params = json!({ "path": "/proc/self/mem", "format": "raw" });
        if method == "resize" {
            params["size"] = json!("1M");
        }
        failed(&session.ask(method, params), "io", method);
    }
    assert_eq!(session.close().1.code, Some(0));
}

/// A limit on the length of files ends no session: what does not fit fails, and is gone.
#[test]
fn no_space_for_longer_files() {
    let env = Env::new();
    env.report("create d.raw --size 1M");
    let before = env.contents();
    let mut session = Session::of(under(&env, "ulimit -f 4096; exec \"$0\" rpc"));
    for name in ["n.raw", "n.qcow2", "d.raw"] {
        let params = json!({ "path": name, "size": "8M", "if_exists": "replace",
            "layout": { "preallocation": "full" } });
        failed(&session.ask("create", params), "no_space", name);
        assert_eq!(env.contents(), before, "{name}");
    }
    // What an existing disk grew by before that is taken back.
    let disk = || std::fs::read(env.path("d.raw")).expect("the disk");
    let was = disk();
    let params = json!({ "path": "d.raw", "size": "8M", "preallocation": "full" });
    failed(&session.ask("resize", params), "no_space", "d.raw");
    assert!(disk() == was, "changed, it did not say");
    assert_eq!(session.close().1.code, Some(0));
}

/// Nor does a full file system.
#[test]
#[cfg(target_os = "linux")]
fn no_space() {
    let env = Env::new();
    if env.run("unshare", ["-rm", "true"]).code != Some(0) {
        println!("no mount namespace can be had here: a full file system is not tested");
        return;
    }
    std::fs::create_dir(env.path("mnt")).expect("a folder");
    let shell = "exec unshare -rm sh -c '
        mount -t tmpfs -o size=4m none mnt; \"$0\" create mnt/d.qcow2 --size 1M >&2
        sum <mnt/d.qcow2 >&2; \"$0\" rpc; code=$?; sum <mnt/d.qcow2 >&2; ls -A mnt >&2; exit $code' \"$0\"";
    for (method, name) in [("create", "d.qcow2"), ("create", "n.raw"), ("ensure", "n.qcow2")] {
        let mut params = json!({ "path": format!("mnt/{name}"), "size": "16M",
            "layout": { "preallocation": "full" } });
        if name == "d.qcow2" {
            params["if_exists"] = json!("replace");
        }
        let mut session = Session::of(under(&env, shell));
        let answer = session.ask(method, params);
        failed(&answer, "no_space", name);
        let run = session.close().1;
        assert_eq!(run.code, Some(1), "{run:?}");
        let lines: Vec<_> = run.stderr.lines().rev().take(3).collect();
        assert_eq!(lines[0], "d.qcow2", "{run:?}");
        assert_eq!(lines[1], run.stderr.lines().rev().nth(2).expect("a sum"), "{run:?}");
    }
}

/// What is called off while it is being made never was; what it was to replace is what it was.
#[test]
fn cancelled() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let before = env.contents();
    let mut session = Session::new(&env);
    for (method, path) in [("create", "n.raw"), ("create", "d.qcow2"), ("ensure", "n.qcow2")] {
        let mut params = json!({ "path": path, "size": "4G", "progress": true,
            "layout": { "preallocation": "full" } });
        if path == "d.qcow2" {
            params["if_exists"] = json!("replace");
        }
        session.send(request("big", method, params));
        // It is under way.
        assert_eq!(session.line()["method"], "progress");
        session.send(cancel("big"));
        let answer = session.answer();
        failed(&answer, "cancelled", path);
        assert_eq!(answer.id, "big");
        assert_eq!(env.contents(), before, "{path}");
    }
    assert!(session.ask("info", json!({ "path": "d.qcow2" })).outcome.is_ok());
    // Alone, it was no signal that stopped it.
    session = Session::new(&env);
    let params = json!({ "path": "n.raw", "size": "4G", "layout": { "preallocation": "full" } });
    session.write(request("big", "create", params) + "\n" + &cancel("big") + "\n");
    failed(&session.answer(), "cancelled", "alone");
    assert_eq!(session.close().1.code, Some(1));
    assert_eq!(env.contents(), before);
}
