//! An image, what is done to it, and what it should show: what tests of the whole engine share,
//! and the fuzzer with them.

use std::sync::Arc;

use super::check::scan;
use super::header::Header;
use super::open::Qcow2;
use super::shape_tests::{Data, Shape, contents, in_memory, to_size, virtual_size};
use crate::block::BlockDevice;
use crate::error::{ErrorKind, Result};
use crate::host::recording::RecordingStorage;
use crate::host::storage::MemoryStorage;
use crate::task::{Cancel, Silent, Task};

/// What is done to an image. Offsets and lengths are cut to fit the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Write(u64, usize, u8),
    /// So many clusters from this one on, compressed: of one value, of few, and of so many that
    /// they do not get smaller.
    Pack(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
    Flush,
    Reopen,
    /// Closes the image, makes the disk this large and opens it again.
    Resize(u64),
    /// Makes the disk this large with everything that was written before still under way, and
    /// opens the image again.
    ResizeInUse(u64),
}

impl Step {
    pub(super) fn resizes(self) -> bool {
        matches!(self, Step::Resize(_) | Step::ResizeInUse(_))
    }

    /// Whether everything is on the medium afterwards.
    pub(super) fn flushes(self) -> bool {
        matches!(self, Step::Flush | Step::Reopen) || self.resizes()
    }
}

impl Shape {
    /// Whether such an image can have this done to it.
    pub(super) fn takes(&self, step: Step) -> bool {
        self.data == Data::Inside || !step.resizes() && !matches!(step, Step::Pack(..))
    }
}

/// An image and what it should show.
pub(super) struct Subject {
    pub(super) shape: Shape,
    /// The image's own file, and its data file if it has one.
    pub(super) files: Vec<Arc<RecordingStorage>>,
    /// Gone between a failure and the next opening.
    pub(super) image: Option<Qcow2>,
    pub(super) model: Vec<u8>,
}

impl Subject {
    /// A new image, open.
    pub(super) fn new(shape: Shape) -> Subject {
        let mut subject = Subject::over(shape, shape.create(), shape.disk());
        subject.open().unwrap();
        subject
    }

    /// One that is there already and shows `model`; closed.
    pub(super) fn over(shape: Shape, files: Vec<Vec<u8>>, model: Vec<u8>) -> Subject {
        let files = RecordingStorage::together(files).into_iter().map(Arc::new).collect();
        Subject { shape, files, image: None, model }
    }

    /// One that was left like this, whatever it shows.
    pub(super) fn found(shape: Shape, files: Vec<Vec<u8>>) -> Subject {
        let model = contents(&shape.open(&in_memory(&files), false).unwrap()).unwrap();
        Subject::over(shape, files, model)
    }

    pub(super) fn open(&mut self) -> Result<()> {
        self.image = Some(self.shape.open(&self.files, true)?);
        Ok(())
    }

    pub(super) fn image(&self) -> &Qcow2 {
        self.image.as_ref().unwrap()
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        contents(self.image()).unwrap()
    }

    /// What is in the files.
    pub(super) fn bytes(&self) -> Vec<Vec<u8>> {
        self.files.iter().map(|file| file.contents()).collect()
    }

    /// Closes the image and leaves it closed.
    pub(super) fn close(&mut self) -> Result<()> {
        self.image.take().map_or(Ok(()), Qcow2::close)
    }

    /// Nothing about a closed image is wrong or leaked.
    pub(super) fn is_sound(&self) {
        let storage = MemoryStorage::new(self.files[0].contents());
        let header = Header::read(&storage).unwrap();
        let found = scan(&storage, &header, Task::new(&Silent, &Cancel::new())).unwrap();
        let beyond = found.counted_beyond_file;
        assert!(found.is_clean() && beyond == 0, "{:?}, {beyond} beyond", found.findings);
        assert!(self.shape.is_raw_disk(&self.bytes(), &self.model), "the data file is the disk");
    }

    /// Does it to the image and the model, and compares nothing but what was discarded.
    pub(super) fn step(&mut self, step: Step) {
        if !self.shape.takes(step) {
            return self.is_refused(step);
        }
        self.apply(step).unwrap_or_else(|error| panic!("{step:?}: {error}"));
        let range = |(at, len): (u64, u64)| at as usize..(at + len) as usize;
        match step {
            Step::Write(at, len, value) => {
                let (at, len) = self.clip(at, len as u64);
                self.model[range((at, len))].copy_from_slice(&pattern(len, value));
            }
            Step::Pack(at, clusters, value) => {
                let (at, data) = self.packed(at, clusters, value);
                self.model[at as usize..][..data.len()].copy_from_slice(&data);
            }
            Step::Zero(at, len) => {
                let range = range(self.clip(at, len));
                self.model[range].fill(0);
            }
            Step::Discard(at, len) => self.learn_discarded(self.clip(at, len)),
            Step::Flush | Step::Reopen => {}
            Step::Resize(size) | Step::ResizeInUse(size) => {
                self.model.resize(virtual_size(size).bytes() as usize, 0);
            }
        }
    }

    /// Does it to the image alone. Where closing, opening or resizing fails, there is no image
    /// afterwards.
    pub(super) fn apply(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Write(at, len, value) => {
                let (at, len) = self.clip(at, len as u64);
                self.image().write_at(at, &pattern(len, value))
            }
            Step::Pack(at, clusters, value) => {
                let (at, data) = self.packed(at, clusters, value);
                self.image().write_compressed(at, &data)
            }
            Step::Zero(at, len) => {
                let (at, len) = self.clip(at, len);
                self.image().write_zeroes(at, len)
            }
            Step::Discard(at, len) => {
                let (at, len) = self.clip(at, len);
                self.image().discard(at, len)
            }
            Step::Flush => self.image().flush(),
            Step::Reopen => {
                self.close()?;
                self.open()
            }
            Step::Resize(size) => {
                self.close()?;
                self.image = Some(self.shape.open(&self.files, false)?);
                self.apply(Step::ResizeInUse(size))
            }
            Step::ResizeInUse(size) => {
                let mut image = self.image.take().unwrap();
                image.resize(&to_size(size), Task::new(&Silent, &Cancel::new()))?;
                self.open()
            }
        }
    }

    /// What such an image cannot have done to it changes nothing.
    fn is_refused(&mut self, step: Step) {
        self.apply(Step::Reopen).unwrap();
        let before = self.bytes();
        let error = self.apply(step).unwrap_err();
        assert_eq!((error.kind(), error.changed()), (ErrorKind::UnsupportedFeature, false));
        assert!(self.bytes() == before, "{step:?}");
        if self.image.is_none() {
            self.open().unwrap();
        }
    }

    fn clip(&self, at: u64, len: u64) -> (u64, u64) {
        let size = self.image().size();
        (at % size, len.min(size - at % size))
    }

    /// Where the clusters of a [`Step::Pack`] begin, and what they hold.
    fn packed(&self, at: u64, clusters: u64, value: u8) -> (u64, Vec<u8>) {
        let (size, unit) = (self.image().size(), 1u64 << self.shape.cluster_bits);
        let start = at % size.div_ceil(unit) * unit;
        let end = size.min(start + clusters * unit);
        let mut noise = u32::from(value);
        let bytes = (start..end).map(|at| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let values = [0, 1, 3, 15, 255][(at / unit + u64::from(value)) as usize % 5];
            (noise >> 24) as u8 & values | value & 1
        });
        (start, bytes.collect())
    }

    /// What was discarded reads as zeros, as before or as what is below, cluster by cluster; the
    /// model learns which.
    fn learn_discarded(&mut self, (at, len): (u64, u64)) {
        let now = self.contents();
        let unit = 1usize << self.shape.cluster_bits;
        let mut below = self.shape.below();
        below.resize(now.len(), 0);
        for start in (0..now.len()).step_by(unit) {
            let range = start..(start + unit).min(now.len());
            let inside = start as u64 >= at && range.end as u64 <= at + len;
            let before = &self.model[range.clone()];
            let found = &now[range.clone()];
            let zeros = found.iter().all(|&byte| byte == 0);
            let allowed = found == before || inside && (zeros || found == &below[range.clone()]);
            assert!(allowed, "cluster at {start} after a discard of {len} at {at}");
        }
        self.model = now;
    }
}

impl Shape {
    /// Whether a data file that should be the disk, byte for byte, is.
    pub(super) fn is_raw_disk(&self, files: &[Vec<u8>], disk: &[u8]) -> bool {
        self.data != Data::Raw || {
            let (data, behind) = files[1].split_at(files[1].len().min(disk.len()));
            let (shown, missing) = disk.split_at(data.len());
            data == shown && behind.is_empty() && missing.iter().all(|&byte| byte == 0)
        }
    }
}

fn pattern(len: u64, value: u8) -> Vec<u8> {
    (0..len).map(|n| value.wrapping_add(n as u8)).collect()
}
