//! Signals, and a closed standard output, become a wish to stop.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag::{register, register_conditional_default, register_usize};
use signal_hook::low_level::pipe;

use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// From here on the first SIGINT or SIGTERM trips `cancel` instead of ending the process, and
/// [`Cancel::signal`] tells which of them came; another one ends the process at once. A write
/// beyond the limit on file sizes fails instead of ending it.
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses the handler.
pub fn trip_on_signals(cancel: &Cancel) -> Result<()> {
    // With a handler it no longer ends the process; the write that was too long fails instead.
    register(SIGXFSZ, Arc::default()).map_err(|error| watch_failed(SIGXFSZ, error))?;
    for signal in [SIGINT, SIGTERM] {
        let failed = |error| watch_failed(signal, error);
        // Handlers run in the order of their registration: the first signal arms this one only
        // after it has run.
        let armed = Arc::new(AtomicBool::new(false));
        register_conditional_default(signal, armed.clone()).map_err(failed)?;
        register(signal, armed).map_err(failed)?;
        // OK: signals are small positive numbers.
        let number = signal as usize;
        register_usize(signal, cancel.cell().clone(), number).map_err(failed)?;
    }
    Ok(())
}

/// Calls `told` once, from a thread of its own, when a signal that [`trip_on_signals`] knows has
/// tripped `cancel`, or when nobody reads standard output any more. (Where the system does not tell
/// of the latter by itself, as macOS, the next write does.)
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses the handlers or the thread.
pub fn on_stop(cancel: &Cancel, told: impl FnOnce() + Send + 'static) -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "cannot watch for the end").with_source(error);
    let (signals, sender) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGINT, SIGTERM] {
        let sender = sender.try_clone().map_err(failed)?;
        pipe::register(signal, sender).map_err(|error| watch_failed(signal, error))?;
    }
    let cancel = cancel.clone();
    let watch = move || {
        // A signal may have come before the pipe was there to tell of it.
        if cancel.is_tripped() || wait_for_stop(&signals) {
            told();
        }
    };
    std::thread::Builder::new().name("stop".to_owned()).spawn(watch).map(drop).map_err(failed)
}

/// Whether there is anything to tell of: else the system refused to wait, and signals are seen
/// where work looks at its wish to stop.
fn wait_for_stop(signals: &UnixStream) -> bool {
    let output = io::stdout();
    let mut watches_output = true;
    loop {
        let signals = PollFd::new(signals.as_fd(), PollFlags::POLLIN);
        let output = PollFd::new(output.as_fd(), PollFlags::empty());
        let mut watched = [signals, output];
        let count = if watches_output { 2 } else { 1 };
        match poll(&mut watched[..count], PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return false,
        }
        let happened = watched.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let closed = happened[1].intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
        if happened[0].contains(PollFlags::POLLIN) || watches_output && closed {
            return true;
        }
        // Something that cannot be watched.
        watches_output &= happened[1].is_empty();
    }
}

fn watch_failed(signal: i32, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot watch for signal {signal}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signal_trips_and_is_remembered() {
        let cancel = Cancel::new();
        trip_on_signals(&cancel).unwrap();
        let (told, heard) = mpsc::channel();
        on_stop(&cancel, move || told.send(()).unwrap()).unwrap();
        let child = cancel.child();
        assert!(!cancel.is_tripped() && !child.is_tripped());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(cancel.is_tripped() && child.is_tripped());
        assert_eq!(child.signal(), Some(15));
        assert_eq!(cancel.check().unwrap_err().kind(), ErrorKind::Cancelled);
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
        // Whoever comes too late for the signal hears of it all the same.
        let (told, heard) = mpsc::channel();
        on_stop(&cancel, move || told.send(()).unwrap()).unwrap();
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
