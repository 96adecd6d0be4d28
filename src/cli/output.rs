//! What is printed: text for people, or one JSON object.

use std::io::Write;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::protocol::ErrorObject;

/// Text or JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

#[derive(Serialize)]
struct Failure {
    error: ErrorObject,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Output { json }
    }

    /// Prints a report, as JSON or as `text` tells it.
    pub(super) fn report<R: Serialize>(
        &self,
        report: &R,
        text: impl FnOnce(&R) -> String,
    ) -> Result<()> {
        let line = if self.json { json(report) } else { text(report) };
        print(&line);
        Ok(())
    }

    /// Prints an error: as text on standard error, as JSON on standard output.
    pub(super) fn error(&self, error: &Error, hint: Option<&str>) {
        if self.json {
            print(&json(&Failure { error: ErrorObject::new(error, hint) }));
            return;
        }
        let mut text = format!("vmdisk: {error}\n");
        if let Some(hint) = hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        // Nowhere to say that standard error is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // OK to default: every report is a tree of texts, numbers and lists.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Whoever closed standard output does not want to know: the work is done.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.trim_end().as_bytes()).and_then(|()| out.write_all(b"\n"));
    let _ = out.flush();
}

/// Notes, a line each.
pub(super) fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("  note: {note}\n")).collect()
}
