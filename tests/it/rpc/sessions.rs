//! Many requests: each is answered once, in order, whatever its id, and however late the client
//! listens.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Session, cancel, one_shot, request};
use crate::support::Env;

fn full(path: &str, size: &str) -> Value {
    json!({ "path": path, "size": size, "layout": { "preallocation": "full" } })
}

/// Answers come in the order of the requests, faults and all, and what was read before the end of
/// input is finished: later requests see what earlier ones made.
#[test]
fn in_order() {
    let env = Env::new();
    let lines = [
        request(1, "create", json!({ "path": "d.qcow2", "size": "1M" })),
        request("two", "info", json!({ "path": "d.qcow2" })),
        "nonsense".to_owned(),
        request(4, "resize", full("d.qcow2", "64M")),
        request(5, "resize", json!({ "path": "d.qcow2", "size": "64M" })),
        String::new(),
        request(6, "nothing", json!({})),
        request(7, "info", json!({ "path": "d.qcow2" })),
    ];
    let (said, run) = one_shot(&env, lines.join("\n"));
    let ids: Vec<_> = said.iter().map(|line| line["id"].clone()).collect();
    assert_eq!(json!(ids), json!([1, "two", null, 4, 5, 6, 7]));
    let ends: Vec<_> = said.iter().map(|line| line.get("result").is_some()).collect();
    assert_eq!(ends, [true, true, false, false, true, false, true], "{said:#?}");
    assert_eq!(said[6]["result"]["virtual_size_bytes"], 64 << 20);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

/// One request alone ends as a verb would; several that were answered end well.
#[test]
fn exit_codes() {
    let env = Env::new();
    env.report("create d.qcow2 --size 1M");
    let good = request(1, "info", json!({ "path": "d.qcow2" }));
    let failed = request(2, "info", json!({ "path": "missing" }));
    let wrong = request(3, "info", json!({ "paht": "d.qcow2" }));
    let locked = request(4, "resize", json!({ "path": "d.qcow2", "size": "2M" }));
    let cancel = cancel(1);
    let held = std::fs::File::open(env.path("d.qcow2")).expect("the disk");
    held.lock().expect("a lock");
    for (lines, code) in [
        (vec![&good], 0),
        (vec![&failed], 1),
        (vec![&wrong], 2),
        (vec![&locked], 75),
        // A notification is no request.
        (vec![&cancel, &locked, &cancel], 75),
        (vec![&cancel], 0),
        (vec![&failed, &failed], 0),
        (vec![&locked, &good], 0),
        (vec![&good, &wrong, &failed], 0),
    ] {
        let input = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let (said, run) = one_shot(&env, input);
        let requests = lines.iter().filter(|line| !line.contains("cancel")).count();
        assert_eq!((said.len(), run.code), (requests, Some(code)), "{lines:?}: {run:?}");
    }
}

/// An id comes back as it was: the same text, the same number.
#[test]
fn ids() {
    let env = Env::new();
    let mut session = Session::new(&env);
    let long = format!("\"{}\"", "i".repeat(100_000));
    for id in [
        "0",
        "-1",
        "18446744073709551615",
        "-9223372036854775808",
        "1.5",
        "-0.0",
        "1e100",
        "1.7976931348623157e308",
        "5e-324",
        "0.1",
        "123456789012345678901234567890",
        r#""""#,
        r#""1""#,
        r#""null""#,
        r#""\u0000\n\"\\é\ud83d\ude00""#,
        r#""x-y""#,
        &long,
    ] {
        for method in ["capabilities", "nothing"] {
            let line = format!(r#"{{"id":{id},"jsonrpc":"2.0","method":"{method}"}}"#);
            session.send(line);
            let expected: Value = serde_json::from_str(id).expect("an id");
            assert_eq!(session.response().valid(method).id, expected, "{id}");
        }
    }
    // Two at a time may have the same.
    session.write(format!("{0}\n{0}\n", request(1, "capabilities", json!({}))));
    assert_eq!((session.response().id, session.response().id), (json!(1), json!(1)));
}

/// A request that waits can be called off: it is answered in its turn, and never begun. What is
/// done, or never was, cannot; the same id may be used again.
#[test]
fn what_waits_is_called_off() {
    let env = Env::new();
    let mut session = Session::new(&env);
    session.send(request("runs", "create", full("runs.raw", "300M")));
    session.send(request("waits", "create", full("waits.raw", "1M")));
    session.send(request(3, "create", json!({ "path": "other.raw", "size": "1M" })));
    session.send("nonsense");
    session.send(cancel("waits"));
    session.send(cancel("3"));
    let first = session.response();
    assert!(first.id == "runs" && first.outcome.is_ok(), "{first:?}");
    let second = session.response().valid("");
    assert_eq!((second.id.clone(), second.kind()), (json!("waits"), "cancelled"), "{second:?}");
    assert_eq!(second.error()["data"]["changed"], false);
    // That one has a number for an id.
    assert!(session.response().outcome.is_ok());
    assert_eq!(session.response().id, Value::Null);
    assert_eq!(env.names(), ["other.raw", "runs.raw"]);
    for id in ["runs", "waits", "unheard of"] {
        session.send(cancel(id));
    }
    session.send(request("waits", "create", full("waits.raw", "1M")));
    assert!(session.response().valid("create").outcome.is_ok());
    let (said, run) = session.close();
    assert!(said.is_empty() && run.code == Some(0), "{said:?}");
    // Whoever has a wrong id in mind is told.
    assert_eq!(run.stderr.matches("nothing is known of request").count(), 4, "{run:?}");
}

/// Every verb that `capabilities` names is a command, a method of the document, and answered;
/// and the document has no others.
#[test]
fn verbs_are_known_everywhere() {
    let env = Env::new();
    let mut session = Session::new(&env);
    let asked = session.ask("capabilities", json!({ "folder": "." }));
    let verbs: Vec<_> = asked.result()["verbs"].as_array().expect("verbs").iter().collect();
    let verbs: BTreeSet<_> = verbs.iter().filter_map(|verb| verb.as_str()).collect();
    for verb in &verbs {
        // On the command line that is `check --undo`.
        let command = match *verb {
            "undo_repair" => "check".to_owned(),
            // An action of a command.
            verb => verb.replacen('_', " ", 1),
        };
        assert_eq!(env.vmdisk(&format!("{command} --help")).exits(0).stderr, "");
        session.send(request(1, verb, json!({ "no-such-field": 1 })));
        let answer = session.response();
        assert_eq!(answer.error()["code"], -32602, "{verb}: {answer:?}");
    }
    let documented = super::schema::methods().filter(|method| method.get("result").is_some());
    let documented: BTreeSet<_> = documented.filter_map(|method| method["name"].as_str()).collect();
    let own = BTreeSet::from(["rpc.discover"]);
    assert_eq!(verbs.union(&own).copied().collect::<BTreeSet<_>>(), documented);
}
