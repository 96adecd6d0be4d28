//! What the tests change: a disk, its journal and the folder of both, in memory and with one
//! history.

use std::path::Path;
use std::sync::Arc;

use super::format::Journal;
use super::place::Place;
use super::settle::{Settled, settle_at};
use crate::block::{DeviceOptions, Patch, PatchContent};
use crate::error::{Error, Result};
use crate::host::recording::{Record, RecordingStorage};
use crate::host::storage::Storage;
use crate::image::change::{Change, change_raw};
use crate::raw::{Raw, RawAllocation};
use crate::task::{Cancel, Silent, Task};
use crate::units::{ByteSize, VirtualSize};

/// Which file is which.
pub(super) const DISK: usize = 0;
pub(super) const CONTENT: usize = 1;
/// One byte: whether the journal has its name.
pub(super) const FOLDER: usize = 2;

pub(super) struct Subject {
    pub(super) disk: Arc<RecordingStorage>,
    pub(super) place: MemoryPlace,
}

pub(super) struct MemoryPlace {
    content: Arc<RecordingStorage>,
    folder: Arc<RecordingStorage>,
}

impl Place for MemoryPlace {
    fn name(&self) -> &Path {
        Path::new("the-journal")
    }

    fn publish(&self, journal: &Journal<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        journal.encode(&mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        assert_eq!(bytes.len() as u64, journal.encoded_len());
        self.content.set_len(0)?;
        self.content.write_at(0, &bytes)?;
        self.content.sync()?;
        self.folder.write_at(0, &[1])?;
        self.folder.sync().map_err(Error::after_changes)
    }

    fn load(&self) -> Result<Option<Vec<u8>>> {
        Ok((self.folder.contents() == [1]).then(|| self.content.contents()))
    }

    fn remove(&self) -> Result<()> {
        self.folder.write_at(0, &[0])?;
        self.folder.sync()
    }
}

impl Subject {
    pub(super) fn new(files: &[Vec<u8>]) -> Subject {
        let files = RecordingStorage::together(files.to_vec());
        let [disk, content, folder] = files.try_into().expect("three files");
        let place = MemoryPlace { content: Arc::new(content), folder: Arc::new(folder) };
        Subject { disk: Arc::new(disk), place }
    }

    /// A disk without a journal.
    pub(super) fn of(disk: Vec<u8>) -> Subject {
        Subject::new(&[disk, Vec::new(), vec![0]])
    }

    pub(super) fn files(&self) -> Vec<Vec<u8>> {
        vec![self.disk.contents(), self.place.content.contents(), self.place.folder.contents()]
    }

    pub(super) fn has_journal(&self) -> bool {
        self.place.folder.contents() == [1]
    }

    pub(super) fn open(&self) -> Raw {
        let options = DeviceOptions { writable: true, ..DeviceOptions::default() };
        Raw::open_with(Box::new(self.disk.clone()), &options).unwrap()
    }

    pub(super) fn settle(&self) -> Result<Option<Settled>> {
        settle_at(&*self.disk, &self.place, Task::new(&Silent, &Cancel::new()))
    }
}

/// One change of one disk.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) old: Vec<u8>,
    pub(super) new_len: u64,
    pub(super) allocation: RawAllocation,
    pub(super) stages: Vec<Vec<(u64, Vec<u8>)>>,
}

/// Bytes none of which is zero, and which differ for every `seed`.
pub(super) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n * 7 + n / 251 + seed) % 251) as u8 + 1).collect()
}

impl Case {
    pub(super) fn all() -> Vec<Case> {
        let old = |len: usize| {
            let mut bytes = pattern(len, 3);
            bytes[len / 4..len / 2].fill(0);
            bytes
        };
        let new = |at: u64, len: usize| (at, pattern(len, 100 + at as usize % 97));
        let zeros = |at: u64, len: usize| (at, vec![0; len]);
        let grown = Case {
            name: "a file system grows",
            old: old(12 << 10),
            new_len: 40 << 10,
            allocation: RawAllocation::Sparse,
            stages: vec![
                vec![new(13 << 10, 1500), zeros(20 << 10, 9000), new(39 << 10, 1024)],
                vec![new(0, 512), new(5000, 700)],
                vec![new(1024, 1024)],
                vec![zeros(9000, 2000), new(512, 512)],
            ],
        };
        vec![
            Case { name: "with zeros written", allocation: RawAllocation::Zeros, ..grown.clone() },
            Case { name: "one stage", stages: vec![grown.stages.concat()], ..grown.clone() },
            Case {
                name: "the size stays",
                new_len: 12 << 10,
                stages: vec![vec![new(100, 300), zeros(8000, 100)], vec![], vec![new(400, 3000)]],
                ..grown.clone()
            },
            Case {
                name: "stages share a sector, and the old end is in one",
                old: old(5000),
                new_len: 8192,
                stages: vec![
                    vec![new(4900, 300), zeros(200, 30)],
                    vec![new(100, 100), zeros(4500, 400)],
                    vec![new(230, 700), new(8000, 192)],
                ],
                ..grown.clone()
            },
            Case {
                name: "many pieces",
                stages: vec![
                    (13..21).map(|n| new((n * 3 - 26) << 10, 1300)).collect::<Vec<_>>(),
                    (0..6).map(|n| new(n << 11, 1100)).collect(),
                    (0..6).map(|n| zeros((n << 11) + 1100, 800)).collect(),
                ],
                ..grown.clone()
            },
            Case {
                name: "nothing but zeros, where zeros are",
                stages: vec![vec![zeros(3500, 512), zeros(30 << 10, 512)]],
                ..grown.clone()
            },
            grown,
        ]
    }

    pub(super) fn run(&self, subject: &Subject, disk: &mut Raw) -> Result<()> {
        let patch = |(offset, bytes): &'_ (u64, Vec<u8>)| (*offset, bytes.iter().all(|&b| b == 0));
        let stages = self.stages.iter().map(|stage| {
            let patches = stage.iter().map(|written| Patch {
                offset: written.0,
                content: match patch(written).1 {
                    true => PatchContent::Zeros(written.1.len() as u64),
                    false => PatchContent::Bytes(&written.1),
                },
            });
            patches.collect()
        });
        let change = Change {
            raw_allocation: self.allocation,
            stages: stages.collect(),
            ..Change::of_size(size(self.new_len))
        };
        let task = Cancel::new();
        change_raw(disk, Some(&subject.place), &change, Task::new(&Silent, &task))
    }

    pub(super) fn changed(&self) -> Vec<u8> {
        let mut disk = self.old.clone();
        disk.resize(self.new_len as usize, 0);
        for (at, bytes) in self.stages.iter().flatten() {
            disk[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        disk
    }

    /// The files before, and what the change does to them.
    pub(super) fn record(&self) -> (Vec<Vec<u8>>, Vec<Record>) {
        let subject = Subject::of(self.old.clone());
        let before = subject.files();
        self.run(&subject, &mut subject.open())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert!(subject.disk.contents() == self.changed(), "{}", self.name);
        assert!(!subject.has_journal(), "{}", self.name);
        (before, subject.disk.records())
    }

    /// The files at the time when the first `stages` were written.
    pub(super) fn half_way(&self, stages: usize) -> Vec<Vec<u8>> {
        let (before, records) = self.record();
        let subject = Subject::new(&before);
        let files = [&subject.disk, &subject.place.content, &subject.place.folder];
        let mut syncs = 0;
        for Record { file, event } in &records {
            event.apply(&**files[*file]).unwrap();
            let synced = *event == crate::host::recording::Event::Sync;
            syncs += usize::from(*file == DISK && synced);
            // Before the journal, and behind the length.
            if syncs == stages + 2 {
                break;
            }
        }
        assert!(subject.has_journal());
        subject.files()
    }
}

pub(super) fn size(bytes: u64) -> VirtualSize {
    VirtualSize::round_up(ByteSize::from_bytes(bytes)).unwrap()
}
