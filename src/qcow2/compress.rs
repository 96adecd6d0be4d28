//! The bytes of compressed clusters: packing and unpacking them, never to more than a cluster.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use structured_zstd::decoding::{FrameDecoder, find_frame_compressed_size};
use zstd_safe::{CCtx, compress_bound};

use super::error::{FormatError, Problem};
use super::header::CompressionType;

/// QEMU inflates with a window of 4 KiB.
const WINDOW_BITS: u8 = 12;
/// The levels that QEMU packs with.
const DEFLATE_LEVEL: u8 = 6;
const ZSTD_LEVEL: u8 = 3;

/// An image's way to pack clusters. What that needs in memory is kept for the next cluster: as
/// much as there were threads at it at once.
pub(super) struct Codec {
    kind: CompressionType,
    /// The size of a cluster, in bytes.
    cluster_len: usize,
    packers: Mutex<Vec<Packer>>,
    unpackers: Mutex<Vec<Unpacker>>,
}

impl Codec {
    pub(super) fn new(kind: CompressionType, cluster_len: usize) -> Self {
        Codec { kind, cluster_len, packers: Mutex::default(), unpackers: Mutex::default() }
    }

    /// What packs clusters, to be [kept](Self::keep_packer) afterwards.
    pub(super) fn packer(&self) -> Packer {
        take(&self.packers).unwrap_or_else(|| Packer::new(self.kind, None, self.cluster_len))
    }

    pub(super) fn keep_packer(&self, packer: Packer) {
        keep(&self.packers, packer);
    }

    /// What unpacks clusters, to be [kept](Self::keep_unpacker) afterwards.
    pub(super) fn unpacker(&self) -> Unpacker {
        take(&self.unpackers).unwrap_or_else(|| Unpacker::new(self.kind))
    }

    pub(super) fn keep_unpacker(&self, unpacker: Unpacker) {
        keep(&self.unpackers, unpacker);
    }
}

// OK to ignore poison, both times: a vector is changed in one step.
fn take<T>(pool: &Mutex<Vec<T>>) -> Option<T> {
    pool.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn keep<T>(pool: &Mutex<Vec<T>>, item: T) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

/// Packs one cluster after the other, each by itself.
pub struct Packer {
    stream: PackStream,
    packed: Vec<u8>,
    cluster_len: usize,
}

enum PackStream {
    Zlib(Compress, Compression),
    Zstd(CCtx<'static>, u8),
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("cluster_len", &self.cluster_len).finish_non_exhaustive()
    }
}

impl Packer {
    /// What packs clusters of `cluster_len` bytes at `level`, else at the one that QEMU has. A level
    /// that there is not is the nearest one.
    pub fn new(kind: CompressionType, level: Option<u8>, cluster_len: usize) -> Self {
        let levels = Self::levels(kind);
        let at = |default| level.unwrap_or(default).clamp(*levels.start(), *levels.end());
        let stream = match kind {
            CompressionType::Zlib => {
                let level = Compression::new(u32::from(at(DEFLATE_LEVEL)));
                PackStream::Zlib(deflate(level), level)
            }
            CompressionType::Zstd => PackStream::Zstd(CCtx::create(), at(ZSTD_LEVEL)),
        };
        Packer { stream, packed: Vec::new(), cluster_len }
    }

    /// The levels that there are, from fast to small.
    pub fn levels(kind: CompressionType) -> RangeInclusive<u8> {
        match kind {
            CompressionType::Zlib => 1..=9,
            CompressionType::Zstd => 1..=22,
        }
    }

    /// Packs a cluster; `None` if that does not make it smaller.
    pub fn pack(&mut self, cluster: &[u8]) -> Option<&[u8]> {
        let room = self.cluster_len.saturating_sub(1);
        match &mut self.stream {
            PackStream::Zlib(stream, level) => {
                // A stream that is not let to its end keeps what it did not get rid of, also when
                // it is reset: it gets room for what does not become smaller, too.
                self.packed.resize(self.cluster_len.saturating_add(room / 8).saturating_add(64), 0);
                stream.reset();
                let end = stream.compress(cluster, &mut self.packed, FlushCompress::Finish);
                if end.ok() != Some(Status::StreamEnd) {
                    *stream = deflate(*level);
                    return None;
                }
                let len = usize::try_from(stream.total_out()).ok().filter(|&len| len <= room)?;
                self.packed.get(..len)
            }
            PackStream::Zstd(stream, level) => {
                self.packed.resize(compress_bound(self.cluster_len), 0);
                let packed = stream.compress(&mut *self.packed, cluster, i32::from(*level));
                let len = packed.ok().filter(|&len| len <= room)?;
                self.packed.get(..len)
            }
        }
    }
}

fn deflate(level: Compression) -> Compress {
    Compress::new_with_window_bits(level, false, WINDOW_BITS)
}

/// Unpacks one cluster after the other.
pub(super) struct Unpacker {
    stream: UnpackStream,
    /// The packed bytes; what follows on the stream's end does not matter.
    pub(super) packed: Vec<u8>,
}

enum UnpackStream {
    Zlib(Decompress),
    Zstd(Box<FrameDecoder>),
}

impl Unpacker {
    fn new(kind: CompressionType) -> Self {
        let stream = match kind {
            // Other programs may have used any window.
            CompressionType::Zlib => UnpackStream::Zlib(Decompress::new(false)),
            CompressionType::Zstd => UnpackStream::Zstd(Box::default()),
        };
        Unpacker { stream, packed: Vec::new() }
    }

    /// Unpacks [`packed`](Self::packed) into the whole of `cluster`. Returns how many bytes of it are
    /// the stream, if that says where it ends.
    ///
    /// # Errors
    /// When the stream is damaged or ends before the cluster is full.
    pub(super) fn unpack(&mut self, cluster: &mut [u8]) -> Result<Option<usize>, FormatError> {
        let complete = match &mut self.stream {
            UnpackStream::Zlib(stream) => inflate(stream, &self.packed, cluster),
            UnpackStream::Zstd(stream) => unpack_zstd(stream, &self.packed, cluster).map(Some),
        };
        complete.ok_or_else(|| Problem::Compressed.into())
    }
}

/// Raw deflate, as the format says.
fn inflate(stream: &mut Decompress, packed: &[u8], cluster: &mut [u8]) -> Option<Option<usize>> {
    stream.reset(false);
    let status = stream.decompress(packed, cluster, FlushDecompress::Finish).ok()?;
    if stream.total_out() != u64::try_from(cluster.len()).ok()? {
        return None;
    }
    let end = usize::try_from(stream.total_in()).ok();
    Some(end.filter(|_| status == Status::StreamEnd))
}

/// One frame, or several, as QEMU reads them. They are unpacked where they belong: however large
/// a window they claim, nothing is allocated for it.
fn unpack_zstd(
    stream: &mut FrameDecoder,
    mut packed: &[u8],
    mut cluster: &mut [u8],
) -> Option<usize> {
    let all = packed.len();
    while !cluster.is_empty() {
        let (frame, rest) = packed.split_at_checked(find_frame_compressed_size(packed).ok()?)?;
        let len = stream.decode_all(frame, cluster).ok()?;
        cluster = cluster.split_at_mut_checked(len)?.1;
        packed = rest;
    }
    all.checked_sub(packed.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 4096;

    /// Words drawn from a few.
    fn text() -> Vec<u8> {
        let words = "disk cluster table header refcount snapshot backing guest host offset";
        let words: Vec<&str> = words.split(' ').collect();
        let (mut state, mut text) = (1u64, String::new());
        while text.len() < LEN {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text += words[(state >> 33) as usize % words.len()];
            text += " ";
        }
        text.truncate(LEN);
        text.into_bytes()
    }

    fn unpack(kind: CompressionType, packed: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut unpacker = Unpacker::new(kind);
        unpacker.packed = packed.to_vec();
        let mut cluster = vec![0; LEN];
        unpacker.unpack(&mut cluster).map(|_| cluster)
    }

    /// [`text`] as libzstd 1.5.7 packs it: at three levels, and streamed, without its size and
    /// with a checksum.
    const FRAMES: [&[u8]; 4] = [
        include_bytes!("../../tests/data/zstd/level1.zst"),
        include_bytes!("../../tests/data/zstd/level3.zst"),
        include_bytes!("../../tests/data/zstd/level19.zst"),
        include_bytes!("../../tests/data/zstd/streamed.zst"),
    ];

    #[test]
    fn frames_of_libzstd_are_unpacked() {
        for frame in FRAMES {
            assert!(unpack(CompressionType::Zstd, frame).unwrap() == text());
            // A descriptor names whole sectors: something else follows.
            let followed = [frame, b"the next cluster's frame"].concat();
            assert!(unpack(CompressionType::Zstd, &followed).unwrap() == text());
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        for frame in FRAMES {
            for len in 0..frame.len() - 4 {
                assert!(unpack(CompressionType::Zstd, &frame[..len]).is_err(), "{len} bytes");
            }
        }
        // A block of one byte repeated: five times, and a window of 3.75 TiB for it; a megabyte,
        // twice, in no more bytes; and a frame that says it holds 2^60 bytes.
        let window = b"\x28\xb5\x2f\xfd\x00\xff\x2b\x00\x00A";
        let large = b"\x28\xb5\x2f\xfd\x00\x58\x02\x00\x08A\x03\x00\x08A";
        let claim = b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x10\x2b\x00\x00A";
        for hostile in [&window[..], large, claim, &[0; 64], b""] {
            assert!(unpack(CompressionType::Zstd, hostile).is_err(), "{}", hostile.escape_ascii());
        }
    }

    /// Any number of clusters that do not become smaller leaves nothing behind for the next.
    #[test]
    fn a_packer_outlives_what_does_not_pack() {
        let mut noise = 1u64;
        let mut packer = Packer::new(CompressionType::Zlib, None, 1 << 18);
        for _ in 0..100 {
            let cluster: Vec<u8> = (0..1 << 18)
                .map(|_| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (noise >> 56) as u8
                })
                .collect();
            assert!(packer.pack(&cluster).is_none());
        }
        assert!(packer.pack(&vec![1; 1 << 18]).unwrap().len() < 1 << 10);
    }

    proptest! {
        /// What is packed comes back, and packing again what was unpacked too; whatever lies behind a
        /// stream, its end is known.
        #[test]
        fn clusters_come_back(values in 1u8..=255, seed: u32, zstd: bool) {
            let kind = if zstd { CompressionType::Zstd } else { CompressionType::Zlib };
            let mut noise = seed;
            let cluster: Vec<u8> = (0..LEN)
                .map(|_| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (noise >> 24) as u8 % values
                })
                .collect();
            let codec = Codec::new(kind, LEN);
            for _ in 0..2 {
                let mut packer = codec.packer();
                if let Some(packed) = packer.pack(&cluster) {
                    prop_assert!(packed.len() < LEN);
                    prop_assert!(unpack(kind, packed).unwrap() == cluster);
                    let mut unpacker = codec.unpacker();
                    unpacker.packed = [packed, &cluster[..(seed % 600) as usize]].concat();
                    prop_assert_eq!(unpacker.unpack(&mut vec![0; LEN]).unwrap(), Some(packed.len()));
                }
                codec.keep_packer(packer);
            }
        }

        /// Whatever a stream says: an answer, and no more than a cluster.
        #[test]
        fn noise_is_survived(
            zstd: bool,
            frame in 0usize..4,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let kind = if zstd { CompressionType::Zstd } else { CompressionType::Zlib };
            let mut packed = FRAMES[frame].to_vec();
            if !zstd {
                packed = Packer::new(kind, None, LEN).pack(&text()).unwrap().to_vec();
            }
            for (at, value) in damage {
                let at = at.index(packed.len());
                packed[at] = value;
            }
            let _ = unpack(kind, &packed);
        }
    }
}
