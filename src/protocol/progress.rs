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
pub struct ProgressLines<S> {
    id: Option<Id>,
    send: S,
    last: Mutex<Option<Instant>>,
}

impl<S: Fn(&str) + Send + Sync> ProgressLines<S> {
    /// Hands each line, with its newline, to `send`. `id` is that of the request, if there is one.
    pub fn new(id: Option<Id>, send: S) -> Self {
        ProgressLines { id, send, last: Mutex::new(None) }
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
