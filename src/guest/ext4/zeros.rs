//! What of a range has to be made zero.

use std::ops::Range;

use crate::block::{BlockDevice, ExtentKind, is_zero};
use crate::error::Result;

/// How much is read, and made zero, at once, in bytes: what was written in smaller pieces beside
/// one another becomes one edit.
const STEP_BYTES: usize = 64 << 10;

/// Calls `found` with the runs of a range that do not read as zeros, as offset and length in bytes.
/// Behind the end of the device there is nothing yet, which is going to read as zeros.
pub(super) fn find_written(
    device: &dyn BlockDevice,
    range: Range<u64>,
    mut found: impl FnMut(u64, u64),
) -> Result<()> {
    let end = range.end.min(device.size());
    if range.start >= end {
        return Ok(());
    }
    let mut run: Option<Range<u64>> = None;
    let mut buffer = Vec::new();
    for extent in device.extents(range.start..end) {
        let extent = extent?;
        // What is not the image's own may be a backing file's: that has to be read.
        if extent.kind == ExtentKind::Zero {
            continue;
        }
        let mut at = extent.offset;
        let extent_end = extent.offset.saturating_add(extent.len).min(end);
        while at < extent_end {
            let room = usize::try_from(extent_end.saturating_sub(at)).unwrap_or(usize::MAX);
            buffer.resize(room.min(STEP_BYTES), 0);
            device.read_at(at, &mut buffer)?;
            let next = at.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
            if !is_zero(&buffer) {
                run = Some(match run.take() {
                    Some(run) if run.end == at => run.start..next,
                    Some(run) => {
                        found(run.start, run.end.saturating_sub(run.start));
                        at..next
                    }
                    None => at..next,
                });
            }
            at = next;
        }
    }
    if let Some(run) = run {
        found(run.start, run.end.saturating_sub(run.start));
    }
    Ok(())
}
