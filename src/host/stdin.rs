//! Standard input, watched together with what may end a session before it ends.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signal::signal_pipe;
use crate::error::Result;
use crate::task::Cancel;

/// Standard input as long as nobody asks to stop: it ends when a signal comes, or when nobody reads
/// standard output any more. (Where the system does not tell of the latter by itself, as macOS,
/// the next write does.)
pub struct Stdin<F: FnOnce()> {
    signals: UnixStream,
    cancel: Cancel,
    /// Called once, when either has come.
    told: Option<F>,
    watches_output: bool,
}

#[derive(PartialEq, Eq)]
enum Happened {
    Input,
    Stop,
    /// The system refuses to wait: signals are seen where work looks at its wish to stop.
    Nothing,
}

impl<F: FnOnce()> Stdin<F> {
    /// Calls `told` once when a signal that trips `cancel` has come, or when nobody reads standard
    /// output any more.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system refuses to tell of signals.
    pub fn watched(cancel: &Cancel, told: F) -> Result<Self> {
        let signals = signal_pipe()?;
        Ok(Stdin { signals, cancel: cancel.clone(), told: Some(told), watches_output: true })
    }

    /// Watches for signals alone: `told` is called once, when one has come that trips `cancel`.
    ///
    /// # Errors
    /// As [`watched`](Self::watched).
    pub fn until_signalled(cancel: &Cancel, told: F) -> Result<Self> {
        Ok(Stdin { watches_output: false, ..Self::watched(cancel, told)? })
    }

    /// Goes on watching when there is nothing more to read, until there is something to tell.
    pub fn linger(mut self) {
        if self.told.is_some() && self.wait(false) == Happened::Stop {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if let Some(told) = self.told.take() {
            told();
        }
    }

    fn wait(&mut self, for_input: bool) -> Happened {
        let (input, output) = (io::stdin(), io::stdout());
        loop {
            // A signal may have come before the pipe was there to tell of it.
            if self.cancel.is_tripped() {
                return Happened::Stop;
            }
            let wanted = if for_input { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut watched = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(output.as_fd(), PollFlags::empty()),
                PollFd::new(input.as_fd(), wanted),
            ];
            // What cannot be watched is not: the second takes the place of the first then.
            if !self.watches_output {
                watched[1] = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
            }
            let count = if for_input { 3 } else { 2 };
            match poll(&mut watched[..count], PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return Happened::Nothing,
            }
            let [signals, output, input] =
                watched.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            let closed = output.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
            if signals.contains(PollFlags::POLLIN) || self.watches_output && closed {
                return Happened::Stop;
            }
            self.watches_output &= output.is_empty();
            if for_input && !input.is_empty() {
                return Happened::Input;
            }
        }
    }
}

impl<F: FnOnce()> Read for Stdin<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.told.is_none() {
            return Ok(0);
        }
        match self.wait(true) {
            Happened::Input | Happened::Nothing => Ok(nix::unistd::read(io::stdin(), buf)?),
            Happened::Stop => {
                self.tell();
                Ok(0)
            }
        }
    }
}
