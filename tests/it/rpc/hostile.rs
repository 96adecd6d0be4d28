//! Lines that no client should send: each gets one error, nothing is touched, and the session
//! goes on.

use serde_json::{Value, json};

use super::{Session, one_shot, request};
use crate::support::{Env, message};

const PARSE: i64 = -32700;
const INVALID: i64 = -32600;
const UNKNOWN_METHOD: i64 = -32601;
const PARAMS: i64 = -32602;
/// The longest line that is read, without its newline.
const LIMIT: usize = 1 << 20;

/// A folder with a disk in it, and its session.
fn scene() -> (Env, Session) {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let session = Session::new(&env);
    (env, session)
}

/// Each of these lines has a fault of its own, which the error names.
#[test]
fn lines_that_are_no_request() {
    let (env, mut session) = scene();
    let before = env.contents();
    let deep = |open: &str, close: &str| open.repeat(10_000) + &close.repeat(10_000);
    let (lists, objects) = (deep("[", "]"), deep(r#"{"params":"#, "}"));
    let lines: &[(&[u8], i64, &str)] = &[
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"info\xff\"}", PARSE, "UTF-8 at byte 38"),
        (b"\xff\xfe{\0}\0", PARSE, "UTF-8 at byte 0"),
        (b"\0", PARSE, "not JSON"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"info"#, PARSE, "not JSON"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"info"}}"#, PARSE, "trailing"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"info",}"#, PARSE, "not JSON"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, PARSE, "hex escape"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"\udc00\ud800"}"#, PARSE, "hex escape"),
        (br#"{"jsonrpc":"2.0","id":NaN,"method":"info"}"#, PARSE, "not JSON"),
        ("\u{feff}{}".as_bytes(), PARSE, "not JSON"),
        (lists.as_bytes(), INVALID, "batch"),
        (&lists.as_bytes()[..10_000], PARSE, "not JSON"),
        (objects.as_bytes(), PARSE, "not JSON"),
        (b"[]", INVALID, "batch"),
        (br#"[{"jsonrpc":"2.0","id":1,"method":"info"}]"#, INVALID, "batch"),
        (b"null", INVALID, "object"),
        (b"17", INVALID, "object"),
        (b"\"info\"", INVALID, "object"),
        (b"{}", INVALID, "jsonrpc"),
    ];
    for (line, code, words) in lines {
        let response = session.refused(line, *code, "bad_request");
        assert_eq!(response.id, Value::Null, "{response:?}");
        assert!(message(response.error()).contains(words), "{words}: {response:?}");
    }
    // Too deep for whoever reads the parameters; by then it is known whose they are.
    let deep = request(1, "info", json!({ "path": "LISTS" })).replace("\"LISTS\"", &lists);
    let response = session.refused(deep, PARSE, "bad_request");
    assert_eq!(response.id, 1);
    assert!(message(response.error()).contains("recursion"), "{response:?}");
    assert_eq!(env.contents(), before);
}

/// A key that comes twice, on any level and however it is written, is refused: two readers would
/// not agree on which of them counts.
#[test]
fn duplicate_keys() {
    let (env, mut session) = scene();
    let before = env.contents();
    for line in [
        r#"{"jsonrpc":"2.0","id":1,"method":"info","method":"create","params":{"path":"d.qcow2"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"info","params":{"path":"d.qcow2"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"info","params":{"path":"d.qcow2","path":"d.qcow2"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"create","params":{"path":"n","layout":{"compat":"1.1","compat":"0.10"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"info","params":{"path":"d.qcow2","p\u0061th":"e"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"info","params":{"path":"d.qcow2","x-a":[{"b":1,"b":1}]}}"#,
    ] {
        let response = session.refused(line, INVALID, "bad_request");
        assert!(message(response.error()).contains("duplicate key"), "{response:?}");
    }
    assert_eq!(env.contents(), before);
}

/// An object that is no request of JSON-RPC 2.0. Its id is echoed where it can be one.
#[test]
fn envelopes() {
    let (env, mut session) = scene();
    let before = env.contents();
    let whole =
        json!({ "jsonrpc": "2.0", "id": 7, "method": "info", "params": { "path": "d.qcow2" } });
    for (member, values, code) in [
        ("id", vec![Value::Null, json!(true), json!([]), json!({}), json!([1])], INVALID),
        ("jsonrpc", vec![Value::Null, json!("1.0"), json!(2.0), json!(2), json!("2")], INVALID),
        ("method", vec![Value::Null, json!(1), json!(["info"]), json!({ "info": 1 })], INVALID),
        ("params", vec![Value::Null, json!(["d.qcow2"]), json!([]), json!("d"), json!(1)], PARAMS),
        ("parms", vec![json!({})], INVALID),
        ("Method", vec![json!("info")], INVALID),
    ] {
        for value in values {
            let mut line = whole.clone();
            line[member] = value;
            let response = session.refused(line.to_string(), code, "bad_request");
            let id = if member == "id" { Value::Null } else { json!(7) };
            assert_eq!(response.id, id, "{line}: {response:?}");
            let told = message(response.error()).to_lowercase();
            let words = if member == "id" { "an id is" } else { member };
            assert!(told.contains(&words.to_lowercase()), "{line}: {response:?}");
        }
    }
    for member in ["jsonrpc", "method"] {
        let mut line = whole.clone();
        line.as_object_mut().expect("an object").remove(member);
        let response = session.refused(line.to_string(), INVALID, "bad_request");
        assert_eq!(
            message(response.error()),
            if member == "method" {
                "method is missing"
            } else {
                "jsonrpc is missing: it must be \"2.0\""
            }
        );
    }
    let mut line = whole.clone();
    line["parms"] = json!({});
    let response = session.refused(line.to_string(), INVALID, "bad_request");
    assert!(message(response.error()).contains("did you mean 'params'?"), "{response:?}");
    assert_eq!(env.contents(), before);
}

/// Methods that do not exist; the nearest that does is named.
#[test]
fn methods() {
    let (env, mut session) = scene();
    let before = env.contents();
    let long = "i".repeat(LIMIT - 100);
    for (method, words) in [
        ("creat", "did you mean 'create'?"),
        ("INFO", "unknown method 'INFO'"),
        ("rpc.discovery", "did you mean 'rpc.discover'?"),
        ("rpc", "unknown method 'rpc'"),
        ("", "unknown method ''"),
        ("info\n\u{1b}[2J", r"info\n\u{1b}[2J"),
        (&long, "unknown method 'iiii"),
    ] {
        let line = request(1, method, json!({ "path": "d.qcow2" }));
        let response = session.refused(line, UNKNOWN_METHOD, "bad_request");
        assert!(message(response.error()).contains(words), "{response:?}");
        assert!(message(response.error()).len() < 1000);
    }
    // What is a notification only.
    let line = request(1, "cancel", json!({ "id": 1 }));
    let response = session.refused(line, INVALID, "bad_request");
    assert!(message(response.error()).contains("without an id"), "{response:?}");
    session.refused(request(1, "progress", json!({})), UNKNOWN_METHOD, "bad_request");
    assert_eq!(env.contents(), before);
}

/// A line may have 1 MiB. One byte more, and it is refused without being kept in memory; the line
/// behind it is a line of its own.
#[test]
fn long_lines() {
    let (env, mut session) = scene();
    let before = env.contents();
    let line = |len: usize| {
        let short = request(1, "info", json!({ "path": "d.qcow2", "x-fill": "" }));
        let filled = short.replace(
            "\"x-fill\":\"\"",
            &format!("\"x-fill\":\"{}\"", "x".repeat(len - short.len())),
        );
        assert_eq!(filled.len(), len);
        filled
    };
    for len in [LIMIT - 1, LIMIT] {
        session.send(line(len));
        assert_eq!(session.response().valid("info").result()["format"], "qcow2", "{len} bytes");
    }
    for len in [LIMIT + 1, LIMIT + 2, 2 * LIMIT, 5 * LIMIT] {
        let response = session.refused(line(len), INVALID, "bad_request");
        assert!(message(response.error()).contains("1048576 bytes"), "{response:?}");
    }
    session.refused(vec![0xff; LIMIT + 1], INVALID, "bad_request");
    session.refused(" ".repeat(LIMIT + 1), INVALID, "bad_request");
    assert_eq!(env.contents(), before);
    let (said, run) = session.close();
    assert!(said.is_empty() && run.code == Some(0), "{said:?} {run:?}");
    // As the last line, with and without its newline.
    for end in ["", "\n"] {
        let (said, run) = one_shot(&env, line(LIMIT + 1) + end);
        assert_eq!((said.len(), run.code), (1, Some(2)), "{said:?}");
        let (said, run) = one_shot(&env, line(LIMIT) + end);
        assert_eq!((said.len(), run.code), (1, Some(0)), "{said:?}");
    }
}

/// What gets no answer: lines without anything on them, and notifications. Of these, standard
/// error tells, in words or as JSON.
#[test]
fn what_gets_no_answer() {
    let notification =
        r#"{"jsonrpc":"2.0","method":"create","params":{"path":"n.qcow2","size":"1M"}}"#;
    let lines = [
        "",
        "   ",
        "\t\r",
        notification,
        &super::cancel("gone"),
        &super::cancel(true),
        // What is wrong with a notification is nobody's to hear either.
        r#"{"jsonrpc":"2.0","method":"cancel","params":[1]}"#,
        r#"{"jsonrpc":"2.0","method":"info","parms":{}}"#,
        r#"{"jsonrpc":"2.0","method":"cancel","params":{"id":1,"ids":2}}"#,
    ];
    let words = [
        "notification 'create'",
        "request 'gone'",
        "need the id",
        "params must be an object",
        "unknown member 'parms'",
        "unknown field 'ids'",
    ];
    for format in ["text", "json"] {
        let (env, _) = scene();
        let before = env.contents();
        let mut session = Session::of(env.start(&format!("rpc --log-format {format}")));
        for line in lines {
            session.send(line);
        }
        session.send(request(1, "info", json!({ "path": "d.qcow2" })));
        assert_eq!(session.response().valid("info").id, 1);
        let (said, run) = session.close();
        assert!(said.is_empty() && run.code == Some(0), "{said:?} {run:?}");
        assert_eq!(env.contents(), before);
        let told: Vec<_> = run.stderr.lines().collect();
        assert_eq!(told.len(), words.len(), "{run:?}");
        for (line, words) in told.iter().zip(words) {
            let words = match format {
                "json" => words.replace('"', "\\\""),
                _ => words.to_owned(),
            };
            assert!(line.contains(&words), "{line}");
            if format == "json" {
                let entry: Value = serde_json::from_str(line).expect("a line of JSON");
                assert_eq!(entry["level"], "warning", "{entry}");
            } else {
                assert!(line.starts_with("vmdisk: warning: "), "{line}");
            }
        }
    }
}

/// The end of input ends a line too: a whole request is answered, half of one is an error.
#[test]
fn the_last_line() {
    let (env, _) = scene();
    let before = env.contents();
    let whole = request(1, "info", json!({ "path": "d.qcow2" }));
    let (said, run) = one_shot(&env, &whole);
    assert_eq!((said[0]["id"].clone(), said.len(), run.code), (json!(1), 1, Some(0)), "{said:?}");
    let create = request(1, "create", json!({ "path": "n.qcow2", "size": "1M" }));
    for half in [&whole[..40], &create[..create.len() - 1], "\"", "{"] {
        let (said, run) = one_shot(&env, half);
        assert_eq!((said.len(), run.code), (1, Some(2)), "{half}: {said:?}");
        assert_eq!(said[0]["error"]["code"], PARSE, "{said:?}");
        assert_eq!(run.stderr, "");
    }
    for nothing in ["", "\n", " \r\n \n"] {
        let (said, run) = one_shot(&env, nothing);
        assert!(said.is_empty() && run.code == Some(0) && run.stderr.is_empty(), "{run:?}");
    }
    assert_eq!(env.contents(), before);
}
