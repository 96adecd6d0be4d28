//! Where pieces go, in the order of the disk.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use super::piece::{Desk, Piece, State};
use crate::error::{Error, Result};
use crate::host::storage::Storage;
use crate::qcow2::Composer;
use crate::qcow2::geometry::{ClusterCount, GuestCluster, GuestOffset};
use crate::units::VirtualSize;

/// Takes pieces.
pub(super) trait Sink {
    /// Writes what is on the desk of a piece.
    fn deliver(&mut self, desk: &Desk, piece: &Piece) -> Result<()>;
}

/// A raw file, which reads as zeros where nothing is written.
pub(super) struct RawSink<'a> {
    storage: &'a dyn Storage,
}

impl<'a> RawSink<'a> {
    pub(super) fn new(storage: &'a dyn Storage) -> Self {
        RawSink { storage }
    }
}

impl Sink for RawSink<'_> {
    fn deliver(&mut self, desk: &Desk, piece: &Piece) -> Result<()> {
        desk.runs.iter().try_for_each(|run| {
            self.storage.write_at(piece.offset + run.start as u64, &desk.data[run.clone()])
        })
    }
}

/// An image.
pub(super) struct Qcow2Sink<'a> {
    composer: Composer<'a>,
    cluster_len: usize,
}

impl<'a> Qcow2Sink<'a> {
    pub(super) fn new(composer: Composer<'a>) -> Self {
        let cluster_len = composer.geometry().cluster_len();
        Qcow2Sink { composer, cluster_len }
    }

    /// Writes what belongs to the whole image.
    pub(super) fn finish(self, size: VirtualSize) -> Result<()> {
        self.composer.finish(size)
    }

    /// Writes clusters of a piece as they are.
    fn put(&mut self, first: GuestCluster, clusters: Range<usize>, desk: &Desk) -> Result<()> {
        let mut at = clusters.start;
        while at < clusters.end {
            let cluster = first + ClusterCount::new(at as u64);
            let wanted = ClusterCount::new((clusters.end - at) as u64);
            let (host, placed) = self.composer.place(cluster, wanted)?;
            // OK: no more than were wanted.
            let end = at + placed.get() as usize;
            let (from, to) = (at * self.cluster_len, end * self.cluster_len);
            let touched = desk.runs.iter().filter(|run| run.end > from && run.start < to);
            for run in touched {
                let run = run.start.max(from)..run.end.min(to);
                let host = host.plus_bytes((run.start - from) as u64);
                self.composer.write_at(host, &desk.data[run])?;
            }
            at = end;
        }
        Ok(())
    }
}

impl Sink for Qcow2Sink<'_> {
    fn deliver(&mut self, desk: &Desk, piece: &Piece) -> Result<()> {
        let first = self.composer.geometry().guest_cluster(GuestOffset::new(piece.offset));
        let mut at = 0;
        let packs = |state: &State| matches!(state, State::Packed(_));
        for alike in desk.states.chunk_by(|a, b| a == b && !packs(a)) {
            let cluster = first + ClusterCount::new(at as u64);
            let count = ClusterCount::new(alike.len() as u64);
            let clusters = at..at + alike.len();
            at = clusters.end;
            match &alike[0] {
                State::Below => {}
                State::Zero => self.composer.zero(cluster, count)?,
                State::Data => self.put(first, clusters, desk)?,
                State::Packed(packed) => {
                    if !self.composer.put_packed(cluster, &desk.packed[packed.clone()])? {
                        self.put(first, clusters, desk)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A stream, to which zeros are written too.
pub(super) struct StreamSink<'a> {
    stream: &'a mut (dyn Write + Send),
    at: u64,
}

impl<'a> StreamSink<'a> {
    pub(super) fn new(stream: &'a mut (dyn Write + Send)) -> Self {
        StreamSink { stream, at: 0 }
    }

    /// Writes the zeros up to the end of the disk.
    pub(super) fn finish(&mut self, size: u64) -> Result<()> {
        self.zeros_to(size)?;
        self.stream.flush().map_err(failed)
    }

    fn zeros_to(&mut self, offset: u64) -> Result<()> {
        let zeros = vec![0; offset.saturating_sub(self.at).min(64 << 10) as usize];
        while self.at < offset {
            let len = (offset - self.at).min(zeros.len() as u64);
            self.put(&zeros[..len as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8]) -> Result<()> {
        self.stream.write_all(data).map_err(failed)?;
        self.at += data.len() as u64;
        Ok(())
    }
}

impl Sink for StreamSink<'_> {
    fn deliver(&mut self, desk: &Desk, piece: &Piece) -> Result<()> {
        for run in &desk.runs {
            self.zeros_to(piece.offset + run.start as u64)?;
            self.put(&desk.data[run.clone()])?;
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot write", Path::new("standard output"), error)
}
