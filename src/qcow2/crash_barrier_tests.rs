//! No sync is there for nothing: with any one of them idle, some power cut does damage, loses what
//! was flushed or leaves what was closed half closed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::crash_states_tests::{after, each_state, with_idle_syncs};
use super::scenario_tests::{Found, Run, Scenario};
use super::shape_tests::{Data, PLAIN, Shape};
use super::subject_tests::Step;
use crate::host::recording::Event;

const KIB: u64 = 1024;
const WIDE: Shape = Shape { order: 6, size: 60 * KIB, ..PLAIN };

/// The syncs that nothing depends on: the function that asks for it, which of those in it it is,
/// and why it is spare.
const SPARE: &[(&str, usize, &str)] = &[
    ("make_true", 1, "flags that come before their counts do so under the dirty bit"),
    ("drop_idle_blocks", 1, "a count that goes with its block need not go down before"),
];

/// Files whose syncs have a test of their own, beside what they are asked for by.
const ELSEWHERE: &[&str] = &["header_change.rs"];

/// What is done to a disk that begins with data, and that should not be cut short.
fn scenarios() -> Vec<Scenario> {
    let scenario = |shape, found, steps: &[Step]| {
        let before = vec![Step::Write(0, 4096, 7)];
        Scenario { shape, before, found, steps: steps.to_vec() }
    };
    let moved = [
        Step::Discard(0, 2048),
        Step::Write(9 * KIB, 1024, 9),
        Step::Flush,
        Step::Write(100, 5000, 3),
        Step::Write(20 * KIB, 2048, 9),
        Step::Flush,
        Step::Discard(20 * KIB, 1024),
        Step::Reopen,
    ];
    let packed = [Step::Pack(2, 5, 9), Step::Flush, Step::Pack(3, 5, 1), Step::Reopen];
    let (late, apart) = (Shape { lazy: true, ..PLAIN }, Shape { data: Data::Apart, ..PLAIN });
    vec![
        scenario(PLAIN, Found::Closed, &moved),
        scenario(PLAIN, Found::Closed, &packed),
        scenario(late, Found::Closed, &moved),
        scenario(apart, Found::Closed, &moved),
        scenario(PLAIN, Found::Bitmap, &[Step::Write(0, 512, 1), Step::Reopen]),
        // New refcount blocks.
        scenario(WIDE, Found::Closed, &[Step::Write(0, 60 << 10, 9), Step::Reopen]),
        scenario(WIDE, Found::Uncounted, &moved),
        scenario(PLAIN, Found::Closed, &[Step::Resize(5000 * KIB)]),
        // A refcount block that counts nothing any more.
        Scenario {
            shape: Shape { size: 128 * KIB, ..WIDE },
            before: vec![Step::Write(0, 4096, 7), Step::Write(20 * KIB, 70 << 10, 3)],
            found: Found::Closed,
            steps: vec![Step::Resize(25 * KIB + 512)],
        },
    ]
}

/// Whether `run` with this event, a sync, idle can leave what it must not.
fn is_damaging(run: &Run, idle: usize) -> bool {
    let mut damaged = false;
    // What ends with a sync is on the medium whole; leaks may be behind the last.
    let end = after(&run.before, &run.events);
    let closes = run.events.last().is_some_and(|last| last.event == Event::Sync);
    each_state(&run.before, &with_idle_syncs(&run.events, |n| n == idle), &mut 1, |state| {
        if damaged {
            return;
        }
        let window = run.window(state.durable, state.begun);
        let is_closed = closes && state.durable == run.events.len();
        damaged = run.judge(state.files, window).is_err() || is_closed && state.files != end;
    });
    damaged
}

/// Where in the engine a sync is asked for: the file, the line, the function.
type Site = (String, usize, String);

/// Who asked for a sync; nobody knows in a program without the names of its functions.
fn site(trace: &str) -> Option<Site> {
    let lines: Vec<&str> = trace.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains("src/qcow2/"))?;
    let function = lines[at.checked_sub(1)?].rsplit([':', ' ']).next()?;
    let (_, place) = lines[at].split_once("src/qcow2/")?;
    let mut place = place.split(':');
    Some((place.next()?.to_owned(), place.next()?.parse().ok()?, function.to_owned()))
}

/// Every line of the engine that asks for a sync.
fn lines_that_sync() -> BTreeSet<(String, usize)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/qcow2");
    let mut found = BTreeSet::new();
    for folder in [root.clone(), root.join("resize"), root.join("check")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let is_source = name.ends_with(".rs") && !name.ends_with("tests.rs");
            if !is_source || ELSEWHERE.contains(&name.as_str()) {
                continue;
            }
            let code = fs::read_to_string(&path).unwrap();
            let lines = (1..).zip(code.lines()).filter(|(_, line)| line.contains(".sync()"));
            found.extend(lines.map(|(number, _)| (name.clone(), number)));
        }
    }
    found
}

#[test]
fn no_sync_is_there_for_nothing() {
    let (mut sites, mut syncs) = (BTreeMap::<Site, usize>::new(), 0);
    for scenario in scenarios() {
        let subject = scenario.subject();
        let recorder = subject.files[0].clone();
        recorder.trace_syncs();
        let run = Run::on(subject, &scenario.steps);
        assert!(!is_damaging(&run, run.events.len()), "{scenario:?}: with every sync");
        let numbers = (0..run.events.len()).filter(|n| run.events[*n].event == Event::Sync);
        for (idle, trace) in numbers.zip(recorder.sync_traces()) {
            let Some(site) = site(&trace) else {
                println!("built without the names of functions: not tested");
                return;
            };
            *sites.entry(site).or_default() += usize::from(is_damaging(&run, idle));
            syncs += 1;
        }
    }
    println!("{syncs} syncs at {} places", sites.len());
    let places: BTreeSet<_> = sites.keys().map(|(file, line, _)| (file.clone(), *line)).collect();
    assert_eq!(places, lines_that_sync(), "every sync is met");
    let mut earlier = BTreeMap::<&str, usize>::new();
    let mut idle = Vec::new();
    for ((_, _, function), damaged) in &sites {
        let nth = earlier.entry(function).or_default();
        *nth += 1;
        if *damaged == 0 {
            idle.push((&**function, *nth));
        }
    }
    let spare: Vec<_> = SPARE.iter().map(|(function, nth, _)| (*function, *nth)).collect();
    assert_eq!(idle, spare, "{sites:#?}");
}
