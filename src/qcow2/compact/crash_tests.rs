//! What a power cut, or a medium that fails, leaves of an image that is being compacted: everything
//! that it shows as it was, with leaked clusters at worst, and fit to be compacted again.

use super::room::FreeClusters;
use super::{MAX_SHARED, Mover, Pass, Shared};
use crate::error::ErrorKind;
use crate::host::recording::{Failure, Fault};
use crate::host::storage::MemoryStorage;
use crate::qcow2::bitmap::{dirty_bytes, read_bitmaps};
use crate::qcow2::check::scan;
use crate::qcow2::crash_states_tests::{after, each_state, next, with_idle_syncs};
use crate::qcow2::fixtures_tests::{flagged, leaking, packed, uncounted, with_bitmap};
use crate::qcow2::geometry::{ClusterCount, HostCluster};
use crate::qcow2::header::{Header, Version};
use crate::qcow2::options::Preallocation;
use crate::qcow2::refcounts::Refcounts;
use crate::qcow2::shape_tests::{PLAIN, Shape};
use crate::qcow2::snapshot::subject_tests::{Kept, Shown, Turn, names};
use crate::qcow2::subject_tests::Step;
use crate::qcow2::table::read_refcount_table;
use crate::task::{Cancel, Silent, StopsAt, Task};

/// An image, how it came to be, and what others made of it.
struct Case {
    name: &'static str,
    shape: Shape,
    before: Vec<Turn>,
    found: fn(Vec<u8>) -> Vec<u8>,
}

const FULL: Turn = Turn::Disk(Step::Write(0, 36 << 10, 7));
const OTHER: Turn = Turn::Disk(Step::Write(5 << 10, 9000, 9));
const HOLE: Turn = Turn::Disk(Step::Discard(1024, 17 << 10));
const FRONT: Turn = Turn::Disk(Step::Discard(0, 28 << 10));
const ALL: Turn = Turn::Disk(Step::Discard(0, 1 << 20));
const PACK: Turn = Turn::Disk(Step::Pack(4, 30, 8));
const PACK_HOLE: Turn = Turn::Disk(Step::Discard(3 << 10, 9 << 10));
const GROW: Turn = Turn::Disk(Step::ResizeInUse(90 << 10));

fn case(name: &'static str, shape: Shape, before: &[Turn]) -> Case {
    Case { name, shape, before: before.to_vec(), found: |bytes| bytes }
}

/// One that nobody thought of.
fn drawn(seed: &mut u64) -> Case {
    let few = Shape { order: 1, ..PLAIN };
    let shapes = [PLAIN, EXTENDED, LAID_OUT, WIDE, OLD, OVERLAY, few, LARGER, LARGER];
    let shape = shapes[next(seed) as usize % shapes.len()];
    let packs = shape.size == LARGER.size;
    let len = 3 + next(seed) % 7 + if packs { 6 } else { 0 };
    let turns = (0..len).map(|turn| {
        let at = next(seed) % shape.size;
        let len = 1 + next(seed) % (shape.size / if packs { 8 } else { 2 });
        if packs && turn == 0 {
            return Turn::Disk(Step::Pack(0, 80, next(seed) as u8));
        }
        match next(seed) % 12 {
            0..4 => Turn::Disk(Step::Write(at, len as usize, next(seed) as u8)),
            4..8 => Turn::Disk(Step::Discard(at, len)),
            8 => Turn::Disk(Step::Pack(next(seed) % 60, 1 + next(seed) % 20, next(seed) as u8)),
            9 => Turn::Disk(Step::Zero(at, len)),
            10 => Turn::Create,
            _ => Turn::Delete(next(seed) as usize % 4),
        }
    });
    let name = if packs { "drawn, compressed" } else { "drawn" };
    case(name, shape, &turns.collect::<Vec<_>>())
}

const EXTENDED: Shape = Shape { cluster_bits: 14, extended: true, size: 224 << 10, ..PLAIN };
const LAID_OUT: Shape = Shape { preallocation: Preallocation::Metadata, ..PLAIN };
const WIDE: Shape = Shape { order: 6, ..PLAIN };
const ONE_BIT: Shape = Shape { order: 0, ..PLAIN };
const OLD: Shape = Shape { version: Version::V2, cluster_bits: 12, size: 160 << 10, ..PLAIN };
const LARGER: Shape = Shape { cluster_bits: 12, size: 300 << 10, ..PLAIN };
const OVERLAY: Shape = Shape { below: Some(30 << 10), ..PLAIN };

/// Compressed data of which every `nth` cluster is given up, `len` at once.
fn with_gaps(nth: u64, len: u64, more: &[Turn]) -> Vec<Turn> {
    let unit = 1 << LARGER.cluster_bits;
    let holes = (0..75 / nth).map(|n| Turn::Disk(Step::Discard(n * nth * unit, len * unit)));
    let pack = Turn::Disk(Step::Pack(0, 75, 8));
    [pack].into_iter().chain(holes).chain(more.iter().copied()).collect()
}

fn gaps(more: &[Turn]) -> Vec<Turn> {
    with_gaps(11, 8, more)
}

fn cases() -> Vec<Case> {
    vec![
        case("nothing in it", PLAIN, &[]),
        case("nothing to do", PLAIN, &[FULL]),
        case("a hole", PLAIN, &[FULL, HOLE]),
        case("the front is gone", PLAIN, &[FULL, FRONT]),
        case("all is gone", PLAIN, &[FULL, ALL]),
        case("grown, tables at the end", PLAIN, &[FULL, GROW, HOLE]),
        case("all laid out", LAID_OUT, &[OTHER, HOLE]),
        case("counts of 64 bits", WIDE, &[FULL, HOLE]),
        case("counts of 64 bits, grown", WIDE, &[FULL, GROW, FRONT]),
        case("counts of a bit", ONE_BIT, &[FULL, GROW, HOLE]),
        case("version 2", OLD, &[Turn::Disk(Step::Write(0, 150 << 10, 3)), HOLE]),
        case(
            "subclusters",
            EXTENDED,
            &[Turn::Disk(Step::Write(700, 220 << 10, 3)), Turn::Disk(Step::Discard(0, 98 << 10))],
        ),
        case("above another", OVERLAY, &[FULL, HOLE]),
        case("compressed", PLAIN, &[PACK, PACK_HOLE]),
        case("compressed beside plain", PLAIN, &[FULL, PACK, HOLE, PACK_HOLE]),
        case("compressed, with a snapshot", PLAIN, &[FULL, PACK, Turn::Create, PACK_HOLE, HOLE]),
        case(
            "compressed, in larger clusters",
            LARGER,
            &[
                Turn::Disk(Step::Pack(0, 60, 8)),
                Turn::Disk(Step::Write(250 << 10, 40 << 10, 3)),
                Turn::Disk(Step::Discard(20 << 10, 120 << 10)),
            ],
        ),
        case("compressed, with gaps", LARGER, &gaps(&[])),
        case("compressed, with gaps and no room", LARGER, &with_gaps(3, 1, &[])),
        case("compressed, with gaps that a snapshot shares", LARGER, &gaps(&[Turn::Create, OTHER])),
        case("compressed, with gaps, counts of two bits", Shape { order: 1, ..LARGER }, &gaps(&[])),
        case(
            "compressed, with gaps that two snapshots share, counts of four bits",
            Shape { order: 2, ..LARGER },
            &gaps(&[Turn::Create, OTHER, Turn::Create]),
        ),
        case("a snapshot", PLAIN, &[FULL, Turn::Create, HOLE]),
        case("what a snapshot shared", PLAIN, &[OTHER, FULL, Turn::Create, FULL, Turn::Delete(0)]),
        case(
            "what a snapshot shares lies behind a hole",
            PLAIN,
            &[FULL, HOLE, Turn::Create, Turn::Disk(Step::Write(35 << 10, 10, 3))],
        ),
        Case {
            found: flagged,
            ..case("what a snapshot of QEMU shares", PLAIN, &[FULL, HOLE, Turn::Create])
        },
        case(
            "snapshots that share",
            PLAIN,
            &[FULL, Turn::Create, OTHER, Turn::Create, FULL, Turn::Create, Turn::Delete(0), HOLE],
        ),
        case(
            "snapshots, wide",
            WIDE,
            &[FULL, Turn::Create, OTHER, Turn::Create, HOLE, Turn::Delete(0)],
        ),
        case(
            "snapshots, grown",
            PLAIN,
            &[FULL, Turn::Create, GROW, OTHER, Turn::Create, Turn::Delete(0)],
        ),
        Case { found: packed, ..case("packed by others", PLAIN, &[FULL, HOLE]) },
        Case { found: with_bitmap, ..case("a bitmap", PLAIN, &[FULL, HOLE]) },
        Case { found: leaking, ..case("leaks", PLAIN, &[FULL]) },
        Case { found: uncounted, ..case("dirty", PLAIN, &[FULL, HOLE]) },
    ]
}

/// What an image holds, its bitmaps included.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    shown: Shown,
    bitmaps: Vec<(Vec<u8>, u64)>,
}

fn whole(shape: &Shape, bytes: &[u8]) -> Whole {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    let bitmaps = read_bitmaps(&storage, &header).unwrap().into_iter().map(|bitmap| {
        let dirty = dirty_bytes(&storage, &header, &bitmap, Task::new(&Silent, &Cancel::new()));
        (bitmap.name.clone(), dirty.unwrap())
    });
    Whole { bitmaps: bitmaps.collect(), shown: Shown::of(shape, bytes).unwrap() }
}

/// How many clusters are used, and where the last of them ends.
fn used(bytes: &[u8]) -> (u64, u64) {
    let storage = MemoryStorage::new(bytes.to_vec());
    let header = Header::read(&storage).unwrap();
    let table = read_refcount_table(&storage, &header).unwrap();
    let mut counts = Refcounts::new(&storage, header.geometry, &table);
    let end = counts.end_of_use(HostCluster::ZERO).unwrap();
    (counts.used(end, u64::MAX).unwrap().unwrap(), end.get())
}

impl Case {
    /// The image as it is found.
    fn image(&self) -> Vec<u8> {
        let mut kept = Kept::new(self.shape);
        for turn in self.before.iter().filter(|turn| self.takes(**turn)) {
            if kept.takes(*turn) {
                kept.turn(*turn);
            }
        }
        kept.subject.close().unwrap();
        kept.subject.is_sound();
        (self.found)(kept.subject.bytes().remove(0))
    }

    fn takes(&self, turn: Turn) -> bool {
        !matches!(turn, Turn::Disk(step) if !self.shape.takes(step))
    }

    /// Compacts it, recorded.
    fn record(&self, bytes: &[u8]) -> Kept {
        let mut kept = Kept::found(self.shape, bytes.to_vec());
        kept.subject.image = Some(self.shape.open(&kept.subject.files, false).unwrap());
        kept.apply(Turn::Compact).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        kept
    }

    /// Whether an image holds this, and is sound; how many clusters are leaked.
    fn judge(&self, state: &[u8], holds: &Whole) -> u64 {
        let storage = MemoryStorage::new(state.to_vec());
        let header = Header::read(&storage).unwrap();
        let report = scan(&storage, &header, Task::new(&Silent, &Cancel::new())).unwrap();
        let dirty = self.name == "dirty";
        assert!(report.damage().is_none(), "{}: {:?}", self.name, report.findings);
        assert!(dirty || report.corruptions == 0, "{}: {:?}", self.name, report.findings);
        let found = whole(&self.shape, state);
        assert!(found == *holds, "{}: {:?}", self.name, names(&found.shown));
        report.leaks + report.counted_beyond_file
    }

    /// Doing it again finishes the work, and the image is used on.
    fn go_on(&self, state: &[u8], holds: &Whole) -> u64 {
        let mut kept = self.record(state);
        let left = kept.subject.bytes().remove(0);
        assert_eq!(self.judge(&left, holds), 0, "{}", self.name);
        kept.subject.open().unwrap();
        for turn in [OTHER, Turn::Create, HOLE, Turn::Apply(0), Turn::Delete(0), Turn::Compact] {
            if kept.takes(turn) && !(self.shape.order == 0 && turn == Turn::Create) {
                kept.turn(turn);
                if !matches!(self.name, "a bitmap" | "dirty") && !matches!(turn, Turn::Disk(_)) {
                    kept.check();
                }
            }
        }
        kept.turn(Turn::Disk(Step::Reopen));
        if !matches!(self.name, "a bitmap" | "dirty") {
            kept.check();
        }
        left.len() as u64
    }
}

#[test]
fn files_become_as_short_as_what_is_in_them() {
    for case in cases() {
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        let kept = case.record(&bytes);
        let done = kept.subject.bytes().remove(0);
        assert_eq!(case.judge(&done, &holds), 0, "{}", case.name);
        let ((before, _), (after, end)) = (used(&bytes), used(&done));
        println!(
            "{}: {} bytes, then {}; {after} of {end} used",
            case.name,
            bytes.len(),
            done.len()
        );
        let is_packed = case.name.contains("pressed") || case.name.contains("packed");
        assert!(done.len() <= bytes.len(), "{}", case.name);
        // What is packed, in clusters of a sector, hardly finds room; what has to lie in a row may
        // leave a few free.
        if !is_packed || case.shape.cluster_bits > 9 {
            let most = if is_packed { before + 3 } else { before };
            let most = if case.name == "dirty" { after } else { most };
            assert!(after <= most && end - after <= 4, "{}: {after} of {end}", case.name);
        }
        let again = case.record(&done).subject.bytes().remove(0);
        if case.name.contains("gaps") {
            assert!(done.len() <= bytes.len() / 10 * 9, "{}: {}", case.name, done.len());
        }
        // What is packed in clusters of a sector may lie in another order each time.
        let is_loose = is_packed && case.shape.cluster_bits == 9 && again.len() <= done.len();
        assert!(is_loose || again == done, "{}: a second time changes nothing", case.name);
    }
}

#[test]
fn a_power_cut_leaves_leaks_at_worst() {
    // In full: `VMDISK_MATRIX=full`.
    let full = std::env::var("VMDISK_MATRIX").is_ok_and(|matrix| matrix == "full");
    let (count, least) = if full { (2500, 100_000) } else { (40, 4_000) };
    let (mut states, mut leaking, mut seed, mut draws) = (0u64, 0, 1, 7);
    let drawn = (0..count).map(|_| drawn(&mut draws));
    for case in cases().into_iter().chain(drawn) {
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        let kept = case.record(&bytes);
        let done = kept.subject.bytes().remove(0);
        let events = kept.subject.files[0].records();
        let mut draw = 9;
        each_state(std::slice::from_ref(&bytes), &events, &mut seed, |state| {
            let state = &state.files[0];
            leaking += u64::from(case.judge(state, &holds) > 0);
            if next(&mut draw).is_multiple_of(40) {
                let (len, best) = (case.go_on(state, &holds), done.len() as u64);
                let most = best + 8 * (1 << case.shape.cluster_bits);
                assert!(len <= most, "{}: {len} bytes, {best} in one go", case.name);
            }
            states += 1;
        });
        assert!(after(&[bytes], &events)[0] == done, "{}: the record is complete", case.name);
    }
    println!("{states} crash states, {leaking} with leaks");
    assert!(states >= least && leaking > 0, "{states} states, {leaking} with leaks");
}

/// What disks share that are switched one by one is not left in two places, nor is anything worse than
/// leaked where the power goes again while they are brought together.
#[test]
fn what_is_shared_stays_shared() {
    let (mut states, mut twice, mut draw) = (0, 0, 9);
    for case in cases().into_iter().filter(|case| case.name.contains("share")) {
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        let kept = case.record(&bytes);
        let best = kept.subject.bytes().remove(0).len();
        // Narrow counts end where a cluster holds few more.
        let most = best + if case.shape.order < 3 { 1 << case.shape.cluster_bits } else { 0 };
        each_state(&[bytes], &kept.subject.files[0].records(), &mut 3, |state| {
            let again = case.record(&state.files[0]);
            let len = again.subject.bytes().remove(0).len();
            assert!(len <= most, "{}: {len} bytes, {best} in one go", case.name);
            states += 1;
            if case.judge(&state.files[0], &holds) > 0 && next(&mut draw).is_multiple_of(40) {
                let events = again.subject.files[0].records();
                each_state(state.files, &events, &mut 5, |state| {
                    case.judge(&state.files[0], &holds);
                    twice += 1;
                });
            }
        });
    }
    println!("{states} crash states, {twice} with a second crash");
    assert!(states > 1000 && twice > 1000, "{states}, {twice}");
}

/// Where one of those who share a cluster stayed, because there was no memory for more, those who come
/// later stay with it: the cluster would be given up below the first one.
#[test]
fn a_shared_cluster_that_stayed_stays() {
    let case = cases().into_iter().find(|case| case.name == "a snapshot").unwrap();
    let storage = MemoryStorage::new(case.image());
    let cancel = Cancel::new();
    let header = Header::read(&storage).unwrap();
    let mut mover = Mover::new(&storage, header, false, Task::new(&Silent, &cancel)).unwrap();
    let end = mover.end_of_use().unwrap();
    let pass =
        || Pass { free: FreeClusters::before(end + ClusterCount::new(8)), ..Pass::default() };
    let mut all = (0..end.get()).map(HostCluster::new);
    let shared = all.find(|cluster| mover.count_of(*cluster).unwrap() > 1).unwrap();
    let from = mover.geometry.host_offset(shared);
    mover.pass = pass();
    let other = Shared { to: end, count: 2, left: 1 };
    let others = (0..MAX_SHARED as u64).map(|n| HostCluster::new(1 << 40 | n));
    mover.shared = others.map(|cluster| (cluster, other)).collect();
    assert_eq!(mover.relocate(from, 1).unwrap(), None);
    mover.shared.clear();
    assert_eq!(mover.relocate(from, 1).unwrap(), None, "there is memory now, and it is too late");
    mover.pass = pass();
    assert!(mover.relocate(from, 1).unwrap().is_some());
}

/// The control: were the syncs not there, the same exploration would find damage.
#[test]
fn without_its_barriers_it_would_be_caught() {
    for name in ["a hole", "snapshots that share", "counts of 64 bits, grown"] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        let events = with_idle_syncs(&case.record(&bytes).subject.files[0].records(), |_| true);
        let mut caught = false;
        each_state(&[bytes], &events, &mut 1, |state| {
            let judge = || case.judge(&state.files[0], &holds);
            caught =
                caught || std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge)).is_err();
        });
        assert!(caught, "{name}");
    }
}

/// Called off at any of its reports, the image holds what it did, and the next one finishes.
#[test]
fn called_off_at_any_step() {
    let mut stops = 0;
    for case in cases() {
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        for nth in 0.. {
            let mut kept = Kept::found(case.shape, bytes.clone());
            let mut image = case.shape.open(&kept.subject.files, false).unwrap();
            let stop = StopsAt::new(nth);
            let done = image.compact(None, stop.task());
            if !stop.has_stopped() {
                done.unwrap();
                break;
            }
            kept.subject.image = Some(image);
            let left = kept.subject.bytes().remove(0);
            match done {
                Ok(_) => assert_eq!(case.judge(&left, &holds), 0, "{}, {nth}", case.name),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Cancelled, "{}, {nth}", case.name);
                    assert!(error.changed() || left == bytes, "{}, {nth}", case.name);
                    case.judge(&left, &holds);
                    case.go_on(&left, &holds);
                    stops += 1;
                }
            }
        }
    }
    println!("called off {stops} times");
    assert!(stops > 100, "{stops}");
}

/// What was written and given up a moment ago need not be on the medium.
#[test]
fn a_disk_in_use_is_compacted() {
    for shape in [PLAIN, WIDE, OVERLAY, LARGER, Shape { version: Version::V3, ..OLD }] {
        let mut kept = Kept::new(shape);
        let end = shape.size;
        for step in [Step::Write(0, end as usize, 7), Step::Discard(1024, end / 4 * 3)] {
            kept.turn(Turn::Disk(step));
        }
        kept.apply(Turn::Compact).unwrap();
        kept.check();
        let bytes = kept.subject.bytes().remove(0);
        assert!((bytes.len() as u64) < end / 2, "{} of {end}", bytes.len());
        let (used, whole) = used(&bytes);
        assert_eq!(used, whole);
        kept.turn(OTHER);
        kept.turn(Turn::Disk(Step::Reopen));
        kept.check();
    }
}

/// Whatever fails, once or for good: it is said, with whether anything was changed, or it is done.
#[test]
fn a_failing_medium_leaves_leaks_at_worst() {
    let failures = [
        Failure::Change(ErrorKind::Io),
        Failure::Change(ErrorKind::NoSpace),
        Failure::ShortWrite,
        Failure::Read,
    ];
    let (mut faults, mut refused) = (0, 0);
    for case in cases() {
        let bytes = case.image();
        let holds = whole(&case.shape, &bytes);
        let (changes, reads) = case.record(&bytes).subject.files[0].operations();
        for failure in failures {
            let all = if failure == Failure::Read { reads } else { changes };
            for (nth, lasts) in (0..all).flat_map(|nth| [(nth, false), (nth, true)]) {
                let mut kept = Kept::found(case.shape, bytes.clone());
                let Ok(image) = case.shape.open(&kept.subject.files, false) else { continue };
                kept.subject.image = Some(image);
                kept.subject.files[0].fail(Fault { nth, failure, lasts });
                let failed = kept.apply(Turn::Compact).err();
                let left = kept.subject.bytes().remove(0);
                if let Some(error) = failed {
                    assert!(error.changed() || left == bytes, "{} {nth}: {error}", case.name);
                    refused += 1;
                }
                case.judge(&left, &holds);
                if nth % 7 == 0 {
                    case.go_on(&left, &holds);
                }
                faults += 1;
            }
        }
    }
    println!("{faults} faults, {refused} of them told");
    assert!(faults >= 3000 && refused >= 2000, "{faults}, {refused}");
}
