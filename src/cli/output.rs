//! What is printed: text for people, or one JSON object.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use super::colour::{ASIDE, BAD, Colours};
use super::flags::OutputFlags;
use super::hint::aftermath;
use crate::error::{Case, Error, Result};
use crate::protocol::{ErrorObject, Reply};

/// The note on a disk that somebody may be writing to.
pub(super) const IN_USE: &str = "in use: what is told may be out of date already";

/// Text or JSON, and how much of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
}

#[derive(Serialize)]
struct Failure {
    error: ErrorObject,
}

impl Output {
    pub(super) fn new(flags: &OutputFlags) -> Self {
        Output { json: flags.json, quiet: flags.quiet }
    }

    /// For what was typed and not understood.
    pub(super) fn of_typed(json: bool) -> Self {
        Output { json, quiet: false }
    }

    /// Whether one JSON object is printed.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether nothing is told that was not asked for.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The colours of what is told in text.
    pub(super) fn colours(&self) -> Colours {
        Colours::of(&std::io::stdout())
    }

    /// Notes, a line each, unless only what was asked for is told.
    pub(super) fn notes(&self, notes: &[String]) -> String {
        if self.quiet { String::new() } else { self::notes(notes) }
    }

    /// Prints what was asked for, as JSON or as `text` tells it.
    pub(super) fn report<R: Serialize>(
        &self,
        report: &R,
        text: impl FnOnce(&R) -> String,
    ) -> Result<()> {
        let line = if self.json { json(&Reply::new(report)) } else { text(report) };
        print(&line)
    }

    /// Prints what became of a disk: its exit code says the same, so that in text only who is not
    /// quiet is told.
    pub(super) fn outcome<R: Serialize>(
        &self,
        report: &R,
        text: impl FnOnce(&R) -> String,
    ) -> Result<()> {
        match self.quiet && !self.json {
            true => Ok(()),
            false => self.report(report, text),
        }
    }

    /// Prints an error: as text on standard error, as JSON on standard output.
    pub(super) fn error(&self, error: &Error, hint: Option<&str>) {
        if self.json {
            let printed = print(&json(&Failure { error: ErrorObject::new(error, hint) }));
            if printed.is_ok() {
                return;
            }
        }
        let colours = Colours::of(&std::io::stderr());
        let mut text = format!("{} {error}\n", colours.paint(BAD, "vmdisk:"));
        if let Some(hint) = hint {
            text.push_str(&format!("{} {hint}\n", colours.paint(ASIDE, "hint:")));
        }
        if let Some(aftermath) = aftermath(error) {
            text.push_str(&format!("note: {aftermath}\n"));
        }
        // Nowhere to say that standard error is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn json<T: Serialize>(value: &T) -> String {
    // OK to default: every report is a tree of texts, numbers and lists.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Prints what is JSON in any case, and nothing beside it.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    print(&json(value))
}

/// Writes to standard output. Whoever closed it does not want to know: that is no failure; a full
/// disk behind it is one.
pub(super) fn print(text: &str) -> Result<()> {
    print_by(|out| out.write_all(format!("{}\n", text.trim_end()).as_bytes()))
}

/// Lets `write` write to standard output, piece by piece.
pub(super) fn print_by(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = Error::io("cannot write the report", Path::new("standard output"), error);
            Err(error.in_case(Case::Unheard))
        }
        _ => Ok(()),
    }
}

/// Notes, a line each.
pub(super) fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("  note: {note}\n")).collect()
}
