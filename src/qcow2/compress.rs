//! The bytes of compressed clusters: packing and unpacking them, never to more than a cluster.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use structured_zstd::decoding::{FrameDecoder, find_frame_compressed_size};
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

use super::error::{FormatError, Problem};
use super::header::CompressionType;

/// QEMU inflates with a window of 4 KiB.
const WINDOW_BITS: u8 = 12;
/// The levels that QEMU packs with.
const DEFLATE_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

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
        take(&self.packers).unwrap_or_else(|| Packer::new(self.kind, self.cluster_len))
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

/// Packs one cluster after the other.
pub(super) struct Packer {
    stream: PackStream,
    packed: Vec<u8>,
    cluster_len: usize,
}

enum PackStream {
    Zlib(Compress),
    Zstd,
}

thread_local! {
    /// It cannot go from thread to thread, and is expensive to make.
    static ZSTD: RefCell<FrameCompressor> =
        RefCell::new(FrameCompressor::new(CompressionLevel::from_level(ZSTD_LEVEL)));
}

impl Packer {
    fn new(kind: CompressionType, cluster_len: usize) -> Self {
        let stream = match kind {
            CompressionType::Zlib => {
                let level = Compression::new(DEFLATE_LEVEL);
                PackStream::Zlib(Compress::new_with_window_bits(level, false, WINDOW_BITS))
            }
            CompressionType::Zstd => PackStream::Zstd,
        };
        Packer { stream, packed: Vec::new(), cluster_len }
    }

    /// Packs a cluster; `None` if that does not make it smaller.
    pub(super) fn pack(&mut self, cluster: &[u8]) -> Option<&[u8]> {
        let room = self.cluster_len.saturating_sub(1);
        match &mut self.stream {
            PackStream::Zlib(stream) => {
                self.packed.resize(room, 0);
                stream.reset();
                let end = stream.compress(cluster, &mut self.packed, FlushCompress::Finish).ok()?;
                let len = usize::try_from(stream.total_out()).ok()?;
                (end == Status::StreamEnd).then_some(self.packed.get(..len)?)
            }
            PackStream::Zstd => {
                self.packed.clear();
                ZSTD.with_borrow_mut(|stream| {
                    stream.compress_independent_frame_into(cluster, &mut self.packed);
                });
                (self.packed.len() <= room).then_some(&*self.packed)
            }
        }
    }
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

    /// Unpacks [`packed`](Self::packed) into the whole of `cluster`.
    ///
    /// # Errors
    /// When the stream is damaged or ends before the cluster is full.
    pub(super) fn unpack(&mut self, cluster: &mut [u8]) -> Result<(), FormatError> {
        let complete = match &mut self.stream {
            UnpackStream::Zlib(stream) => inflate(stream, &self.packed, cluster),
            UnpackStream::Zstd(stream) => unpack_zstd(stream, &self.packed, cluster),
        };
        complete.ok_or_else(|| Problem::Compressed.into())
    }
}

/// Raw deflate, as the format says.
fn inflate(stream: &mut Decompress, packed: &[u8], cluster: &mut [u8]) -> Option<()> {
    stream.reset(false);
    stream.decompress(packed, cluster, FlushDecompress::Finish).ok()?;
    (stream.total_out() == u64::try_from(cluster.len()).ok()?).then_some(())
}

/// One frame, or several, as QEMU reads them. They are unpacked where they belong: however large
/// a window they claim, nothing is allocated for it.
fn unpack_zstd(stream: &mut FrameDecoder, mut packed: &[u8], mut cluster: &mut [u8]) -> Option<()> {
    while !cluster.is_empty() {
        let (frame, rest) = packed.split_at_checked(find_frame_compressed_size(packed).ok()?)?;
        let len = stream.decode_all(frame, cluster).ok()?;
        cluster = cluster.split_at_mut_checked(len)?.1;
        packed = rest;
    }
    Some(())
}
