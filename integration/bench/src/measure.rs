//! The measuring itself.

use std::io::Result;

use crate::process::{Invocation, Sample, WorkFolder};
use crate::stats::Times;
use crate::sys::settle;
use crate::work::{self, Memory, MemoryCase, Programs, Rival, Subject, Work};

/// How many requests a session has answered when its memory is looked at.
pub(crate) const FEW: u32 = 1_000;
/// And how many the second time.
pub(crate) const MANY: u32 = 100_000;

/// What a work took, whoever did it.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) work: Work,
    pub(crate) runs: usize,
    pub(crate) vmdisk: Times,
    /// The times of each rival, in the work's order.
    pub(crate) rivals: Vec<Times>,
    /// The most memory that vmdisk had, in KiB.
    pub(crate) peak_kib: u64,
    /// The most that each rival had, in the work's order, in KiB.
    pub(crate) rival_peaks_kib: Vec<u64>,
}

impl Measured {
    /// Each rival with its times.
    pub(crate) fn comparisons(&self) -> impl Iterator<Item = (&Rival, &Times)> {
        self.work.rivals.iter().zip(&self.rivals)
    }

    /// The most memory that vmdisk should have had, in KiB, where that is said.
    pub(crate) fn most_kib(&self) -> Option<u64> {
        match self.work.memory? {
            Memory::Kib(kib) => Some(kib),
            Memory::Part(parts) => Some(self.rival_peaks_kib.first()? / parts),
        }
    }
}

/// How often a work is done, of so many runs: long ones half as often.
fn runs_of(work: &Work, runs: usize) -> usize {
    if work.is_long { runs.div_ceil(2) } else { runs }
}

/// Everybody does the work in turn, `runs` times, so that what drifts hits all alike; who begins
/// changes from round to round, so that nobody always comes after the same one. A first round is
/// not counted: after it, programs and libraries are in the page cache.
pub(crate) fn measure(work: Work, runs: usize, folder: &WorkFolder) -> Result<Measured> {
    folder.clear()?;
    if let Subject::Standing(make) | Subject::Renewed { once: make, .. } = &work.subject {
        make.iter().try_for_each(|make| make.run(folder.path()).map(drop))?;
    }
    let all: Vec<_> =
        [&work.vmdisk].into_iter().chain(work.rivals.iter().map(|r| &r.invocation)).collect();
    let runs = runs_of(&work, runs);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); all.len()];
    for round in 0..=runs {
        for turn in 0..all.len() {
            let who = (round + turn) % all.len();
            let sample = run_once(&work.subject, all[who], folder)?;
            if round > 0 {
                samples[who].push(sample);
            }
        }
    }
    folder.clear()?;
    let peak = |samples: &Vec<Sample>| samples.iter().map(|sample| sample.peak_kib).max();
    let mut peaks_kib: Vec<_> = samples.iter().map(|of| peak(of).unwrap_or_default()).collect();
    let peak_kib = peaks_kib.remove(0);
    let times = |samples: Vec<Sample>| Times::new(samples.iter().map(|s| s.elapsed).collect());
    let mut times = samples.into_iter().map(times);
    let vmdisk = times.next().unwrap_or_else(|| Times::new(Vec::new()));
    let rivals = times.collect();
    Ok(Measured { work, runs, vmdisk, rivals, peak_kib, rival_peaks_kib: peaks_kib })
}

/// One run, with the subject as it must be and nothing of earlier runs left to be written.
fn run_once(subject: &Subject, who: &Invocation, folder: &WorkFolder) -> Result<Sample> {
    match subject {
        Subject::Standing(_) => {}
        Subject::Absent => folder.clear()?,
        Subject::Fresh(make) => {
            folder.clear()?;
            make.run(folder.path())?;
        }
        Subject::Renewed { anew, .. } => drop(anew.run(folder.path())?),
    }
    settle();
    who.run(folder.path())
}

/// The memory of a session after a few requests and after very many, in KiB.
pub(crate) fn endless(programs: &Programs, folder: &WorkFolder) -> Result<(u64, u64)> {
    let (make, rpc, request) = work::endless(programs);
    folder.clear()?;
    make.run(folder.path())?;
    let mut session = rpc.start_session(folder.path())?;
    let mut ask = |times| -> Result<u64> {
        (0..times).try_for_each(|_| session.ask(&request))?;
        Ok(session.memory_kib())
    };
    let few = ask(FEW)?;
    let many = ask(MANY - FEW)?;
    session.end()?;
    folder.clear()?;
    Ok((few, many))
}

/// The most memory that vmdisk had in any of three runs, in KiB.
pub(crate) fn peak(case: &MemoryCase, folder: &WorkFolder) -> Result<u64> {
    let mut most = 0;
    for _ in 0..3 {
        folder.clear()?;
        if let Some(before) = &case.before {
            before.run(folder.path())?;
        }
        most = most.max(case.vmdisk.run(folder.path())?.peak_kib);
    }
    folder.clear()?;
    Ok(most)
}
