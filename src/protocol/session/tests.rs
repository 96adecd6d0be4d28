use std::io::{BufReader, Cursor};

use serde_json::{Value, json};

use super::*;
use crate::protocol::envelope::Id;

fn session(cancel: &Cancel) -> Session {
    let mut session = Session::new(cancel);
    session.methods = Methods::all()
        .and("panics", |request, _| {
            match request.params.read().unwrap().contains_key("formatted") {
                true => panic!("the {} is out of bounds", "index"),
                false => panic!("a plain text"),
            }
        })
        .and("stops", |_, around| {
            around.cancel.trip();
            Ok(around.cancel.check().map(|()| Box::default())?)
        })
        .and("waits", |_, around| {
            while !around.cancel.is_tripped() {
                std::thread::yield_now();
            }
            Ok(around.cancel.check().map(|()| Box::default())?)
        });
    session
}

fn request(id: u64, method: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method }).to_string() + "\n"
}

fn served(input: String) -> (Ended, Vec<Value>) {
    let mut output = Vec::new();
    let ended =
        session(&Cancel::new()).serve(Cursor::new(input), drop, &mut output, |_| true).unwrap();
    let lines = std::str::from_utf8(&output).unwrap().lines();
    (ended, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// A defect of ours, in the middle of a session: one whole error in its turn, which promises
/// nothing about files, and nothing after it.
#[test]
fn a_panic_is_answered_and_is_the_end() {
    for (params, words) in [("{}", "a plain text"), (r#"{"formatted":1}"#, "the index is out")] {
        let panics = request(2, "panics").replace("\"id\"", &format!("\"params\":{params},\"id\""));
        let (ended, lines) = served(request(1, "capabilities") + &panics + &request(3, "info"));
        assert_eq!((ended, lines.len()), (Ended::Broken, 2), "{lines:?}");
        assert_eq!((&lines[0]["id"], lines[0]["result"].is_object()), (&json!(1), true));
        let error = &lines[1]["error"];
        assert_eq!((&lines[1]["id"], lines[1].get("result")), (&json!(2), None));
        assert_eq!(error["code"], ErrorKind::Internal.code());
        assert_eq!(
            (&error["data"]["kind"], &error["data"]["changed"]),
            (&json!("internal"), &json!(true))
        );
        assert!(error["message"].as_str().unwrap().contains(words), "{error:#}");
    }
}

/// What stops one request stops no other; the end of the only one is that of the session.
#[test]
fn a_request_stops_alone() {
    let (ended, lines) = served(request(1, "stops") + &request(2, "capabilities"));
    assert_eq!(lines[0]["error"]["data"]["kind"], "cancelled");
    assert!(lines[1]["result"].is_object());
    assert_eq!(ended, Ended::Answered(None));
    assert_eq!(served(request(1, "stops")).0, Ended::Answered(Some(ErrorKind::Cancelled)));
    assert_eq!(served(String::new()).0, Ended::Answered(None));
}

/// Stopped from outside, it answers what runs and what waits, though its input never ends.
#[test]
fn a_stopped_session_answers_what_it_has() {
    let (input, mut sender) = std::io::pipe().unwrap();
    let cancel = Cancel::new();
    let session = session(&cancel);
    let stop = session.stopper();
    sender.write_all((request(1, "waits") + &request(2, "waits")).as_bytes()).unwrap();
    let mut output = Vec::new();
    let queue = session.queue.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let known = |id: u64| queue.knows(&Id::Number(id.to_string()));
            while !(known(1) && known(2)) {
                std::thread::yield_now();
            }
            stop();
        });
        session.serve(BufReader::new(input), drop, &mut output, |_| true).unwrap();
    });
    let lines: Vec<_> = std::str::from_utf8(&output).unwrap().lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.contains("\"cancelled\"")), "{lines:?}");
    drop(sender);
}

struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whoever goes away wants no more work; whatever else keeps answers from being written is an
/// error. Either stops what runs.
#[test]
fn answers_that_cannot_be_written() {
    let serve = |kind| {
        let cancel = Cancel::new();
        let input = request(1, "capabilities") + &request(2, "waits");
        let ended = session(&cancel).serve(Cursor::new(input), drop, Broken(kind), |_| true);
        assert!(!cancel.is_tripped(), "another session of the same caller goes on");
        ended
    };
    assert_eq!(serve(io::ErrorKind::BrokenPipe).unwrap(), Ended::Unheard);
    assert_eq!(serve(io::ErrorKind::StorageFull).unwrap_err().kind(), ErrorKind::Io);
}

/// Lines of every length around the limit, however they end and however they arrive: whole, or
/// refused in one piece, with no more memory than the limit.
#[test]
fn lines_are_bounded() {
    for end in ["\n", ""] {
        for (len, whole) in [
            (1, true),
            (MAX_LINE - 1, true),
            (MAX_LINE, true),
            (MAX_LINE + 1, false),
            (3 * MAX_LINE, false),
        ] {
            let first = "x".repeat(len) + "\n";
            let text = first + "\n" + &"y".repeat(len) + end;
            for capacity in [1000, 64 << 10, 8 * MAX_LINE] {
                let mut input = BufReader::with_capacity(capacity, text.as_bytes());
                let mut line = Vec::new();
                for expected in ["x", "", "y"] {
                    let read = next_line(&mut input, &mut line).unwrap();
                    match read {
                        Some(Line::Whole) if expected.is_empty() => assert!(line.is_empty()),
                        Some(Line::Whole) => {
                            assert!(whole, "{len} bytes were read");
                            assert!(line == expected.repeat(len).as_bytes(), "{len}: another line");
                        }
                        Some(Line::TooLong) => assert!(!whole && !expected.is_empty(), "{len}"),
                        None => panic!("{len}: no line of {expected}"),
                    }
                    assert!(line.capacity() <= 2 * MAX_LINE + 2, "{}", line.capacity());
                }
                assert!(next_line(&mut input, &mut line).unwrap().is_none());
            }
        }
    }
}
