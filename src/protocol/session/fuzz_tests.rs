//! Runs of bytes as what a client sends: what the fuzzer finds its way with. Verbs are understood
//! and not done.

use std::collections::BTreeMap;
use std::io::Cursor;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{Ended, Session};
#[cfg(test)]
use crate::fuzz_tests::again;
use crate::protocol::methods::Understood;
use crate::task::Cancel;

/// What lines are made of: the bytes from 128 on stand for these, in turn; those below, for
/// themselves. Only ever added to, so that runs keep their meaning.
const PIECES: &[&str] = &[
    r#"{"jsonrpc":"2.0","id":1,"method":""#,
    r#"{"jsonrpc":"2.0","method":"cancel","params":{"id":1}}"#,
    r#"","params":{"#,
    "}}\n",
    r#""path":"d.qcow2""#,
    r#""jsonrpc":"2.0""#,
    r#""id":"#,
    r#""method":"#,
    r#""params":"#,
    "rpc.discover",
    "create",
    "ensure",
    "resize",
    "info",
    "inspect",
    "check",
    "undo_repair",
    "salvage",
    "capabilities",
    "cancel",
    r#""size":"#,
    r#""20GiB""#,
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "1e400",
    "0.5",
    "null",
    "true",
    "false",
    r#""x_extension":"#,
    r#""protocol":"1""#,
    r#""protocol":"2.7""#,
    r#""progress":true"#,
    r#""trust":"none""#,
    r#""trust":"named""#,
    r#""allow":["/"]"#,
    r#""lock_timeout_seconds":"#,
    r#""no_lock":true"#,
    r#""format":"qcow2""#,
    r#""chain":"#,
    r#""untrusted":"#,
    r#""max_size":"#,
    r#""repair":"#,
    r#""all""#,
    r#""dry_run":"#,
    r#""shrink":"#,
    r#""to":"#,
    r#""target":"#,
    r#""output":"#,
    r#""guest":{"#,
    r#""ssh_keys":["#,
    r#""layout":{"#,
    r#""preallocation":"#,
    r#""metadata""#,
    r#""cluster_size":"#,
    r#""backing":{"#,
    r#""mode":"0600""#,
    r#""\u0069d":"#,
    r#""\ud800""#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"#,
    "\u{feff}",
    "\0",
];

/// Every line that is a request has one answer, every other one that is not a notification too,
/// alone or among others, and the session goes on to its end.
pub fn protocol(bytes: &[u8]) {
    let text = match bytes.split_first() {
        // As they are: not even text.
        Some((0, rest)) => rest.to_vec(),
        _ => bytes.iter().flat_map(|byte| written(*byte)).collect(),
    };
    let mut ids = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let answers = served(line);
        assert!(answers.len() <= 1, "{answers:?}");
        let expected = Expected::of(line);
        match expected {
            Expected::Answer => assert_eq!(answers.len(), 1, "{}", line.escape_ascii()),
            Expected::Silence => assert_eq!(answers.len(), 0, "{}", line.escape_ascii()),
            Expected::Either => {}
        }
        ids.extend(answers.iter().map(|answer| answer["id"].clone()));
    }
    let together: Vec<_> = served(&text).iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(together, ids, "{}", text.escape_ascii());
}

fn written(byte: u8) -> Vec<u8> {
    match byte.checked_sub(128) {
        Some(piece) => PIECES[usize::from(piece) % PIECES.len()].as_bytes().to_vec(),
        None => vec![byte],
    }
}

/// What is answered.
fn served(input: &[u8]) -> Vec<Value> {
    let mut session = Session::new(&Cancel::new());
    session.methods = Understood::all();
    let mut output = Vec::new();
    let ended = session.serve(Cursor::new(input.to_vec()), drop, &mut output, |_| true).unwrap();
    assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
    let lines = std::str::from_utf8(&output).unwrap().lines();
    lines.map(answer).collect()
}

/// An answer, which has a result or an error, and is no longer than it need be.
fn answer(line: &str) -> Value {
    let answer: Value = serde_json::from_str(line).unwrap();
    assert_eq!(answer["jsonrpc"], "2.0");
    assert!(answer.get("id").is_some());
    let (result, error) = (answer.get("result"), answer.get("error"));
    assert!(result.is_some() != error.is_some(), "{line}");
    if let Some(error) = error {
        assert!(error["code"].is_i64() && error["message"].is_string(), "{line}");
        assert_ne!(error["data"]["kind"], "internal", "{line}");
        assert!(line.len() < 64 << 10, "{} bytes of error", line.len());
    }
    answer
}

/// What a line is worth, as another reader of JSON sees it.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Answer,
    Silence,
    /// It has something twice, of which either could count.
    Either,
}

impl Expected {
    fn of(line: &[u8]) -> Expected {
        if line.trim_ascii().is_empty() {
            return Expected::Silence;
        }
        let Ok(text) = std::str::from_utf8(line) else { return Expected::Answer };
        let members = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text);
        let Ok(members) = members else { return Expected::Answer };
        if members.contains_key("id") {
            return Expected::Answer;
        }
        let text_of = |name| serde_json::from_str::<String>(members.get(name)?.get()).ok();
        let whole = text_of("jsonrpc").as_deref() == Some("2.0") && text_of("method").is_some();
        let quotes = text.matches("jsonrpc").count() + text.matches("method").count();
        let params = text.matches("params").count();
        match whole {
            false => Expected::Answer,
            true if quotes == 2 && params < 2 && !text.contains("\\u") => Expected::Silence,
            true => Expected::Either,
        }
    }
}

#[test]
fn lines_are_answered() {
    again(include_str!("../../../tests/data/fuzz/protocol.txt"), protocol);
    protocol(b"\x80\x8d\x82\x84\x83\x81\x80\x8a\x82\x84,\x94\x95\x83{}\n\xff\n[]\n\n\x80what\x83");
}
