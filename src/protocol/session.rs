//! The request loop: lines in, lines out, in order.
//!
//! One thread reads, so that `cancel` is heard while a request runs; the caller's thread works
//! and writes, one request after the other.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::envelope::{self, Message, Notification, Refused, Response};
use super::error::{Code, ErrorObject, Fault};
use super::hint::hint;
use super::log::Log;
use super::methods::{CANCEL, Methods, Surroundings};
use super::queue::{End, Item, Queue};
use super::unknown::shortened;
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// The longest line that is read, in bytes, without its newline.
pub(super) const MAX_LINE: usize = 1 << 20;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its input ended, and every line was answered; with one request alone, what it failed with,
    /// if it failed.
    Answered(Option<ErrorKind>),
    /// It was stopped; what had come until then was answered.
    Stopped,
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
    /// `cancel` stops every request; what happens to this session does not trip it.
    pub fn new(cancel: &Cancel, log: Log) -> Self {
        let methods = Methods::all();
        Session { queue: Arc::default(), cancel: cancel.child(), log, methods }
    }

    /// What stops the session from any thread: the request that runs and those that wait are
    /// answered `cancelled`.
    pub fn stopper(&self) -> impl FnOnce() + Send + 'static {
        let (queue, cancel) = (self.queue.clone(), self.cancel.clone());
        move || {
            cancel.trip();
            queue.end(End::Stopped);
        }
    }

    /// Reads requests until the end of `input`, or until it is stopped, and answers each. `output`
    /// has the answers; progress is written where `has_room` says that so many bytes can be,
    /// without waiting for whoever reads. The thread that reads outlives this call until its read
    /// returns.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when `input` cannot be read; or `output` not written, unless nobody reads
    /// it.
    pub fn serve(
        self,
        input: impl BufRead + Send + 'static,
        output: impl Write + Send,
        has_room: impl Fn(usize) -> bool + Sync,
    ) -> Result<Ended> {
        let reader = Reader {
            queue: self.queue.clone(),
            cancel: self.cancel.clone(),
            log: self.log.clone(),
        };
        let failed = |error| Error::new(ErrorKind::Io, "cannot start to read").with_source(error);
        let reading = std::thread::Builder::new().name("read".to_owned());
        reading.spawn(move || reader.read(input)).map_err(failed)?;
        let output = Output::new(output, &self.cancel);
        let offer = |line: &str| {
            if has_room(line.len()) {
                output.send(line)
            }
        };
        let ended = self.work(&output, &offer);
        self.queue.close();
        ended
    }

    fn work<W: Write + Send>(
        &self,
        output: &Output<W>,
        offer: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Ended> {
        let (mut answers, mut only) = (0u64, None);
        while let Some(item) = self.queue.next() {
            let answer = self.answer(item, offer);
            output.send(&answer.line);
            if let Some(end) = output.end()? {
                return Ok(end);
            }
            if answer.failed == Some(ErrorKind::Internal) {
                return Ok(Ended::Broken);
            }
            answers += 1;
            only = answer.failed.filter(|_| answers == 1);
        }
        match self.queue.why() {
            Some(End::Failed(error)) => {
                let message = "cannot read the requests from standard input";
                Err(Error::new(ErrorKind::Io, message).with_source(error))
            }
            Some(End::Stopped) => Ok(Ended::Stopped),
            Some(End::Input) | None => Ok(Ended::Answered(only)),
        }
    }

    fn answer(&self, item: Item, offer: &(dyn Fn(&str) + Send + Sync)) -> Answer {
        let (id, method, outcome) = match item {
            Item::Refused(Refused { id, fault }) => (id, String::new(), Err(fault)),
            Item::Request(request, cancel) => {
                let (id, method) = (request.id.clone(), request.method.clone());
                let around = Surroundings { cancel: &cancel, send: offer };
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
        // Should reading panic, the session ends all the same.
        let unwinding = EndOnDrop(&self.queue);
        let end = self.read_all(&mut input);
        self.queue.end(end.map_or_else(End::Failed, |()| End::Input));
        drop(unwinding);
    }

    fn read_all(&self, input: &mut impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        while let Some(read) = next_line(input, &mut line)? {
            match read {
                Line::Whole if line.trim_ascii().is_empty() => {}
                Line::Whole => self.take(&line),
                Line::TooLong => {
                    let why = format!("a line has more than {MAX_LINE} bytes");
                    let fault = Fault::new(Code::InvalidRequest, why);
                    self.queue.push(Item::Refused(Refused { id: None, fault }), 0);
                }
            }
        }
        Ok(())
    }

    fn take(&self, line: &[u8]) {
        let item = match envelope::read(line) {
            Err(refused) => Item::Refused(refused),
            Ok(Message::Request(request)) => Item::Request(request, self.cancel.child()),
            Ok(Message::Notification(notification)) => return self.notified(&notification),
            Ok(Message::Ignored(why)) => {
                return self.log.warn(&format!("ignored: a notification (it has no id): {why}"));
            }
        };
        self.queue.push(item, line.len());
    }

    fn notified(&self, notification: &Notification) {
        let Notification { method, params } = notification;
        if method != CANCEL {
            let method = shortened(method);
            self.log.warn(&format!("ignored: a notification '{method}' (a request has an id)"));
            return;
        }
        match params.named_id() {
            Ok(Some(id)) if self.queue.cancel(&id) => {}
            Ok(Some(id)) => {
                let id = id.to_string();
                let id = shortened(&id);
                self.log.warn(&format!("cancel: nothing is known of request '{id}'"));
            }
            Ok(None) => self.log.warn("cancel: params need the id of a request"),
            Err(fault) => self.log.warn(&format!("cancel: {}", fault.error)),
        }
    }
}

/// Ends the queue whatever happens.
struct EndOnDrop<'a>(&'a Queue);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(End::Failed(io::Error::other("the reader has a defect")));
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
    writer: Mutex<Writer<W>>,
    cancel: &'a Cancel,
}

struct Writer<W> {
    to: W,
    failed: Option<io::Error>,
}

impl<'a, W: Write> Output<'a, W> {
    fn new(to: W, cancel: &'a Cancel) -> Self {
        Output { writer: Mutex::new(Writer { to, failed: None }), cancel }
    }

    /// Writes a line. Should that fail, the session is stopped.
    fn send(&self, line: &str) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.failed.is_some() {
            return;
        }
        let written = writer.to.write_all(line.as_bytes()).and_then(|()| writer.to.flush());
        if let Err(error) = written {
            writer.failed = Some(error);
            self.cancel.trip();
        }
    }

    /// What became of the lines so far.
    fn end(&self) -> Result<Option<Ended>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.failed.take() {
            None => Ok(None),
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(Ended::Unheard)),
            Some(error) => {
                let message = "cannot write the answers to standard output";
                Err(Error::new(ErrorKind::Io, message).with_source(error))
            }
        }
    }
}
