//! The request loop: lines in, lines out, in order.
//!
//! One thread reads, so that `cancel` is heard while a request runs; the caller's thread works
//! and writes, one request after the other.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::envelope::{self, Id, Message, Notification, Refused, Response};
use super::error::{Code, ErrorObject, Fault};
use super::hint::hint;
use super::log::Log;
use super::methods::{CANCEL, Methods, Surroundings};
use super::queue::{Item, Queue};
use super::unknown::{is_extension, message};
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// The longest line that is read, in bytes, without its newline.
pub(super) const MAX_LINE: usize = 1 << 20;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every line was answered; with one request alone, what it failed with, if it failed.
    Answered(Option<ErrorKind>),
    /// Nobody reads the answers any more.
    Unheard,
    /// A defect of ours was met, answered, and nothing after it.
    Broken,
}

/// A session that is about to be served.
pub struct Session {
    queue: Arc<Queue>,
    cancel: Cancel,
    log: Log,
    methods: Methods,
}

impl Session {
    /// `cancel` stops every request.
    pub fn new(cancel: &Cancel, log: Log) -> Self {
        let methods = Methods::all();
        Session { queue: Arc::default(), cancel: cancel.clone(), log, methods }
    }

    /// What ends the session from any thread, after what waits has been answered. To be called
    /// once `cancel` is tripped.
    pub fn stopper(&self) -> impl FnOnce() + Send + 'static {
        let queue = self.queue.clone();
        move || queue.end()
    }

    /// Reads requests until the end of `input`, or until it is stopped, and answers each.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] and the like when `input` cannot be read; or `output` not written, unless
    /// nobody reads it.
    pub fn serve(
        self,
        input: impl BufRead + Send + 'static,
        output: impl Write + Send,
    ) -> Result<Ended> {
        let reader =
            Reader { queue: self.queue.clone(), cancel: self.cancel.clone(), log: self.log };
        let failed = |error| Error::new(ErrorKind::Io, "cannot start to read").with_source(error);
        let reading = std::thread::Builder::new().name("read".to_owned());
        reading.spawn(move || reader.read(input)).map_err(failed)?;
        self.work(&Output::new(output, &self.cancel))
    }

    fn work<W: Write + Send>(&self, output: &Output<W>) -> Result<Ended> {
        let mut answers = Vec::new();
        while let Some(item) = self.queue.next() {
            let answer = self.answer(item, output);
            output.send(&answer.line);
            if let Some(end) = output.end()? {
                return Ok(end);
            }
            if answer.failed == Some(ErrorKind::Internal) {
                return Ok(Ended::Broken);
            }
            answers.push(answer.failed);
            answers.truncate(2);
        }
        if let Some(error) = self.queue.failure() {
            let input = Path::new("standard input");
            return Err(Error::io("cannot read the requests", input, error));
        }
        Ok(Ended::Answered(if answers.len() == 1 { answers[0] } else { None }))
    }

    fn answer<W: Write + Send>(&self, item: Item, output: &Output<W>) -> Answer {
        let (id, method, outcome) = match item {
            Item::Refused(Refused { id, fault }) => (id, String::new(), Err(fault)),
            Item::Request(request, cancel) => {
                let (id, method) = (request.id.clone(), request.method.clone());
                let around = Surroundings { cancel: &cancel, send: &|line| output.send(line) };
                (Some(id), method, self.methods.call(request, &around))
            }
        };
        let object = |fault| ErrorObject::of(fault, hint(&method, &fault.error));
        let outcome = outcome.as_ref().map_err(|fault| (fault.error.kind(), object(fault)));
        let response = match &outcome {
            Ok(result) => Response::new(id.as_ref(), Ok(result)),
            Err((_, object)) => Response::new(id.as_ref(), Err(object)),
        };
        // OK to default: it is a tree of texts and numbers.
        let line = serde_json::to_string(&response).unwrap_or_default() + "\n";
        Answer { line, failed: outcome.err().map(|(kind, _)| kind) }
    }
}

/// What is said about one item.
struct Answer {
    line: String,
    failed: Option<ErrorKind>,
}

/// The thread that reads.
struct Reader {
    queue: Arc<Queue>,
    cancel: Cancel,
    log: Log,
}

impl Reader {
    fn read(&self, mut input: impl BufRead) {
        let mut line = Vec::new();
        loop {
            match next_line(&mut input, &mut line) {
                Ok(Some(Line::Whole)) if line.trim_ascii().is_empty() => {}
                Ok(Some(Line::Whole)) => self.take(&line),
                Ok(Some(Line::TooLong)) => {
                    let why = format!("a line has more than {MAX_LINE} bytes");
                    let fault = Fault::new(Code::InvalidRequest, why);
                    self.queue.push(Item::Refused(Refused { id: None, fault }), 0);
                }
                Ok(None) => return self.queue.end(),
                Err(error) => return self.queue.fail(error),
            }
        }
    }

    fn take(&self, line: &[u8]) {
        let item = match envelope::read(line) {
            Err(refused) => Item::Refused(refused),
            Ok(Message::Request(request)) => Item::Request(request, self.cancel.child()),
            Ok(Message::Notification(notification)) => return self.notified(&notification),
        };
        self.queue.push(item, line.len());
    }

    fn notified(&self, notification: &Notification) {
        let Notification { method, params } = notification;
        if method != CANCEL {
            let method = method.escape_debug();
            self.log.warn(&format!("ignored: a notification '{method}' (a request has an id)"));
            return;
        }
        if let Some(unknown) = params.keys().find(|name| *name != "id" && !is_extension(name)) {
            self.log.warn(&message("field of cancel", unknown, None));
        }
        match params.get("id").cloned().and_then(Id::new) {
            Some(id) if self.queue.cancel(&id) => {}
            Some(id) => self.log.warn(&format!("cancel: nothing is known of request {id}")),
            None => self.log.warn("cancel: params need the id of a request"),
        }
    }
}

/// What was read.
enum Line {
    /// A line without its newline.
    Whole,
    /// Nothing that can be used.
    TooLong,
}

/// Reads up to the next newline, or to the end of input. Memory is bounded by [`MAX_LINE`].
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
    line.clear();
    // OK: a constant, and one for the newline.
    if input.take(MAX_LINE as u64 + 1).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > MAX_LINE {
        input.skip_until(b'\n')?;
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(Line::Whole))
}

/// Where lines are written, until nobody reads them.
struct Output<'a, W> {
    writer: Mutex<(W, Option<io::Error>)>,
    cancel: &'a Cancel,
}

impl<'a, W: Write> Output<'a, W> {
    fn new(writer: W, cancel: &'a Cancel) -> Self {
        Output { writer: Mutex::new((writer, None)), cancel }
    }

    /// Writes a line. Should that fail, whatever runs is stopped.
    fn send(&self, line: &str) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, failed) = &mut *writer;
        if failed.is_none() {
            let written = writer.write_all(line.as_bytes()).and_then(|()| writer.flush());
            *failed = written.err();
            if failed.is_some() {
                self.cancel.trip();
            }
        }
    }

    /// What became of the lines so far.
    fn end(&self) -> Result<Option<Ended>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.1.take() {
            None => Ok(None),
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Ended::Unheard)),
            Some(error) => {
                Err(Error::io("cannot write the answers", Path::new("standard output"), error))
            }
        }
    }
}
