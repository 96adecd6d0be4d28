//! The order of writes, in one place: what is new reaches the medium before anything refers to
//! it, and nothing old is released before the switch has.

use super::header::Header;
use crate::error::Result;
use crate::host::storage::Storage;

/// Makes `header` true: syncs everything written before, changes the header's fixed part with one
/// write inside the first sector, and syncs that.
pub(super) fn switch_header(storage: &dyn Storage, header: &Header) -> Result<()> {
    storage.sync()?;
    let (offset, bytes) = header.encode_switch();
    storage.write_at(offset, &bytes)?;
    storage.sync()
}
