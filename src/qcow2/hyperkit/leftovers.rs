//! What a session with discard leaves in an image of version 2: that library counts nothing from
//! then on and says so as version 3 does, with feature bits and a table of their names, but leaves
//! the version as it is. To every reader of version 2 they are the end of the extensions.

use crate::error::Result;
use crate::host::storage::Storage;
use crate::qcow2::extension::Extension;
use crate::qcow2::feature::{Compatible, Incompatible};
use crate::qcow2::first_cluster::read_first_cluster;
use crate::qcow2::geometry::HostOffset;
use crate::qcow2::header::{Header, Version};
use crate::qcow2::lengths::index;
use crate::qcow2::raw_header::{V2_HEADER_LEN, V3_MIN_HEADER_LEN};

/// The part of the header that is read at once, in bytes: nothing behind it is understood.
pub(super) const SECTOR: usize = 512;
/// The logarithm of the width of reference counts that is left.
const REFCOUNT_ORDER: u32 = 4;

/// Fields of version 3 under a header of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qcow2) struct Leftovers {
    /// Where they begin.
    pub(in crate::qcow2) at: HostOffset,
    /// How many bytes they have, with the table of names behind them.
    pub(in crate::qcow2) len: usize,
    /// Whether nothing else claims that place.
    pub(in crate::qcow2) removable: bool,
}

/// Finds them in the image in `storage`.
pub(in crate::qcow2) fn find_leftovers(
    storage: &dyn Storage,
    header: &Header,
) -> Result<Option<Leftovers>> {
    match header.version {
        Version::V2 => Ok(in_header(&read_first_cluster(storage)?, header)),
        Version::V3 => Ok(None),
    }
}

/// Finds them in the beginning of the file. They are known by every field, so that nothing else is
/// taken for them.
fn in_header(bytes: &[u8], header: &Header) -> Option<Leftovers> {
    let (start, fields_end) = (index(V2_HEADER_LEN), index(V3_MIN_HEADER_LEN));
    let words = bytes.get(start..fields_end)?.as_chunks::<8>().0;
    let [incompatible, compatible, autoclear, sizes] =
        <[[u8; 8]; 4]>::try_from(words).ok()?.map(u64::from_be_bytes);
    let marks = Incompatible::DIRTY.with_if(true, Incompatible::CORRUPT).bits();
    let shaped = incompatible & !marks == 0
        && compatible & !Compatible::LAZY_REFCOUNTS.bits() == 0
        && autoclear == 0
        && sizes == u64::from(REFCOUNT_ORDER) << 32 | u64::from(V3_MIN_HEADER_LEN);
    // The first word ends the extensions then: there are none.
    (shaped && header.extensions.is_empty()).then(|| Leftovers {
        at: HostOffset::new(u64::from(V2_HEADER_LEN)),
        len: end_of_names(bytes, fields_end).unwrap_or(fields_end).saturating_sub(start),
        // That library writes no name: where there is one, somebody else has written since.
        removable: header.backing.is_none(),
    })
}

/// Where the table of names ends that begins at `start`, if that is one.
fn end_of_names(bytes: &[u8], start: usize) -> Option<usize> {
    let len = Extension::len_of_names(bytes.get(start..SECTOR)?)?;
    start.checked_add(len)
}
