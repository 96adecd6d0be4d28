//! Changing the header of an existing image as a whole: version, features, extensions, backing file
//! name. Whenever the power goes, the old header is there or the new one.
//!
//! Where all that differs and is in use lies in one sector, one write does it. Else the new extensions
//! and the name go first to a place in the header's cluster that nothing refers to; one write of the
//! first sector makes them true there, skipping what lies before them as padding; now the usual place
//! is free, is written, and one more write of the first sector makes that true.

use std::ops::Range;

use super::error::FormatError;
use super::extension::{Extension, PADDING, PREFIX};
use super::feature::Autoclear;
use super::header::{Body, Header, MAX_BACKING_NAME, UncheckedHeader, extension_area};
use super::lengths::{index, len_of};
use super::open::Qcow2;
use super::raw_header::RawHeader;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_padded_at, refuse_read_only};

/// What a medium writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// The change, planned: nothing is written yet, and nothing is left to refuse.
#[derive(Debug)]
pub(super) struct HeaderChange {
    header: Header,
    /// Where nothing refers to it.
    prepare: Vec<Piece>,
    /// What is there instead, for a preparation that fails.
    undo: Vec<Piece>,
    /// One after the other, each on the medium before the next; the first makes the new header true.
    switch: Vec<Piece>,
}

/// A write in the header's cluster.
#[derive(Debug)]
struct Piece {
    at: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn write(&self, storage: &dyn Storage) -> Result<()> {
        storage.write_at(u64::try_from(self.at).unwrap_or(u64::MAX), &self.bytes)
    }

    fn end(&self) -> usize {
        self.at.saturating_add(self.bytes.len())
    }
}

impl HeaderChange {
    /// Plans to make `header` the one of the image in `storage`: of the image's own cluster size,
    /// with its tables where they are already. Autoclear bits that this version does not know are
    /// dropped, as whoever writes to an image must; the table of feature names is, where the cluster
    /// has no room to change a header that has one.
    ///
    /// # Errors
    /// [`BadRequest`](ErrorKind::BadRequest) for a backing file name that does not fit,
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) where the first cluster has no room for
    /// the old header and the new one, and as [`Header::read`].
    pub(super) fn plan(storage: &dyn Storage, header: &Header) -> Result<HeaderChange> {
        let mut header = header.clone();
        header.autoclear = header.autoclear.known();
        let mut old = vec![0; header.geometry.cluster_len()];
        read_padded_at(storage, 0, &mut old)?;
        let old = InUse::of(old).map_err(FormatError::into_error)?;
        if header.backing.as_ref().is_some_and(|below| below.name.len() > MAX_BACKING_NAME) {
            return Err(too_long(&header));
        }
        match Self::from(&old, &header) {
            Err(error) => {
                let named = |extension: &Extension| matches!(extension, Extension::FeatureNames(_));
                header.extensions.retain(|extension| !named(extension));
                Self::from(&old, &header).map_err(|_| error)
            }
            planned => planned,
        }
    }

    fn from(old: &InUse, header: &Header) -> Result<HeaderChange> {
        let mut target = header.encode().ok_or_else(|| too_long(header))?;
        target.resize(target.len().next_multiple_of(SECTOR), 0);
        let new_sectors = target.chunks_exact(SECTOR).enumerate();
        let differing =
            new_sectors.zip(old.bytes.chunks_exact(SECTOR)).filter_map(|((n, new), old)| {
                let piece = Piece { at: n.saturating_mul(SECTOR), bytes: new.to_vec() };
                (new != old).then_some(piece)
            });
        let (contested, free): (Vec<_>, Vec<_>) =
            differing.partition(|piece| !old.is_free(piece.at, piece.end()));
        let (prepare, switch) = match contested.len() {
            0 | 1 => (free, contested),
            _ => by_shadow(old, header, &target).ok_or_else(|| no_room(header))?,
        };
        let mut change = HeaderChange { header: header.clone(), prepare, undo: Vec::new(), switch };
        change.undo = change.prepare.iter().map(|piece| old.piece(piece.at, piece.end())).collect();
        change.clean_up(old, target.len());
        Ok(change)
    }

    /// Zeros over what is not referred to any more.
    fn clean_up(&mut self, old: &InUse, target_end: usize) {
        let ends = old.ranges.iter().map(|range| range.end);
        let ends = ends.chain(self.prepare.iter().map(Piece::end));
        let end = ends.max().unwrap_or(target_end);
        if end > target_end && !self.is_nothing() {
            let bytes = vec![0; end.saturating_sub(target_end)];
            self.switch.push(Piece { at: target_end, bytes });
        }
    }

    fn is_nothing(&self) -> bool {
        self.prepare.is_empty() && self.switch.is_empty()
    }

    /// The header as it will be.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Carries it out. Everything written to the image before is on the medium before the new header
    /// is true, which it is, on the medium, afterwards.
    ///
    /// # Errors
    /// What the storage says; where [`changed`](Error::changed) is not set, the file's header is the
    /// old one, byte for byte.
    pub(super) fn apply(&self, storage: &dyn Storage) -> Result<()> {
        let prepared = self.prepare.iter().try_for_each(|piece| piece.write(storage));
        if let Err(error) = prepared.and_then(|()| storage.sync()) {
            let undone = self.undo.iter().try_for_each(|piece| piece.write(storage));
            return Err(error.after_changes_if(undone.is_err()));
        }
        for piece in &self.switch {
            let written = piece.write(storage).and_then(|()| storage.sync());
            written.map_err(Error::after_changes)?;
        }
        log::debug!("the header is switched, by {} writes", self.switch.len());
        Ok(())
    }
}

/// Makes the header true at another place of its cluster first, then at the usual one. `None` where
/// there is no room for that.
fn by_shadow(old: &InUse, header: &Header, target: &[u8]) -> Option<(Vec<Piece>, Vec<Piece>)> {
    let fixed_len = index(header.header_length);
    let body = Body::of(header);
    let skip_from = fixed_len.checked_add(PREFIX).filter(|end| *end <= SECTOR)?;
    let start = old.room_behind(target.len(), body.bytes.len())?;
    let mut sector = header.encode_fixed(&body, start)?;
    sector.extend(Extension::padding(start.checked_sub(skip_from)?));
    sector.resize(SECTOR, 0);
    let (first, rest) = target.split_at_checked(SECTOR)?;
    let switch = vec![
        Piece { at: 0, bytes: sector },
        Piece { at: SECTOR, bytes: rest.to_vec() },
        Piece { at: 0, bytes: first.to_vec() },
    ];
    Some((vec![Piece { at: start, bytes: body.bytes }], switch))
}

/// The header's cluster as it is, and which bytes of it mean something.
struct InUse {
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

impl InUse {
    fn of(bytes: Vec<u8>) -> Result<InUse, FormatError> {
        let header_length = UncheckedHeader::parse(&bytes)?.header_length();
        let raw = RawHeader::read(&bytes)?;
        let start = index(header_length);
        let area = extension_area(&bytes, &raw, header_length)?;
        let mut ranges = Vec::from_iter([Range { start: 0, end: start }]);
        let mut end = start;
        for found in Extension::walk(area) {
            let found = found?;
            let data = start.saturating_add(index(found.at));
            end = data.saturating_add(found.data.len()).next_multiple_of(PREFIX);
            ranges.push(data.saturating_sub(PREFIX)..if found.id == PADDING { data } else { end });
        }
        let area_end = start.saturating_add(area.len());
        ranges.push(end.min(area_end)..end.saturating_add(PREFIX).min(area_end));
        // Without a place for a name, its length means nothing.
        if let name @ 1.. = index(raw.backing_file_offset.get()) {
            let name_end = name.saturating_add(index(raw.backing_file_size.get()));
            ranges.push(name..name_end.min(bytes.len()));
        }
        ranges.retain(|range| !range.is_empty());
        Ok(InUse { bytes, ranges })
    }

    fn is_free(&self, start: usize, end: usize) -> bool {
        self.ranges.iter().all(|used| used.end <= start || end <= used.start)
    }

    /// The first place behind `start` where `len` bytes lie that mean nothing.
    fn room_behind(&self, start: usize, len: usize) -> Option<usize> {
        let starts = self.ranges.iter().map(|used| used.end.next_multiple_of(PREFIX));
        let mut starts: Vec<_> = starts.filter(|&behind| behind > start).chain([start]).collect();
        starts.sort_unstable();
        starts.into_iter().find(|&start| {
            let end = start.saturating_add(len);
            end <= self.bytes.len() && self.is_free(start, end)
        })
    }

    fn piece(&self, start: usize, end: usize) -> Piece {
        Piece { at: start, bytes: self.bytes.get(start..end).unwrap_or_default().to_vec() }
    }
}

fn too_long(header: &Header) -> Error {
    let name = header.backing.as_ref().map_or(0, |backing| backing.name.len());
    let cluster = header.geometry.cluster_size();
    let message = format!(
        "backing file name of {name} bytes: at most {MAX_BACKING_NAME} are allowed, and it must fit \
         behind the header in a cluster of {cluster} bytes"
    );
    Error::new(ErrorKind::BadRequest, message)
}

fn no_room(header: &Header) -> Error {
    let body = len_of(&Body::of(header).bytes);
    let message = format!(
        "a header with {body} bytes behind its fixed part: a cluster of {} bytes has no room to \
         write it beside the old one",
        header.geometry.cluster_size()
    );
    Error::new(ErrorKind::UnsupportedFeature, message)
}

impl Qcow2 {
    /// Makes the header what `change` makes of it, at once; everything written before is on the medium
    /// first. The caller must hold the image's lock.
    ///
    /// # Errors
    /// [`Permission`](ErrorKind::Permission) for a storage that cannot be written,
    /// [`Corrupt`](ErrorKind::Corrupt) for an image that is marked so, what `change` says, and as
    /// [`HeaderChange::plan`] and [`HeaderChange::apply`].
    pub(super) fn change_header(
        &mut self,
        change: impl FnOnce(&Header) -> Result<Header>,
    ) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.settle()?;
        self.change_whole(|image| {
            let planned = HeaderChange::plan(&*image.storage, &change(&image.header)?)?;
            planned.apply(&*image.storage)?;
            Ok((planned.header().clone(), ()))
        })
    }
}

impl Header {
    /// This header with another backing file, or without one.
    pub(super) fn with_backing(&self, backing: Option<&super::header::BackingName>) -> Header {
        let mut header = self.clone();
        header.extensions.retain(|found| !matches!(found, Extension::BackingFormat(_)));
        if let Some(format) = backing.and_then(|backing| backing.format.clone()) {
            header.extensions.insert(0, Extension::BackingFormat(format));
        }
        header.backing = backing.cloned();
        header
    }

    /// This header with another place of its bitmaps, which are then consistent; or without any.
    pub(super) fn with_bitmaps(&self, bitmaps: Option<super::BitmapDirectory>) -> Header {
        let mut header = self.clone();
        let place = header.extensions.iter().position(|e| matches!(e, Extension::Bitmaps(_)));
        header.extensions.retain(|found| !matches!(found, Extension::Bitmaps(_)));
        if let Some(directory) = bitmaps {
            // Where it was, else before what nobody knows, as QEMU has it.
            let unknown = |e: &Extension| matches!(e, Extension::Unknown { .. });
            let end = header.extensions.iter().position(unknown);
            let at = place.or(end).unwrap_or(header.extensions.len());
            let at = at.min(header.extensions.len());
            header.extensions.insert(at, Extension::Bitmaps(directory));
        }
        let without = header.autoclear.without(Autoclear::BITMAPS);
        header.autoclear = without.with_if(bitmaps.is_some(), Autoclear::BITMAPS);
        header
    }
}
