//! Lines in, of a bounded length, and lines out, until nobody reads them.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::session::Ended;
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// The longest line that is read, in bytes, without its newline.
pub(super) const MAX_LINE: usize = 1 << 20;

/// What was read.
pub(super) enum Line {
    /// A line without its newline.
    Whole,
    /// Nothing that can be used.
    TooLong,
}

/// Reads up to the next newline, or to the end of input. Memory is bounded by [`MAX_LINE`].
pub(super) fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
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
pub(super) struct Output<'a, W> {
    writer: Mutex<Writer<W>>,
    cancel: &'a Cancel,
}

struct Writer<W> {
    to: W,
    failed: Option<io::Error>,
}

impl<'a, W: Write> Output<'a, W> {
    pub(super) fn new(to: W, cancel: &'a Cancel) -> Self {
        Output { writer: Mutex::new(Writer { to, failed: None }), cancel }
    }

    /// Writes a line. Should that fail, the session is stopped.
    pub(super) fn send(&self, line: &str) {
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
    pub(super) fn end(&self) -> Result<Option<Ended>> {
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
