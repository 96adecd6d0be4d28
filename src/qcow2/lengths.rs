//! Lengths as the format has them, and as memory has them. What does not fit is as large as can be,
//! so that it lies beyond every slice, and inside no file.

/// A length or a place that was stored, for indexing.
pub(super) fn index(len: impl TryInto<usize>) -> usize {
    // OK to default: beyond every slice.
    len.try_into().unwrap_or(usize::MAX)
}

/// How many bytes there are, or other things.
pub(super) fn len_of<T>(items: &[T]) -> u64 {
    // OK to default: a slice's length fits in 64 bits.
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
