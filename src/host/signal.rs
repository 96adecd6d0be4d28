//! Signals become a wish to stop.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag::{register, register_usize};

use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// From here on SIGINT and SIGTERM trip `cancel` instead of ending the process, and
/// [`Cancel::signal`] tells which of them came. A write beyond the limit on file sizes fails
/// instead of ending it.
///
/// # Errors
/// [`ErrorKind::Io`] when the system refuses the handler.
pub fn trip_on_signals(cancel: &Cancel) -> Result<()> {
    // With a handler it no longer ends the process; the write that was too long fails instead.
    register(SIGXFSZ, Arc::default()).map_err(|error| watch_failed(SIGXFSZ, error))?;
    for signal in [SIGINT, SIGTERM] {
        // OK: signals are small positive numbers.
        let number = signal as usize;
        register_usize(signal, cancel.cell().clone(), number)
            .map_err(|error| watch_failed(signal, error))?;
    }
    Ok(())
}

fn watch_failed(signal: i32, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot watch for signal {signal}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_trips_and_is_remembered() {
        let cancel = Cancel::new();
        trip_on_signals(&cancel).unwrap();
        assert!(!cancel.is_tripped());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(cancel.is_tripped());
        assert_eq!(cancel.signal(), Some(15));
        assert_eq!(cancel.check().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
