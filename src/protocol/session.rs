//! The request loop: lines in, lines out, in order.
//!
//! The caller's thread works and writes, one request after the other. Another one reads, as soon as
//! there is something to do that can be cancelled, so that `cancel` is heard while it is done.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz_tests;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use super::envelope::{self, Id, Message, Notification, Refused, Response};
use super::error::{Code, ErrorObject, Fault};
use super::hint::hint;
use super::lines::{Line, MAX_LINE, Output, next_line};
use super::methods::{CANCEL, Methods, Surroundings};
use super::queue::{End, Item, Queue};
use super::unknown::shortened;
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

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
    methods: Methods,
}

impl Session {
    /// `cancel` stops every request; what happens to this session does not trip it. What gets no
    /// answer, and what is told of requests beside their answers, goes to the [`log`].
    pub fn new(cancel: &Cancel) -> Self {
        Session { queue: Arc::default(), cancel: cancel.child(), methods: Methods::all() }
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
    /// without waiting for whoever reads.
    ///
    /// What takes no time is answered by whoever reads: nothing could be cancelled of it, and
    /// handing it over would cost a short call a quarter of its time. Once a request can take its
    /// time, a thread of its own reads on; it hands the input to `at_end` when that has ended, and
    /// outlives this call until both have returned.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when `input` cannot be read; or `output` not written, unless nobody reads
    /// it.
    pub fn serve<I: BufRead + Send + 'static>(
        self,
        input: I,
        at_end: impl FnOnce(I) + Send + 'static,
        output: impl Write + Send,
        has_room: impl Fn(usize) -> bool + Sync,
    ) -> Result<Ended> {
        let output = Output::new(output, &self.cancel);
        let offer = |line: &str| {
            if has_room(line.len()) {
                output.send(line)
            }
        };
        let mut worker =
            Worker { session: &self, output: &output, offer: &offer, answers: 0, only: None };
        let (queue, cancel) = (self.queue.clone(), self.cancel.clone());
        let mut reader = Reader { input, line: Vec::new(), queue, cancel };
        // Alone, until there is something to do for which somebody else has to read on.
        let rest = loop {
            match reader.next() {
                Err(error) => break self.end(End::Failed(error)),
                Ok(None) => break self.end(End::Input),
                Ok(Some((item, len))) if self.can_be_long(&item) => {
                    self.queue.push(item, len);
                    break Rest::Queue;
                }
                Ok(Some((item, _))) => {
                    let answer = self.answer(item, &offer);
                    if !has_room(answer.line.len()) {
                        break Rest::Answer(answer);
                    }
                    if let Some(ended) = worker.tell(&answer)? {
                        return Ok(ended);
                    }
                }
            }
        };
        if !matches!(rest, Rest::Nothing) {
            reader.go_on(at_end)?;
        }
        let ended = worker.work(rest);
        self.queue.close();
        ended
    }

    fn end(&self, end: End) -> Rest {
        self.queue.end(end);
        Rest::Nothing
    }

    /// Whether an item is work that somebody may want to cancel.
    fn can_be_long(&self, item: &Item) -> bool {
        match item {
            Item::Request(request, _) => self.methods.can_be_long(&request.method),
            Item::Refused(_) => false,
        }
    }

    fn answer(&self, item: Item, offer: &(dyn Fn(&str) + Send + Sync)) -> Answer {
        let (id, method, outcome) = match item {
            Item::Refused(Refused { id, fault }) => {
                log::info!("refused: {}", fault.error);
                (id, String::new(), Err(fault))
            }
            Item::Request(request, cancel) => {
                let (id, method) = (request.id.clone(), request.method.clone());
                log::debug!("request {}: {}", shown(&id), shortened(&method));
                let around = Surroundings { cancel: &cancel, send: offer };
                let begun = Instant::now();
                let outcome = self.methods.call(request, &around);
                log_outcome(&id, &method, &outcome, begun);
                (Some(id), method, outcome)
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

/// An id as logs have it.
fn shown(id: &Id) -> String {
    shortened(&id.to_string())
}

/// Tells how a request ended, and how long it took.
fn log_outcome<T>(id: &Id, method: &str, outcome: &Result<T, Fault>, begun: Instant) {
    let kind = outcome.as_ref().err().map(|fault| fault.error.kind().name());
    log::info!(
        "request {}: {}: {} after {:.1?}",
        shown(id),
        shortened(method),
        kind.unwrap_or("done"),
        begun.elapsed()
    );
}

/// What is said about one item.
struct Answer {
    line: String,
    failed: Option<ErrorKind>,
}

/// Takes item after item, and counts the answers.
struct Worker<'a, W> {
    session: &'a Session,
    output: &'a Output<'a, W>,
    /// Writes a line if there is room for it.
    offer: &'a (dyn Fn(&str) + Send + Sync),
    answers: u64,
    /// What the only request failed with, if it failed.
    only: Option<ErrorKind>,
}

impl<W: Write> Worker<'_, W> {
    /// Answers what is left, and everything that comes into the queue until it ends.
    fn work(&mut self, rest: Rest) -> Result<Ended> {
        let ended = match rest {
            Rest::Nothing | Rest::Queue => None,
            Rest::Answer(answer) => self.tell(&answer)?,
        };
        if let Some(ended) = ended {
            return Ok(ended);
        }
        while let Some(item) = self.session.queue.next() {
            let answer = self.session.answer(item, self.offer);
            if let Some(ended) = self.tell(&answer)? {
                return Ok(ended);
            }
        }
        match self.session.queue.why() {
            Some(End::Failed(error)) => {
                let message = "cannot read the requests from standard input";
                Err(Error::new(ErrorKind::Io, message).with_source(error))
            }
            Some(End::Stopped) => Ok(Ended::Stopped),
            Some(End::Input) | None => Ok(Ended::Answered(self.only)),
        }
    }

    /// Gives one answer. Tells how the session ended, if this was the end.
    fn tell(&mut self, answer: &Answer) -> Result<Option<Ended>> {
        self.output.send(&answer.line);
        if let Some(end) = self.output.end()? {
            return Ok(Some(end));
        }
        if answer.failed == Some(ErrorKind::Internal) {
            return Ok(Some(Ended::Broken));
        }
        self.answers += 1;
        self.only = answer.failed.filter(|_| self.answers == 1);
        Ok(None)
    }
}

/// What is to be done first, once somebody else reads on.
enum Rest {
    /// Nothing: there is no more to read.
    Nothing,
    /// Work that can be cancelled, which is in the queue.
    Queue,
    /// An answer that has to wait for its reader.
    Answer(Answer),
}

/// Reads requests, and hears notifications.
struct Reader<I> {
    input: I,
    line: Vec<u8>,
    queue: Arc<Queue>,
    cancel: Cancel,
}

impl<I: BufRead + Send + 'static> Reader<I> {
    /// Goes on in a thread of its own, into the queue.
    fn go_on(mut self, at_end: impl FnOnce(I) + Send + 'static) -> Result<()> {
        let read = move || {
            // Should reading panic, the session ends all the same.
            let unwinding = EndOnDrop(self.queue.clone());
            let end = loop {
                match self.next() {
                    Ok(Some((item, len))) => self.queue.push(item, len),
                    Ok(None) => break End::Input,
                    Err(error) => break End::Failed(error),
                }
            };
            self.queue.end(end);
            drop(unwinding);
            at_end(self.input);
        };
        let failed = |error| Error::new(ErrorKind::Io, "cannot start to read").with_source(error);
        let reading = std::thread::Builder::new().name("read".to_owned());
        reading.spawn(read).map(drop).map_err(failed)
    }

    /// The next item, with its length in bytes; notifications are dealt with on the way.
    fn next(&mut self) -> io::Result<Option<(Item, usize)>> {
        while let Some(read) = next_line(&mut self.input, &mut self.line)? {
            let item = match read {
                Line::Whole if self.line.trim_ascii().is_empty() => None,
                Line::Whole => self.item(),
                Line::TooLong => {
                    let why = format!("a line has more than {MAX_LINE} bytes");
                    let fault = Fault::new(Code::InvalidRequest, why);
                    Some(Item::Refused(Refused { id: None, fault }))
                }
            };
            if let Some(item) = item {
                return Ok(Some((item, self.line.len())));
            }
        }
        Ok(None)
    }

    fn item(&self) -> Option<Item> {
        match envelope::read(&self.line) {
            Err(refused) => Some(Item::Refused(refused)),
            Ok(Message::Request(request)) => Some(Item::Request(request, self.cancel.child())),
            Ok(Message::Notification(notification)) => {
                self.notified(&notification);
                None
            }
            Ok(Message::Ignored(why)) => {
                log::warn!("ignored: a notification (it has no id): {why}");
                None
            }
        }
    }

    fn notified(&self, notification: &Notification) {
        let Notification { method, params } = notification;
        if method != CANCEL {
            let method = shortened(method);
            log::warn!("ignored: a notification '{method}' (a request has an id)");
            return;
        }
        match params.named_id() {
            Ok(Some(id)) if self.queue.cancel(&id) => {}
            Ok(Some(id)) => {
                let id = id.to_string();
                let id = shortened(&id);
                log::warn!("cancel: nothing is known of request '{id}'");
            }
            Ok(None) => log::warn!("cancel: params need the id of a request"),
            Err(fault) => log::warn!("cancel: {}", fault.error),
        }
    }
}

/// Ends the queue whatever happens.
struct EndOnDrop(Arc<Queue>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(End::Failed(io::Error::other("the reader has a defect")));
    }
}
