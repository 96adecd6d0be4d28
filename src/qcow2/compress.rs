//! Compressed clusters: unpacking them, never to more than a cluster.

use std::io::Read;

use flate2::{Decompress, FlushDecompress};

use super::error::{FormatError, Problem};
use super::header::CompressionType;

/// Unpacks one cluster of `len` bytes from `packed`, which may go on beyond the stream's end.
///
/// # Errors
/// When the stream is damaged or ends before the cluster is full.
pub(super) fn unpack(
    packed: &[u8],
    kind: CompressionType,
    len: usize,
) -> Result<Vec<u8>, FormatError> {
    let mut cluster = vec![0; len];
    let complete = match kind {
        CompressionType::Zlib => inflate(packed, &mut cluster),
        CompressionType::Zstd => unpack_zstd(packed, &mut cluster),
    };
    complete.map(|()| cluster).ok_or_else(|| Problem::Compressed.into())
}

/// Raw deflate, as the format says; the window may have any size up to 32 KiB.
fn inflate(packed: &[u8], cluster: &mut [u8]) -> Option<()> {
    let mut stream = Decompress::new(false);
    stream.decompress(packed, cluster, FlushDecompress::Finish).ok()?;
    (stream.total_out() == u64::try_from(cluster.len()).ok()?).then_some(())
}

fn unpack_zstd(packed: &[u8], cluster: &mut [u8]) -> Option<()> {
    let mut stream = ruzstd::decoding::StreamingDecoder::new(packed).ok()?;
    stream.read_exact(cluster).ok()
}
