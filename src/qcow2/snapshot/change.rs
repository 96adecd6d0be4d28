//! Making, applying and deleting snapshots.

use std::time::{Duration, SystemTime};

use super::counts::NewCounts;
use super::table::{Place, Snapshot, find_snapshot, read_with_places};
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::refuse_read_only;
use crate::qcow2::check::scan;
use crate::qcow2::error::Problem;
use crate::qcow2::feature::{Autoclear, Incompatible};
use crate::qcow2::geometry::{HostCluster, HostOffset};
use crate::qcow2::header::{Header, MAX_SNAPSHOTS, TableRef, Version};
use crate::qcow2::leaks::free_leaks;
use crate::qcow2::open::Qcow2;
use crate::qcow2::table::read_refcount_table;
use crate::task::Task;

/// The longest name that QEMU keeps, in bytes.
const MAX_NAME: usize = 255;

/// A snapshot that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name: 1 to 255 bytes without control characters, and no other snapshot's name or id.
    pub name: String,
    /// When it is taken.
    pub taken_at: SystemTime,
}

impl NewSnapshot {
    /// With this name, taken now.
    pub fn now(name: impl Into<String>) -> Self {
        NewSnapshot { name: name.into(), taken_at: SystemTime::now() }
    }
}

/// What a change of the snapshots did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotChange {
    /// The snapshot that was made, applied or deleted.
    pub snapshot: Snapshot,
    /// By how many bytes what the image has in use became less.
    pub freed_bytes: u64,
    /// Whether the image was dirty, and its reference counts were made true first.
    pub rebuilt: bool,
}

/// A change, as it is planned.
pub(super) enum Change<'a> {
    Create { snapshot: &'a Snapshot, places: &'a [Place] },
    Apply { snapshot: &'a Snapshot },
    Delete { snapshot: &'a Snapshot, place: usize, places: &'a [Place] },
}

impl Change<'_> {
    /// Where the entries of the snapshot table are, if that is written anew.
    pub(super) fn places(&self) -> &[Place] {
        match self {
            Change::Create { places, .. } | Change::Delete { places, .. } => places,
            Change::Apply { .. } => &[],
        }
    }
}

impl Qcow2 {
    /// The snapshots that the image has, in the order of the table.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for an entry beyond the format's limits or the file's end.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        super::read_snapshots(&*self.storage, &self.header)
    }

    /// Keeps what the disk holds now under a name. The disk goes on as it is, and what is shared is
    /// copied when it is written. The reference counts of a dirty image are rebuilt first, and leaked
    /// clusters are freed. The caller must hold the image's lock. Everything written before is on the medium afterwards.
    ///
    /// A crash leaves the image without the snapshot or with it, and nothing leaked. So does a
    /// failure: where its error is not [`changed`](Error::changed), the image is used on as it was;
    /// else nothing more is written to it, and it must be opened again.
    ///
    /// # Errors
    /// Before anything is changed: [`BadRequest`](ErrorKind::BadRequest) for a name that cannot be;
    /// [`Exists`](ErrorKind::Exists) for one that is another snapshot's name or id;
    /// [`HasSnapshots`](ErrorKind::HasSnapshots) where the table is full;
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with an external data file, where a
    /// reference count has no room for one more, and for an image that hyperkit writes, which would
    /// lose it; [`Corrupt`](ErrorKind::Corrupt) for an image that a
    /// [scan](crate::qcow2::check::scan()) finds damaged; [`Permission`](ErrorKind::Permission) for a
    /// storage that cannot be written; [`NoSpace`](ErrorKind::NoSpace) where what is added does not
    /// fit on a block device. Afterwards ([`changed`](Error::changed) is set) what the storage says.
    pub fn create_snapshot(&mut self, new: &NewSnapshot, task: Task<'_>) -> Result<SnapshotChange> {
        self.refuse_snapshots()?;
        if self.header.is_for_hyperkit() {
            let message = "hyperkit, which writes this image, would lose its internal snapshots";
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        let (snapshots, places) = read_with_places(&*self.storage, &self.header)?;
        let snapshot = self.new_snapshot(new, &snapshots)?;
        let change = Change::Create { snapshot: &snapshot, places: &places };
        let (freed_bytes, rebuilt) = self.change_snapshots(&change, task)?;
        let made = self.snapshots().ok().and_then(|mut snapshots| snapshots.pop());
        Ok(SnapshotChange { snapshot: made.unwrap_or(snapshot), freed_bytes, rebuilt })
    }

    /// Makes the disk what it was when a snapshot was taken, and as large; what it holds now is
    /// lost, unless another snapshot has it. The snapshot stays. The state of a machine that was
    /// saved with it stays with it alone: `disk_only` says that the caller knows.
    ///
    /// What a crash or a failure leaves is as with [`create_snapshot`](Self::create_snapshot).
    ///
    /// # Errors
    /// Before anything is changed: [`NotFound`](ErrorKind::NotFound),
    /// [`BadRequest`](ErrorKind::BadRequest) where several are meant;
    /// [`UnsupportedFeature`](ErrorKind::UnsupportedFeature) with an external data file, with
    /// bitmaps, which would not be true any more, and for a snapshot with the state of a machine
    /// unless `disk_only` is set; [`HasSnapshots`](ErrorKind::HasSnapshots) where the size would
    /// change and a snapshot does not say its own, or in version 2; and as
    /// [`create_snapshot`](Self::create_snapshot).
    pub fn apply_snapshot(
        &mut self,
        id_or_name: &str,
        disk_only: bool,
        task: Task<'_>,
    ) -> Result<SnapshotChange> {
        self.refuse_snapshots()?;
        let snapshots = self.snapshots()?;
        let place = find_snapshot(&snapshots, id_or_name)?;
        let snapshot = found(&snapshots, place)?;
        if snapshot.vm_state_bytes > 0 && !disk_only {
            let message = format!(
                "the snapshot was taken with {} bytes of a running machine's state: its disk alone \
                 is one that was in use",
                snapshot.vm_state_bytes
            );
            return Err(Error::new(ErrorKind::UnsupportedFeature, message).in_field("disk_only"));
        }
        if self.header.bitmaps().is_some() && self.header.autoclear.contains(Autoclear::BITMAPS) {
            let message = "the image has bitmaps, which say nothing about the disk of a snapshot";
            return Err(Error::new(ErrorKind::UnsupportedFeature, message));
        }
        if snapshot.disk_size(&self.header) != self.header.virtual_size {
            self.refuse_other_size(&snapshots)?;
        }
        self.header.at_snapshot(&*self.storage, snapshot)?;
        let (freed_bytes, rebuilt) = self.change_snapshots(&Change::Apply { snapshot }, task)?;
        Ok(SnapshotChange { snapshot: snapshot.clone(), freed_bytes, rebuilt })
    }

    /// Deletes a snapshot, and the state of a machine with it; the disk stays as it is.
    ///
    /// What a crash or a failure leaves is as with [`create_snapshot`](Self::create_snapshot).
    ///
    /// # Errors
    /// Before anything is changed: [`NotFound`](ErrorKind::NotFound),
    /// [`BadRequest`](ErrorKind::BadRequest) where several are meant, and as
    /// [`create_snapshot`](Self::create_snapshot).
    pub fn delete_snapshot(&mut self, id_or_name: &str, task: Task<'_>) -> Result<SnapshotChange> {
        self.refuse_snapshots()?;
        let (snapshots, places) = read_with_places(&*self.storage, &self.header)?;
        let place = find_snapshot(&snapshots, id_or_name)?;
        let snapshot = found(&snapshots, place)?;
        let change = Change::Delete { snapshot, place, places: &places };
        let (freed_bytes, rebuilt) = self.change_snapshots(&change, task)?;
        Ok(SnapshotChange { snapshot: snapshot.clone(), freed_bytes, rebuilt })
    }

    fn change_snapshots(&mut self, change: &Change<'_>, task: Task<'_>) -> Result<(u64, bool)> {
        self.settle()?;
        let rebuilt = self.header.incompatible.contains(Incompatible::DIRTY);
        if rebuilt {
            self.rebuild_refcounts(task)?;
        }
        let freed_bytes = self.change_whole(|image| {
            let changed = image.change_clean(change, task);
            if rebuilt { changed.map_err(Error::after_changes) } else { changed }
        })?;
        Ok((freed_bytes, rebuilt))
    }

    /// Returns the header after the switch, too.
    fn change_clean(&self, change: &Change<'_>, task: Task<'_>) -> Result<(Header, u64)> {
        let (storage, geometry) = (&*self.storage, self.header.geometry);
        let report = scan(storage, &self.header, task)?;
        report.require_sound()?;
        let used = geometry.host_cluster(report.end_of_use).max(HostCluster::new(1));
        let plan = || {
            let table = read_refcount_table(storage, &self.header)?;
            let counts = NewCounts::new(storage, geometry, table);
            self.plan_snapshots(change, counts, used, task)
        };
        if report.leaks == 0 && report.counted_beyond_file == 0 {
            drop(report);
            return self.carry_out(plan()?, task);
        }
        // A count that is too high hides that one entry alone is left, which would have to say so. What
        // speaks against the change does before anything is changed.
        plan()?;
        let (_, lowered) = free_leaks(storage, &self.header, &report)?;
        drop(report);
        let done = plan().and_then(|plan| self.carry_out(plan, task));
        let (header, freed_bytes) = done.map_err(Error::after_changes)?;
        Ok((header, freed_bytes.saturating_add(lowered.freed_bytes)))
    }

    /// Refuses what no change of the snapshots can be done to.
    fn refuse_snapshots(&self) -> Result<()> {
        refuse_read_only(&*self.storage)?;
        self.header.require_not_corrupt()?;
        self.header.require_own_data()
    }

    /// The size of a disk may change only where every snapshot says its own.
    fn refuse_other_size(&self, snapshots: &[Snapshot]) -> Result<()> {
        let refused = |why: &str| Err(Error::new(ErrorKind::HasSnapshots, why));
        if self.header.version == Version::V2 {
            return refused("the size of a version 2 image with internal snapshots cannot change");
        }
        if snapshots.iter().any(|snapshot| snapshot.disk_size_bytes.is_none()) {
            return refused("an internal snapshot does not say how large its disk is");
        }
        Ok(())
    }

    /// The entry of a new snapshot; its L1 table has no place yet.
    fn new_snapshot(&self, new: &NewSnapshot, snapshots: &[Snapshot]) -> Result<Snapshot> {
        let name = new.name.as_str();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            let message = format!(
                "a snapshot's name has 1 to {MAX_NAME} bytes and no control characters, found {}",
                if name.is_empty() || name.len() > MAX_NAME {
                    format!("{} bytes", name.len())
                } else {
                    format!("'{}'", name.escape_debug())
                }
            );
            return Err(Error::new(ErrorKind::BadRequest, message).in_field("name"));
        }
        if let Some(other) = snapshots.iter().find(|snapshot| snapshot.is_called(name)) {
            let (id, other) = (other.id.escape_ascii(), other.name.escape_ascii());
            let name = name.escape_debug();
            let message = format!("'{name}' is the snapshot '{other}' (id {id}) already");
            return Err(Error::new(ErrorKind::Exists, message).in_field("name"));
        }
        if snapshots.len() >= crate::qcow2::lengths::index(MAX_SNAPSHOTS) {
            let message = format!("the image has {MAX_SNAPSHOTS} snapshots, which is the limit");
            return Err(Error::new(ErrorKind::HasSnapshots, message));
        }
        let since = new.taken_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(Snapshot {
            l1: TableRef { offset: HostOffset::ZERO, count: 0 },
            id: free_id(name, snapshots).into_bytes(),
            name: name.as_bytes().to_vec(),
            date_seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
            date_nanoseconds: since.subsec_nanos(),
            vm_clock_nanoseconds: 0,
            instructions: None,
            vm_state_bytes: 0,
            disk_size_bytes: Some(self.header.virtual_size),
        })
    }
}

/// A number above all ids that are numbers, and nobody's name.
fn free_id(name: &str, snapshots: &[Snapshot]) -> String {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let last = snapshots.iter().filter_map(|snapshot| number(&snapshot.id)).max();
    let next = u64::from(last.unwrap_or(0)).saturating_add(1);
    let free = |id: &String| {
        id != name && !snapshots.iter().any(|snapshot| snapshot.name == id.as_bytes())
    };
    (next..=u64::MAX).map(|id| id.to_string()).find(free).unwrap_or_default()
}

fn found(snapshots: &[Snapshot], place: usize) -> Result<&Snapshot> {
    snapshots.get(place).ok_or_else(|| Problem::SnapshotTable.into_error())
}
