//! Starting the way to the medium early: what is written one behind another in large amounts is on
//! its way there when a sync asks for it, and writing and syncing go on side by side.

use std::ops::Range;
use std::sync::Mutex;

/// So many bytes one behind another are sent on their way together.
const PIECE: u64 = 8 << 20;

/// What was written last, one behind another, and not sent on its way yet.
#[derive(Debug, Default)]
pub(super) struct Stream(Mutex<Range<u64>>);

impl Stream {
    /// Takes note of bytes that were written, and returns the range that it is time to send on its
    /// way.
    pub(super) fn wrote(&self, offset: u64, len: u64) -> Option<Range<u64>> {
        // Whoever writes at the same time writes elsewhere: then this is no stream.
        let mut run = self.0.try_lock().ok()?;
        if run.end != offset {
            run.start = offset;
        }
        run.end = offset.saturating_add(len);
        if run.end.saturating_sub(run.start) < PIECE {
            return None;
        }
        let full = run.clone();
        run.start = run.end;
        Some(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn only_what_lies_one_behind_another_is_sent() {
        let stream = Stream::default();
        assert_eq!(stream.wrote(40 * MIB, 5 * MIB), None);
        assert_eq!(stream.wrote(0, 5 * MIB), None, "a new run");
        assert_eq!(stream.wrote(5 * MIB, 2 * MIB), None);
        assert_eq!(stream.wrote(7 * MIB, 3 * MIB), Some(0..10 * MIB));
        assert_eq!(stream.wrote(10 * MIB, 7 * MIB), None);
        assert_eq!(stream.wrote(17 * MIB, MIB), Some(10 * MIB..18 * MIB));
        assert_eq!(stream.wrote(18 * MIB, 9 * MIB), Some(18 * MIB..27 * MIB));
        assert_eq!(stream.wrote(u64::MAX, 9), None);
    }
}
