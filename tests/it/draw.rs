//! Cases drawn from a seed, and run on both cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers that look random and repeat for the same seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    /// From the seed in the environment variable `VMDISK_SEED`, else from `default`; says which.
    pub(crate) fn seeded(default: u64) -> Draw {
        let told = std::env::var("VMDISK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = told.unwrap_or(default);
        println!("seed {seed}: repeat with VMDISK_SEED={seed}");
        Draw(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("an index")]
    }

    /// A whole number of sectors, in bytes: at least one, at most `max`.
    pub(crate) fn sectors(&mut self, max: u64) -> u64 {
        512 * (1 + self.below(max / 512))
    }

    /// From this seed, whatever the environment says.
    pub(crate) const fn from_seed(seed: u64) -> Draw {
        Draw(seed)
    }

    /// Its own numbers for one case of many, whatever the others draw.
    pub(crate) fn fork(&mut self) -> Draw {
        Draw(self.next())
    }
}

/// Whether everything is tried that is otherwise sampled: `VMDISK_MATRIX=full`.
pub(crate) fn whole_matrix() -> bool {
    std::env::var("VMDISK_MATRIX").is_ok_and(|value| value == "full")
}

/// Runs every case on two threads; fails with the names of all that failed.
pub(crate) fn each<T: Sync + std::fmt::Debug>(cases: &[T], run: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(case))) {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&t| t.to_owned()));
                let text = text.unwrap_or_default();
                failures.lock().expect("no poison").push(format!("{case:?}\n    {text}"));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failures = failures.into_inner().expect("no poison");
    let (failed, all) = (failures.len(), cases.len());
    assert!(failures.is_empty(), "{failed} of {all} cases failed:\n{}", failures.join("\n"));
}
