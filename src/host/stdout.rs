//! Standard output as a pipe that somebody may not be reading.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::task::Cancel;

/// How long to wait for a reader before looking at the signals again, in milliseconds.
const PATIENCE: u16 = 50;

/// Standard output, which waits for its reader, but not beyond a signal that asks to stop.
#[derive(Debug)]
pub struct Stdout {
    cancel: Cancel,
}

impl Stdout {
    /// `cancel` is what [`trip_on_signals`](super::trip_on_signals) trips.
    pub fn new(cancel: &Cancel) -> Self {
        Stdout { cancel: cancel.clone() }
    }

    /// Whether `len` bytes can be written without waiting for the reader.
    pub fn has_room(len: usize) -> bool {
        len <= PIPE_BUF && is_writable(PollTimeout::ZERO)
    }
}

/// How wide the terminal is that standard output is, in columns; nothing where it is none.
pub fn terminal_columns() -> Option<usize> {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    #[expect(unsafe_code, reason = "no safe call asks a terminal for its size")]
    // SAFETY: the descriptor is open, and the kernel writes one winsize to a live one.
    let asked = unsafe { window_size(io::stdout().as_raw_fd(), &raw mut size) };
    asked.ok().map(|_| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

impl Write for Stdout {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A pipe that is writable takes so much without waiting.
        let piece = data.get(..PIPE_BUF).unwrap_or(data);
        loop {
            if is_writable(PollTimeout::from(PATIENCE)) {
                // Straight to the descriptor: flushing a buffer would wait.
                match nix::unistd::write(io::stdout(), piece) {
                    Err(Errno::EAGAIN) => {}
                    written => return Ok(written?),
                }
            } else if self.cancel.signal().is_some() {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a pipe has room for [`PIPE_BUF`] bytes; everything else is always ready, and so is what
/// fails.
fn is_writable(timeout: PollTimeout) -> bool {
    let output = io::stdout();
    let mut watched = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut watched, timeout) {
        Ok(0) | Err(Errno::EINTR) => false,
        Ok(_) | Err(_) => true,
    }
}
