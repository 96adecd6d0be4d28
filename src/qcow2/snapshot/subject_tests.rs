//! An image whose disk and snapshots are changed in turn, and what each of them should show.

use std::time::{Duration, SystemTime};

use super::change::NewSnapshot;
use crate::error::{ErrorKind, Result};
use crate::qcow2::fixtures_tests::snapshot_disks;
use crate::qcow2::header::{Header, Version};
use crate::qcow2::shape_tests::{Shape, contents, in_memory};
use crate::qcow2::subject_tests::{Step, Subject};
use crate::task::{Cancel, Silent, Task};

/// What is done to an image. Numbers of snapshots are cut to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::qcow2) enum Turn {
    Disk(Step),
    Create,
    Apply(usize),
    Delete(usize),
    /// Makes the file as short as what is in it.
    Compact,
}

/// What an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qcow2) struct Shown {
    pub(in crate::qcow2) disk: Vec<u8>,
    /// The name of each snapshot, and its disk.
    pub(in crate::qcow2) snapshots: Vec<(String, Vec<u8>)>,
}

impl Shown {
    /// What the image in this file holds.
    pub(in crate::qcow2) fn of(shape: &Shape, bytes: &[u8]) -> Result<Shown> {
        let files = [bytes.to_vec()];
        let open = in_memory(&files);
        let header = Header::read(&*open[0])?;
        let names = super::read_snapshots(&*open[0], &header)?.into_iter();
        let names = names.map(|snapshot| String::from_utf8(snapshot.name).unwrap());
        let snapshots = names.zip(snapshot_disks(shape, &files)).collect();
        Ok(Shown { disk: contents(&shape.open_as(&open, header, false)?)?, snapshots })
    }
}

/// An image and what it should hold.
pub(in crate::qcow2) struct Kept {
    pub(in crate::qcow2) subject: Subject,
    pub(in crate::qcow2) snapshots: Vec<(String, Vec<u8>)>,
    made: usize,
}

impl Kept {
    pub(in crate::qcow2) fn new(shape: Shape) -> Kept {
        Kept { subject: Subject::new(shape), snapshots: Vec::new(), made: 0 }
    }

    /// One that is there already, closed.
    pub(in crate::qcow2) fn found(shape: Shape, bytes: Vec<u8>) -> Kept {
        let shown = Shown::of(&shape, &bytes).unwrap();
        let made = 100 + shown.snapshots.len();
        let subject = Subject::over(shape, vec![bytes], shown.disk);
        Kept { subject, snapshots: shown.snapshots, made }
    }

    pub(in crate::qcow2) fn shown(&self) -> Shown {
        Shown { disk: self.subject.model.clone(), snapshots: self.snapshots.clone() }
    }

    /// Whether such an image can have this done to it.
    pub(in crate::qcow2) fn takes(&self, turn: Turn) -> bool {
        match turn {
            Turn::Disk(step) => {
                let fixed = self.subject.shape.version == Version::V2 && !self.snapshots.is_empty();
                !(step.resizes() && fixed)
            }
            Turn::Create | Turn::Compact => true,
            Turn::Apply(_) | Turn::Delete(_) => !self.snapshots.is_empty(),
        }
    }

    /// Does it to the image alone.
    pub(in crate::qcow2) fn apply(&mut self, turn: Turn) -> Result<()> {
        let cancel = Cancel::new();
        let task = Task::new(&Silent, &cancel);
        let name = |n: usize| self.snapshots[n % self.snapshots.len()].0.clone();
        let change = match turn {
            Turn::Disk(step) => return self.subject.apply(step),
            Turn::Compact => {
                let image = self.subject.image.as_mut().unwrap();
                return image.compact(None, task).map(drop);
            }
            Turn::Create => {
                let taken_at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.made as u64);
                let new = NewSnapshot { name: format!("snapshot {}", self.made), taken_at };
                self.subject.image.as_mut().unwrap().create_snapshot(&new, task)
            }
            Turn::Apply(n) => {
                let name = name(n);
                self.subject.image.as_mut().unwrap().apply_snapshot(&name, false, task)
            }
            Turn::Delete(n) => {
                let name = name(n);
                self.subject.image.as_mut().unwrap().delete_snapshot(&name, task)
            }
        };
        change.map(drop)
    }

    /// Does it to the image and the model. A count that has no room for another reference is the
    /// only reason not to; nothing is changed then.
    pub(in crate::qcow2) fn turn(&mut self, turn: Turn) {
        if let Turn::Disk(step) = turn {
            return self.subject.step(step);
        }
        self.subject.apply(Step::Flush).unwrap();
        if let Err(error) = self.apply(turn) {
            let told = (error.kind(), error.changed());
            assert_eq!(told, (ErrorKind::UnsupportedFeature, false), "{turn:?}: {error}");
            assert!(error.to_string().contains("reference counts of"), "{error}");
            return;
        }
        match turn {
            Turn::Disk(_) | Turn::Compact => {}
            Turn::Create => {
                let made = (format!("snapshot {}", self.made), self.subject.model.clone());
                self.snapshots.push(made);
                self.made += 1;
            }
            Turn::Apply(n) => {
                self.subject.model = self.snapshots[n % self.snapshots.len()].1.clone();
            }
            Turn::Delete(n) => drop(self.snapshots.remove(n % self.snapshots.len())),
        }
    }

    /// Everything shows what it should, in memory and on the medium, and every cluster is counted
    /// as often as it is referred to.
    pub(in crate::qcow2) fn check(&self) {
        assert!(self.subject.contents() == self.subject.model, "the disk in use");
        let shown = Shown::of(&self.subject.shape, &self.subject.bytes()[0]).unwrap();
        assert!(shown == self.shown(), "{:?}", names(&shown));
        self.subject.is_sound();
    }
}

pub(in crate::qcow2) fn names(shown: &Shown) -> Vec<&str> {
    shown.snapshots.iter().map(|(name, _)| name.as_str()).collect()
}
