//! Progress as notifications.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::envelope::{Id, JSONRPC};
use crate::task::Progress;

/// The least time between two notifications.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Notification<'a> {
    jsonrpc: &'static str,
    method: &'static str,
    params: Params<'a>,
}

#[derive(Serialize)]
struct Params<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Id>,
    phase: &'static str,
    done: u64,
    total: u64,
    unit: &'static str,
}

/// Hands progress over as lines of JSON, at most ten a second.
pub(crate) struct ProgressLines<S> {
    id: Option<Id>,
    send: S,
    last: Mutex<Option<Instant>>,
}

impl<S: Fn(&str) + Send + Sync> ProgressLines<S> {
    /// Hands each line, with its newline, to `send`.
    pub(crate) fn new(send: S) -> Self {
        ProgressLines { id: None, send, last: Mutex::new(None) }
    }

    /// The same for a request: its lines have its id.
    pub(super) fn for_request(id: Id, send: S) -> Self {
        ProgressLines { id: Some(id), ..Self::new(send) }
    }
}

impl<S: Fn(&str) + Send + Sync> Progress for ProgressLines<S> {
    fn advance(&self, phase: &'static str, done: u64, total: u64) {
        // OK to ignore poison: it is only a time.
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        let params = Params { id: self.id.as_ref(), phase, done, total, unit: "bytes" };
        let notification = Notification { jsonrpc: JSONRPC, method: "progress", params };
        // OK to default: it is a tree of texts and numbers.
        let line = serde_json::to_string(&notification).unwrap_or_default();
        (self.send)(&(line + "\n"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The first is told at once, what follows too soon is not, and phases make no difference.
    #[test]
    fn at_most_ten_a_second_are_told() {
        let told = Mutex::new(Vec::new());
        let started = Instant::now();
        let lines = ProgressLines::for_request(Id::Text("a".to_owned()), |line: &str| {
            let line: Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
            told.lock().unwrap().push((started.elapsed(), line));
        });
        let mut done = 0;
        while told.lock().unwrap().len() < 4 {
            done += 1;
            lines.advance(if done % 2 == 0 { "even" } else { "odd" }, done, 1 << 40);
        }
        let told = told.into_inner().unwrap();
        let params =
            json!({ "id": "a", "phase": "odd", "done": 1, "total": 1_u64 << 40, "unit": "bytes" });
        assert_eq!(told[0].1, json!({ "jsonrpc": "2.0", "method": "progress", "params": params }));
        for pair in told.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(95), "{told:?}");
            assert!(pair[0].1["params"]["done"].as_u64() < pair[1].1["params"]["done"].as_u64());
        }
    }

    #[test]
    fn without_a_request_there_is_no_id() {
        let told = Mutex::new(String::new());
        let lines = ProgressLines::new(|line: &str| told.lock().unwrap().push_str(line));
        lines.advance("zeros", 0, 0);
        let told: Value = serde_json::from_str(&told.into_inner().unwrap()).unwrap();
        assert_eq!(told["params"].get("id"), None);
    }
}
