//! Swap areas of Linux: what is in them is not needed by a machine that is off.

use std::ops::Range;

use crate::block::BlockDevice;
use crate::error::Result;

/// The header is the first page, in bytes; its signature is in the last ten (mkswap(8)).
const PAGES: [u64; 3] = [64 << 10, 16 << 10, 4 << 10];
const SIGNATURE: &[u8] = b"SWAPSPACE2";
/// What is there instead while a machine is suspended to disk (Linux `kernel/power/swap.c`; uswsusp,
/// TuxOnIce; `libblkid`).
const SUSPENDED: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];

/// Whether a machine sleeps in it.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn is_suspended(place: &dyn BlockDevice) -> Result<bool> {
    Ok(page_with(place, &SUSPENDED)?.is_some())
}

/// What may have been swapped out, in bytes from the beginning of `place`: what is behind the header,
/// up to the last page that the header names. Nothing where the header is not one of version 1 that
/// fits `place`.
///
/// # Errors
/// Whatever reading the device says.
pub(super) fn swapped(place: &dyn BlockDevice) -> Result<Option<Range<u64>>> {
    let Some(page) = page_with(place, &[SIGNATURE])? else { return Ok(None) };
    // Linux `include/linux/swap.h`, `union swap_header`, in the byte order of its machine.
    let mut info = [0; 8];
    place.read_at(1024, &mut info)?;
    let [a, b, c, d, e, f, g, h] = info;
    let of = |number: fn([u8; 4]) -> u32| (number([a, b, c, d]), number([e, f, g, h]));
    let last_page = match (of(u32::from_le_bytes), of(u32::from_be_bytes)) {
        ((1, last_page), _) | (_, (1, last_page)) => u64::from(last_page),
        _ => return Ok(None),
    };
    let end = last_page.saturating_add(1).saturating_mul(page);
    Ok((end <= place.size()).then_some(page..end))
}

/// The length of the first page that ends with one of these signatures.
fn page_with(place: &dyn BlockDevice, signatures: &[&[u8]]) -> Result<Option<u64>> {
    for page in PAGES {
        let mut end = [0; 10];
        if page <= place.size() {
            place.read_at(page.saturating_sub(10), &mut end)?;
        }
        if signatures.iter().any(|signature| end.starts_with(signature)) {
            return Ok(Some(page));
        }
    }
    Ok(None)
}
