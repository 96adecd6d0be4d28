//! What is done to an image, in which order, and what the image must be like when that is cut
//! short: nothing worse than leaks, everything that was flushed, and fit to be written again.

use std::sync::Arc;

use super::check::{ScanReport, scan};
use super::crash_states_tests::{fingerprint, next};
use super::feature::{Autoclear, Incompatible};
use super::fixtures_tests::{
    lengthened, made_by, packed, snapshot_disks, uncounted, with_bitmap, with_snapshot,
};
use super::header::Header;
use super::shape_tests::{Shape, contents, in_memory};
use super::subject_tests::{Step, Subject};
use crate::block::BlockDevice;
use crate::host::recording::{Event, Record};
use crate::host::storage::MemoryStorage;
use crate::task::{Cancel, Silent, Task};

/// How an image is found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    Closed,
    /// Whoever wrote it died.
    Unclosed,
    Packed,
    Snapshot,
    PackedSnapshot,
    /// With a bitmap that is true as long as nobody writes.
    Bitmap,
    /// Dirty, and nothing is counted.
    Uncounted,
    /// Its file goes on to this length.
    Long(u64),
}

impl Found {
    /// Whether an image of this shape can have this done to it.
    pub(super) fn takes(self, shape: Shape, step: Step) -> bool {
        let fixed = matches!(self, Found::Snapshot | Found::PackedSnapshot | Found::Bitmap);
        shape.takes(step) && !(fixed && step.resizes())
    }
}

/// An image, how it came to be, and what is done to it.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) shape: Shape,
    pub(super) before: Vec<Step>,
    pub(super) found: Found,
    pub(super) steps: Vec<Step>,
}

impl Scenario {
    /// The image that is found, closed, and what it shows.
    pub(super) fn subject(&self) -> Subject {
        if matches!(self.found, Found::Unclosed) {
            let mut subject = Subject::new(self.shape);
            self.before.iter().for_each(|step| subject.step(*step));
            return Subject::found(self.shape, subject.bytes());
        }
        let (mut files, model) = made_by(self.shape, &self.before);
        let image = std::mem::take(&mut files[0]);
        files[0] = match self.found {
            Found::Closed | Found::Unclosed => image,
            Found::Packed => packed(image),
            Found::Snapshot => with_snapshot(image),
            Found::PackedSnapshot => with_snapshot(packed(image)),
            Found::Bitmap => with_bitmap(image),
            Found::Uncounted => uncounted(image),
            Found::Long(len) => lengthened(image, len),
        };
        Subject::over(self.shape, files, model)
    }
}

/// What the disk shows after a step.
pub(super) struct Moment {
    /// So many events had happened.
    pub(super) events: usize,
    /// With so many of them on the medium, the disk is as it is here or as it was later.
    durable: Option<usize>,
    disk: Vec<u8>,
    pub(super) fingerprint: u64,
}

impl Moment {
    fn of(subject: &Subject, durable: Option<usize>) -> Moment {
        let disk = subject.model.clone();
        let events = subject.files[0].done();
        Moment { events, durable, fingerprint: fingerprint(&disk), disk }
    }
}

/// The record of a scenario.
pub(super) struct Run {
    shape: Shape,
    pub(super) before: Vec<Vec<u8>>,
    pub(super) events: Vec<Record>,
    /// The first is the image as it is found, the next that when it was opened, then one a step.
    pub(super) moments: Vec<Moment>,
    snapshots: Vec<Vec<u8>>,
    header: Header,
}

impl Run {
    /// Does what the scenario says, on a medium without faults.
    pub(super) fn of(scenario: &Scenario) -> Run {
        Run::on(scenario.subject(), &scenario.steps)
    }

    /// Opens the subject and does this to it.
    pub(super) fn on(mut subject: Subject, steps: &[Step]) -> Run {
        let before = subject.bytes();
        let mut moments = vec![Moment::of(&subject, Some(0))];
        subject.open().unwrap();
        moments.push(Moment::of(&subject, None));
        for step in steps {
            let start = subject.files[0].done();
            subject.step(*step);
            let events = subject.files[0].records();
            // What is behind the last sync of a flush frees clusters, and no more than that.
            let synced = events.iter().rposition(|record| record.event == Event::Sync);
            let synced = synced.map_or(0, |last| last + 1).max(start);
            moments.push(Moment::of(&subject, step.flushes().then_some(synced)));
            assert!(subject.contents() == subject.model, "{steps:?} up to {step:?}");
        }
        Run {
            shape: subject.shape,
            snapshots: snapshot_disks(&subject.shape, &before),
            header: Header::read(&MemoryStorage::new(before[0].clone())).unwrap(),
            before,
            events: subject.files[0].records(),
            moments,
        }
    }

    /// What the disk may show, sector by sector, when so many events are on the medium and so many
    /// had begun.
    pub(super) fn window(&self, durable: usize, begun: usize) -> &[Moment] {
        let flushed = |moment: &Moment| moment.durable.is_some_and(|events| events <= durable);
        let first = self.moments.iter().rposition(flushed).unwrap_or(0);
        let last = self.moments.iter().position(|moment| moment.events >= begun);
        &self.moments[first..=last.unwrap_or(self.moments.len() - 1).max(first)]
    }

    /// The last moment before this one that is on the medium for good.
    pub(super) fn last_flush_before(&self, moment: usize) -> usize {
        self.moments[..moment].iter().rposition(|moment| moment.durable.is_some()).unwrap_or(0)
    }

    /// Whether an image that was cut short is what it may be; if not, why.
    pub(super) fn judge(&self, state: &[Vec<u8>], window: &[Moment]) -> Result<(), String> {
        let files = in_memory(state);
        let header = Header::read(&*files[0]).map_err(|error| error.to_string())?;
        require(kept(&header) == kept(&self.header), "the header differs")?;
        let dirty = header.incompatible.contains(Incompatible::DIRTY);
        let vouched = header.autoclear.contains(Autoclear::BITMAPS);
        let report = scanned(&files[0], &header)?;
        let sound = if dirty { report.damage().is_none() } else { report.corruptions == 0 };
        require(sound && report.notices == 0, format!("{:?}", report.findings))?;
        let image = self.shape.open_as(&files, header, false);
        let disk = image.and_then(|image| contents(&image)).map_err(|error| error.to_string())?;
        require_one_of(&disk, window)?;
        require(!vouched || disk == self.moments[0].disk, "the bitmap is not true any more")?;
        require(self.shape.is_raw_disk(state, &disk), "the data file is not the disk")?;
        require(snapshot_disks(&self.shape, state) == self.snapshots, "a snapshot differs")?;
        self.write_on(&files, disk, dirty)
    }

    /// It takes further writes, and then is as sound as any.
    fn write_on(
        &self,
        files: &[Arc<MemoryStorage>],
        mut disk: Vec<u8>,
        dirty: bool,
    ) -> Result<(), String> {
        let said = |error: crate::Error| format!("written on: {error}");
        let mut seed = fingerprint(&disk);
        let image = self.shape.open(files, true).map_err(said)?;
        for len in [700, 1 << self.shape.cluster_bits] {
            let at = next(&mut seed) as usize % disk.len();
            let end = (at + len).min(disk.len());
            disk[at..end].fill(next(&mut seed) as u8);
            image.write_at(at as u64, &disk[at..end]).map_err(said)?;
        }
        image.close().map_err(said)?;
        let header = Header::read(&*files[0]).map_err(said)?;
        let report = scanned(&files[0], &header)?;
        let sound = if dirty { report.is_clean() } else { report.corruptions == 0 };
        let sound = sound && !header.incompatible.contains(Incompatible::DIRTY);
        require(sound, format!("written on: {:?}", report.findings))?;
        let image = self.shape.open_as(files, header, false);
        let found = image.and_then(|image| contents(&image)).map_err(said)?;
        require(found == disk, "written on, the disk differs")?;
        let files: Vec<Vec<u8>> = files.iter().map(|file| file.contents()).collect();
        let snapshots = snapshot_disks(&self.shape, &files);
        require(snapshots == self.snapshots, "written on, a snapshot differs")
    }
}

/// What of a header no crash changes.
fn kept(header: &Header) -> impl PartialEq {
    let raw = header.autoclear.contains(Autoclear::RAW_EXTERNAL_DATA);
    (header.backing.clone(), header.snapshots, header.extensions.clone(), raw)
}

/// Whether every sector is as it is at one of these moments.
pub(super) fn require_one_of(disk: &[u8], window: &[Moment]) -> Result<(), String> {
    let lens: Vec<usize> = window.iter().map(|moment| moment.disk.len()).collect();
    require(lens.contains(&disk.len()), format!("a disk of {} bytes, not {lens:?}", disk.len()))?;
    if window.iter().any(|moment| moment.disk == disk) {
        return Ok(());
    }
    for (sector, found) in disk.chunks(512).enumerate() {
        let range = sector * 512..sector * 512 + found.len();
        let known = window.iter().any(|moment| moment.disk.get(range.clone()) == Some(found));
        require(known, format!("sector {sector} has what it never had: {:?}", &found[..8]))?;
    }
    Ok(())
}

pub(super) fn require(is_so: bool, else_why: impl Into<String>) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(else_why.into()) }
}

/// So many clusters are counted and not used.
pub(super) fn leaks(files: &[Vec<u8>]) -> u64 {
    let storage = MemoryStorage::new(files[0].clone());
    let header = Header::read(&storage).unwrap();
    scanned(&storage, &header).unwrap().leaks
}

fn scanned(storage: &MemoryStorage, header: &Header) -> Result<ScanReport, String> {
    scan(storage, header, Task::new(&Silent, &Cancel::new())).map_err(|error| error.to_string())
}
