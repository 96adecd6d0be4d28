//! The JSON-RPC server, as a client meets it: a process, its standard streams, and the published
//! document to hold every answer against.

mod endings;
mod fields;
mod hostile;
#[cfg(target_os = "linux")]
mod memory;
mod progress;
mod promise;
mod random;
mod schema;
mod sessions;
mod twins;
mod values;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use serde_json::{Value, json};

use self::schema::checked;
use crate::support::{Env, PATIENCE, Run, Running, VMDISK};

/// A request in one line.
fn request(id: impl Into<Value>, method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params }).to_string()
}

/// The notification that calls a request off.
fn cancel(id: impl Into<Value>) -> String {
    let params = json!({ "id": id.into() });
    json!({ "jsonrpc": "2.0", "method": "cancel", "params": params }).to_string()
}

/// `vmdisk rpc`, kept open.
struct Session {
    running: Running,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    asked: u64,
}

impl Session {
    fn new(env: &Env) -> Session {
        Session::of(env.start("rpc"))
    }

    /// Talks to a program that runs already. A thread reads what it says as it comes.
    fn of(mut running: Running) -> Session {
        let (stdin, stdout) = (Some(running.stdin()), running.stdout());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Session { running, stdin, lines, asked: 0 }
    }

    /// Sends bytes as they are.
    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("an open session");
        stdin.write_all(bytes.as_ref()).and_then(|()| stdin.flush()).expect("a server that reads");
    }

    /// Sends a line.
    fn send(&mut self, line: impl AsRef<[u8]>) {
        self.write([line.as_ref(), b"\n"].concat());
    }

    /// The next line, which is to come.
    #[track_caller]
    fn line(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("no line: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line, which is to be a response.
    #[track_caller]
    fn response(&self) -> Response {
        Response::of(self.line())
    }

    /// Asks, and returns the answer: the next line there is, held against the document.
    #[track_caller]
    fn ask(&mut self, method: &str, params: Value) -> Response {
        self.asked += 1;
        let id = format!("ask-{}", self.asked);
        self.send(request(id.clone(), method, params));
        let response = self.response();
        assert_eq!(response.id, id, "{response:?}");
        response.valid(method)
    }

    /// Sends what is to be refused with this code and kind, and makes sure that this is the only
    /// answer and that the session is well.
    #[track_caller]
    fn refused(&mut self, line: impl AsRef<[u8]>, code: i64, kind: &str) -> Response {
        let line = line.as_ref();
        self.send(line);
        let shown = String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
        let response = self.response();
        assert!(response.outcome.is_err(), "{shown}: {response:?}");
        let response = response.valid("");
        let error = response.error();
        assert_eq!(error["code"], code, "{shown}: {error:#}");
        assert_eq!(error["data"]["kind"], kind, "{shown}: {error:#}");
        assert_eq!(error["data"]["changed"], false, "{shown}: {error:#}");
        let alive = self.ask("capabilities", json!({ "folder": "." }));
        assert!(alive.outcome.is_ok(), "{shown}: {alive:?}");
        response
    }

    /// Ends the input; returns what was said from here on, and how it ended.
    #[track_caller]
    fn close(mut self) -> (Vec<Value>, Run) {
        drop(self.stdin.take());
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => said.push(serde_json::from_str(&line).expect("a line of JSON")),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        (said, self.running.wait())
    }
}

/// A response, its envelope in order.
#[derive(Debug)]
struct Response {
    id: Value,
    outcome: Result<Value, Value>,
}

impl Response {
    #[track_caller]
    fn of(line: Value) -> Response {
        let whole = line.to_string();
        let Value::Object(mut members) = line else { panic!("no object: {whole}") };
        assert_eq!(members.remove("jsonrpc"), Some(json!("2.0")), "{whole}");
        let id = members.remove("id").unwrap_or_else(|| panic!("no id: {whole}"));
        let outcome = match (members.remove("result"), members.remove("error")) {
            (Some(result), None) => Ok(result),
            (None, Some(error)) => Err(error),
            _ => panic!("one of result and error: {whole}"),
        };
        assert!(members.is_empty(), "more than a response: {whole}");
        Response { id, outcome }
    }

    /// Holds it against the document, as an answer of this method.
    #[track_caller]
    fn valid(self, method: &str) -> Response {
        checked(method, &self.outcome);
        self
    }

    #[track_caller]
    fn result(&self) -> &Value {
        self.outcome.as_ref().unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[track_caller]
    fn error(&self) -> &Value {
        self.outcome.as_ref().expect_err("an error")
    }

    #[track_caller]
    fn kind(&self) -> &str {
        self.error()["data"]["kind"].as_str().expect("a kind")
    }
}

/// Pipes `input` into `vmdisk rpc` and ends it. Returns the lines of its answer, and its end.
#[track_caller]
fn one_shot(env: &Env, input: impl AsRef<[u8]>) -> (Vec<Value>, Run) {
    let mut session = Session::new(env);
    session.write(input);
    session.close()
}

/// `vmdisk rpc` where `shell` has set something up before it is run as `"$0" rpc`.
fn under(env: &Env, shell: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", shell, VMDISK]).current_dir(env.path(""));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::of(command)
}
