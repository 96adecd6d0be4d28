//! Small inputs that a person hands over: keys, user data.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::info::describe;
use super::refuse_empty;
use crate::error::{Error, ErrorKind, Result};
use crate::task::Cancel;

/// How long a pipe without news is left alone.
const PAUSE: Duration = Duration::from_millis(5);

/// All of a regular file or a pipe, symbolic links followed, at most `max_bytes`. Waits for what
/// the writer of a pipe has yet to say, until `cancel` is tripped.
///
/// # Errors
/// [`ErrorKind::BadRequest`] for more than `max_bytes`, for anything else than a file or a pipe,
/// and for a pipe that nobody writes to; [`ErrorKind::Cancelled`]; what open(2) and read(2) say.
pub fn read_small_file(path: &Path, max_bytes: u64, cancel: &Cancel) -> Result<Vec<u8>> {
    refuse_empty(path)?;
    let failed = |error| Error::io("cannot read", path, error);
    let refused = |what: String| Err(Error::new(ErrorKind::BadRequest, what).at_path(path));
    let unfit = |kind| refused(format!("is {}, not a file or a pipe", describe(kind)));
    let fits = |kind: std::fs::FileType| kind.is_file() || kind.is_fifo();
    // Asked before opening, because opening a device may set something going.
    let kind = path.metadata().map_err(failed)?.file_type();
    if !fits(kind) {
        return unfit(kind);
    }
    // A blocking open of a pipe could not be stopped by a signal.
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let open = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = open.map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !fits(kind) {
        return unfit(kind);
    }
    let contents = read_up_to(&file, max_bytes.saturating_add(1), cancel)
        .map_err(|stop| stop.classify(failed))?;
    // OK: a usize always fits.
    if contents.len() as u64 > max_bytes {
        return refused(format!("is larger than {max_bytes} bytes, the most it may hold"));
    }
    if contents.is_empty() && kind.is_fifo() {
        return refused("is a pipe that nobody writes to".to_owned());
    }
    Ok(contents)
}

/// Why reading ended early.
enum Stop {
    Cancelled(Error),
    Failed(io::Error),
}

impl Stop {
    fn classify(self, io: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Stop::Cancelled(error) => error,
            Stop::Failed(error) => io(error),
        }
    }
}

fn read_up_to(file: &File, limit: u64, cancel: &Cancel) -> Result<Vec<u8>, Stop> {
    let mut contents = Vec::new();
    loop {
        cancel.check().map_err(Stop::Cancelled)?;
        // OK: a usize always fits.
        let wanted = limit.saturating_sub(contents.len() as u64);
        let mut rest = Read::take(file, wanted);
        match rest.read_to_end(&mut contents) {
            Ok(_) => return Ok(contents),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(PAUSE),
            Err(error) => return Err(Stop::Failed(error)),
        }
    }
}
