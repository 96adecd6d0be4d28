//! What a session costs: however much is asked of it, and however late the client listens.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};

use super::endings::Deaf;
use super::{Session, request};
use crate::support::{Env, Running};

/// A client that writes 2 000 requests before it reads anything gets all of its answers, in
/// order; one that writes many more has to wait, and what waits costs little: as bytes and, where
/// lines are short, by their number.
#[test]
fn a_client_that_reads_late() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let info = |id: usize| request(id, "info", json!({ "path": "d.qcow2" })) + "\n";
    let mut running = env.start("rpc");
    let (mut stdin, stdout) = (running.stdin(), running.stdout());
    for id in 0..2_000 {
        stdin.write_all(info(id).as_bytes()).expect("a server that takes them all");
    }
    drop(stdin);
    for (id, line) in BufReader::new(stdout).lines().enumerate() {
        let line: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        assert_eq!((&line["id"], line["result"].is_object()), (&json!(id), true));
        if id == 1_999 {
            break;
        }
    }
    assert_eq!(running.wait().code, Some(0));
    let short = "1\n".repeat(1_000);
    let fill = json!({ "x-fill": "x".repeat(1_000_000) });
    let large = request(1, "nothing", fill) + "\n";
    for (what, chunk, chunks) in [("short", short, 150), ("large", large, 50)] {
        let mut deaf = Deaf::new(&env);
        deaf.ask(100, &request(1, "rpc.discover", json!({})));
        deaf.ask(chunks, chunk.trim_end());
        deaf.stuck();
        let peak = memory(&deaf.running, "VmHWM");
        assert!(peak < 32 << 10, "{what}: {peak} KiB");
        let answers = BufReader::new(deaf.running.stdout()).lines();
        assert_eq!(answers.count(), 100 + chunks * chunk.lines().count(), "{what}");
        assert_eq!(deaf.running.wait().code, Some(0));
    }
}

/// A session that has answered ten times as much has not grown.
#[test]
fn memory_does_not_grow() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let mut session = Session::new(&env);
    let line = request("i", "info", json!({ "path": "d.qcow2" })) + "\n";
    let mut grown = |requests: usize| {
        for _ in 0..requests / 100 {
            session.write(line.repeat(100));
            for _ in 0..100 {
                session.lines.recv().expect("an answer");
            }
        }
        memory(&session.running, "VmRSS")
    };
    let (few, many) = (grown(1_000), grown(9_000));
    assert!(many < few + 1024, "{few} KiB, then {many} KiB");
}

/// A field of a process's status, in KiB.
fn memory(running: &Running, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid()));
    let status = status.expect("a process");
    let line = status.lines().find(|line| line.starts_with(field)).expect("a field");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
