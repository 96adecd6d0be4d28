//! Signals become a wish to stop.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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

/// What becomes readable once a signal that [`trip_on_signals`] knows has come.
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses it.
pub(super) fn signal_pipe() -> Result<UnixStream> {
    let failed = |error| Error::new(ErrorKind::Io, "cannot make a pipe").with_source(error);
    let (signals, sender) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGINT, SIGTERM] {
        let sender = sender.try_clone().map_err(failed)?;
        pipe::register(signal, sender).map_err(|error| watch_failed(signal, error))?;
    }
    Ok(signals)
}

fn watch_failed(signal: i32, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot watch for signal {signal}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_signal_trips_and_is_remembered() {
        let cancel = Cancel::new();
        trip_on_signals(&cancel).unwrap();
        let mut pipe = signal_pipe().unwrap();
        let child = cancel.child();
        assert!(!cancel.is_tripped() && !child.is_tripped());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(cancel.is_tripped() && child.is_tripped());
        assert_eq!(child.signal(), Some(15));
        assert_eq!(cancel.check().unwrap_err().kind(), ErrorKind::Cancelled);
        pipe.read_exact(&mut [0]).unwrap();
    }
}
