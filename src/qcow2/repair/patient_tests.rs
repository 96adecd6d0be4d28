//! Images to be damaged and repaired.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RepairPlan;
use crate::block::BlockDevice;
use crate::host::storage::{MemoryStorage, Storage};
use crate::qcow2::damage::Damage;
use crate::qcow2::header::{Encryption, Header};
use crate::qcow2::shape_tests::Shape;
use crate::task::{Cancel, Silent, Task};

/// Does damage, as far as the image has a place for it and its header can still be read.
pub(super) fn hurt(storage: &dyn Storage, damages: &[(Damage, u64)]) {
    for (damage, seed) in damages {
        let Ok(header) = Header::read(storage) else { return };
        let wounds = damage.plan(storage, &header, *seed).unwrap_or_default();
        wounds.iter().try_for_each(|wound| wound.inflict(storage)).unwrap();
    }
}

/// The header of what a test can open and look at.
pub(super) fn header_of(bytes: &[u8]) -> Option<Header> {
    let header = Header::read(&MemoryStorage::new(bytes.to_vec())).ok()?;
    let plain = header.encryption == Encryption::None && !header.has_external_data();
    (plain && header.virtual_size <= 1 << 20).then_some(header)
}

/// What each cluster reads, where it can be read.
pub(super) fn clusters(shape: Shape, bytes: &[u8]) -> BTreeMap<u64, Option<Vec<u8>>> {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let image = shape.open(&[storage], false).unwrap();
    let unit = 1u64 << shape.cluster_bits;
    let read = |at: u64| {
        let mut found = vec![0; unit.min(image.size() - at) as usize];
        image.read_at(at, &mut found).ok().map(|()| found)
    };
    (0..image.size()).step_by(unit as usize).map(|at| (at, read(at))).collect()
}

/// Says which cluster reads otherwise than before, though the plan does not name it as lost.
/// `doubtful` says whether those may differ that it keeps, though metadata lay there too.
pub(super) fn changed_silently(
    before: &BTreeMap<u64, Option<Vec<u8>>>,
    after: &BTreeMap<u64, Option<Vec<u8>>>,
    plan: &RepairPlan,
    doubtful: bool,
) -> Option<u64> {
    let lost = |at: u64| {
        let lost = plan.lost.iter().filter(|lost| doubtful || !lost.kept);
        let ranges = lost.filter_map(|lost| Some((lost.guest?.get(), lost.bytes)));
        ranges.into_iter().any(|(guest, bytes)| (guest..guest + bytes).contains(&at))
    };
    let differs = |at: &u64, was: &Vec<u8>| after.get(at).and_then(Option::as_ref) != Some(was);
    let readable = before.iter().filter_map(|(at, was)| Some((at, was.as_ref()?)));
    let mut changed = readable.filter(|(at, was)| !lost(**at) && differs(at, was));
    changed.next().map(|(at, _)| *at)
}

pub(super) fn task(cancel: &Cancel) -> Task<'_> {
    Task::new(&Silent, cancel)
}
