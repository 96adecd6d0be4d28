//! What is worth a line on standard error: standard output carries the protocol alone.

use std::sync::Arc;

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
#[derive(Clone)]
pub struct Log {
    format: LogFormat,
    write: Arc<dyn Fn(&str) + Send + Sync>,
}

#[derive(Serialize)]
struct Entry<'a> {
    level: &'static str,
    message: &'a str,
}

impl Log {
    /// Hands each line, with its newline, to `write`.
    pub fn new(format: LogFormat, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Log { format, write: Arc::new(write) }
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
