//! What is worth a line on standard error: standard output carries the protocol alone.

use serde::Serialize;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object.
    Json,
}

/// Takes lines.
#[derive(Clone, Copy)]
pub struct Log {
    format: LogFormat,
    write: fn(&str),
}

#[derive(Serialize)]
struct Entry<'a> {
    level: &'static str,
    message: &'a str,
}

impl Log {
    /// Hands each line, with its newline, to `write`.
    pub fn new(format: LogFormat, write: fn(&str)) -> Self {
        Log { format, write }
    }

    /// Something was not as it should be, and work goes on.
    pub fn warn(&self, message: &str) {
        self.entry("warning", message);
    }

    /// Something is broken.
    pub fn error(&self, message: &str) {
        self.entry("error", message);
    }

    fn entry(&self, level: &'static str, message: &str) {
        let line = match self.format {
            LogFormat::Text => format!("vmdisk: {level}: {message}\n"),
            // OK to default: two texts.
            LogFormat::Json => {
                serde_json::to_string(&Entry { level, message }).unwrap_or_default() + "\n"
            }
        };
        (self.write)(&line);
    }
}
