//! Progress: told on request, in time, and never wrongly.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::schema::params_fit;
use super::{Response, Session, request};
use crate::support::Env;

const SIZE: u64 = 512 << 20;

fn big(path: &str) -> Value {
    json!({ "path": path, "size": SIZE, "layout": { "preallocation": "full" } })
}

impl Session {
    /// The next response; progress may come before it.
    #[track_caller]
    pub(super) fn answer(&self) -> Response {
        loop {
            let line = self.line();
            if line.get("method").is_none() {
                return Response::of(line);
            }
        }
    }
}

/// Whether the temporary folder has room for what is written here.
fn has_room(env: &Env) -> bool {
    let free = env.run("df", ["-k", "--output=avail", "."]).stdout;
    let free = free.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok());
    if free.is_some_and(|free| free > 2 << 20) {
        return true;
    }
    println!("less than 2 GiB are free: nothing large is written, and nothing tested");
    false
}

/// Half a gigabyte is written: whoever asks is told, with the request's id, in figures that never go
/// backwards in a phase nor beyond the total, at most ten times a second, before the answer; and
/// whoever does not ask is told nothing.
#[test]
fn progress_is_told() {
    let env = Env::new();
    if !has_room(&env) {
        return;
    }
    let mut session = Session::new(&env);
    let mut params = big("told.qcow2");
    params["progress"] = json!(true);
    let sent = Instant::now();
    session.send(request("big", "create", params));
    let mut told = Vec::new();
    let answer = loop {
        let line = session.line();
        match line.get("method") {
            Some(_) => told.push(line),
            None => break Response::of(line).valid("create"),
        }
    };
    assert_eq!((answer.id.clone(), answer.outcome.is_ok()), (json!("big"), true), "{answer:?}");
    assert!(told.len() >= 2, "{told:?}");
    let mut phases = BTreeMap::new();
    for line in &told {
        let params = &line["params"];
        params_fit("progress", params);
        let members: Vec<_> = line.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["jsonrpc", "method", "params"], "{line}");
        assert_eq!((&line["jsonrpc"], &line["method"]), (&json!("2.0"), &json!("progress")));
        assert_eq!((&params["id"], &params["unit"]), (&json!("big"), &json!("bytes")));
        let (done, total) = (params["done"].as_u64(), params["total"].as_u64());
        let phase = params["phase"].as_str().expect("a phase");
        let before = phases.insert(phase, (done, total)).unwrap_or((Some(0), total));
        assert!(before.0 <= done && done <= total && total == before.1, "{line} after {before:?}");
    }
    let most = sent.elapsed().as_millis() / 100 + 1;
    assert!((told.len() as u128) <= most, "{} lines, {most} at most", told.len());
    std::fs::remove_file(env.path("told.qcow2")).expect("the disk");
    let mut params = big("quiet.raw");
    params["size"] = json!("100M");
    session.send(request("quiet", "create", params));
    assert_eq!(session.response().valid("create").id, "quiet");
    assert!(session.close().0.is_empty());
}

/// On the command line the same lines go to standard error, and standard output holds the report
/// alone.
#[test]
fn progress_of_a_command() {
    let env = Env::new();
    if !has_room(&env) {
        return;
    }
    let line = "create d.raw --size 200M --preallocation full --progress json";
    let run = env.vmdisk(&format!("{line} --json")).exits(0);
    assert_eq!(run.json()["virtual_size_bytes"], 200 << 20);
    let lines: Vec<Value> = run.stderr.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    assert!(!lines.is_empty());
    for line in lines {
        assert_eq!((&line["jsonrpc"], &line["method"]), (&json!("2.0"), &json!("progress")));
        assert_eq!(line["params"].get("id"), None, "there is no request: {line}");
        let mut params = line["params"].clone();
        params["id"] = json!(0);
        params_fit("progress", &params);
    }
    std::fs::remove_file(env.path("d.raw")).expect("the disk");
    assert_eq!(env.vmdisk("create d.raw --size 100M --preallocation full --json").stderr, "");
}

/// What is too quick to tell of is asked for all the same, by every method.
#[test]
fn progress_may_be_asked_for_anywhere() {
    let env = Env::new();
    let mut session = Session::new(&env);
    for (method, mut params) in [
        ("create", json!({ "path": "d.raw", "size": 512 })),
        ("ensure", json!({ "path": "d.raw", "size": 512 })),
        ("resize", json!({ "path": "d.raw", "size": 1024 })),
        ("info", json!({ "path": "d.raw" })),
        ("capabilities", json!({})),
        ("rpc.discover", json!({})),
    ] {
        params["progress"] = json!(true);
        session.send(request(method, method, params));
        let answer = session.answer().valid(method);
        assert!(answer.id == method && answer.outcome.is_ok(), "{answer:?}");
    }
}
