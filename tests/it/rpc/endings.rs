//! Ways to end a session before it is done: signals, and a client that no longer listens.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Session, request};
use crate::support::{Env, Running, until};

/// A request that takes its time.
fn long() -> String {
    let params = json!({ "path": "long.raw", "size": "8G", "layout": { "preallocation": "full" } });
    request("long", "create", params)
}

/// Waits until something is being made in the folder.
fn under_way(env: &Env, known: usize) {
    until("a file in the making", || env.names().len() > known);
}

/// SIGTERM and SIGINT stop what runs at its next safe point; it and what waits behind it are
/// answered, nothing stays in the folder, and the exit code is the signal's.
#[test]
fn signals_end_what_runs() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let env = Env::new();
        let mut session = Session::new(&env);
        session.send(long());
        session.send(request(2, "create", json!({ "path": "n.raw", "size": 512 })));
        under_way(&env, 0);
        session.running.signal(signal);
        for id in [json!("long"), json!(2)] {
            let answer = session.response().valid("");
            assert_eq!((answer.id.clone(), answer.kind()), (id, "cancelled"), "{answer:?}");
            assert_eq!(answer.error()["data"]["changed"], false);
        }
        // Its input is still open.
        until("the end", || session.running.has_ended());
        assert_eq!(env.names(), [""; 0]);
        let (said, run) = session.close();
        assert!(said.is_empty() && run.stderr.is_empty(), "{said:?} {run:?}");
        assert_eq!(run.code, Some(code));
    }
}

/// A session that only waits for requests ends at once, also when it has answered some.
#[test]
fn signals_end_what_waits() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let env = Env::new();
        let mut session = Session::new(&env);
        assert!(session.ask("info", json!({ "path": "missing" })).outcome.is_err());
        let start = Instant::now();
        session.running.signal(signal);
        until("the end", || session.running.has_ended());
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let (said, run) = session.close();
        assert!(said.is_empty() && run.stderr.is_empty(), "{said:?} {run:?}");
        assert_eq!(run.code, Some(code));
    }
}

/// Answers that nobody takes do not hold it up when it is to end.
#[test]
fn a_deaf_client_keeps_nobody_alive() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let env = Env::new();
        let mut deaf = Deaf::new(&env);
        deaf.ask(5_000, &request(1, "rpc.discover", json!({})));
        deaf.stuck();
        deaf.running.signal(signal);
        until("the end", || deaf.running.has_ended());
        assert_eq!(deaf.running.wait().code, Some(code));
    }
}

/// Progress that nobody takes does not hold work up: it is dropped, and `cancel` is heeded.
#[test]
fn work_goes_on_without_listeners() {
    let env = Env::new();
    let before = env.contents();
    let mut deaf = Deaf::new(&env);
    // Ids so long that a few lines of progress fill the pipe.
    let id = "i".repeat(3_000);
    let mut line: serde_json::Value = serde_json::from_str(&long()).expect("a request");
    line["id"] = json!(id);
    line["params"]["progress"] = json!(true);
    deaf.ask(1, &line.to_string());
    under_way(&env, 0);
    // Ten lines a second fill the pipe in two.
    sleep(Duration::from_millis(2500));
    deaf.ask(1, &super::cancel(id));
    until("the temporary to go", || env.contents() == before);
    deaf.running.kill();
}

/// The client is gone while something long runs, of which nothing is told meanwhile: it is
/// stopped, cleaned up, and nobody is blamed.
#[test]
fn nobody_listens_any_more() {
    let env = Env::new();
    env.report("create d.raw --size 1M");
    let before = env.contents();
    let mut running = env.start("rpc");
    let (mut stdin, stdout) = (running.stdin(), running.stdout());
    stdin.write_all(format!("{}\n{}\n", long(), long()).as_bytes()).expect("a server");
    under_way(&env, 1);
    drop(stdout);
    until("the end", || running.has_ended());
    drop(stdin);
    let run = running.wait();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(env.contents(), before);
    // The same before it has anything to do, and where the first answer is not wanted.
    for input in [String::new(), request(1, "info", json!({ "path": "d.raw" })) + "\n"] {
        let mut running = env.start("rpc");
        drop(running.stdout());
        running.stdin().write_all(input.as_bytes()).unwrap_or(());
        let run = running.wait();
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{input}");
    }
}

/// Answers that cannot be written for another reason are a failure, and one is told of.
#[test]
fn a_full_output() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("no /dev/full here: a full output is not tested");
        return;
    }
    let env = Env::new();
    let mut running = super::under(&env, "exec \"$0\" rpc >/dev/full");
    let line = request(1, "capabilities", json!({})) + "\n";
    running.stdin().write_all(line.as_bytes()).expect("a server");
    let run = running.wait();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("No space left"), "{run:?}");
}

/// A client that writes and does not read.
pub(super) struct Deaf {
    pub(super) running: Running,
    lines: std::sync::mpsc::Sender<String>,
    written: Arc<AtomicUsize>,
}

impl Deaf {
    pub(super) fn new(env: &Env) -> Deaf {
        let mut running = env.start("rpc");
        let mut stdin = running.stdin();
        let written = Arc::new(AtomicUsize::new(0));
        let (lines, to_write) = std::sync::mpsc::channel::<String>();
        let count = written.clone();
        std::thread::spawn(move || {
            // Pieces small enough to show whether anybody still reads.
            for line in to_write {
                for piece in line.as_bytes().chunks(4096) {
                    if stdin.write_all(piece).is_err() {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Deaf { running, lines, written }
    }

    /// Writes a line so many times, from now on.
    pub(super) fn ask(&mut self, times: usize, line: &str) {
        for _ in 0..times {
            self.lines.send(format!("{line}\n")).expect("a writer");
        }
    }

    /// Waits until nothing more is written: all of it is, or the server no longer reads. Then ends
    /// the input, behind what has to be written yet.
    pub(super) fn stuck(&mut self) {
        let mut last = usize::MAX;
        until("a writer that waits", || {
            sleep(Duration::from_millis(100));
            let written = self.written.load(Ordering::Relaxed);
            std::mem::replace(&mut last, written) == written
        });
        self.lines = std::sync::mpsc::channel().0;
    }
}
