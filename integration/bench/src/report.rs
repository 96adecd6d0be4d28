//! What is told in the end: a table for people, JSON for programs.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::measure::{FEW, MANY, Measured};
use crate::stats::Times;
use crate::work::Target;

/// A spread above this makes a median doubtful.
const NOISY: f64 = 0.25;
/// The most memory that vmdisk should have, in KiB.
const MEMORY_KIB: u64 = 24 << 10;

/// The most that a session may grow over its requests, in KiB.
const GROWTH_KIB: u64 = 1 << 10;

fn is_flat(few: u64, many: u64) -> bool {
    few > 0 && many <= few + GROWTH_KIB
}

/// Everything that was found out.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) runs: usize,
    pub(crate) measured: Vec<Measured>,
    /// Titles and peaks, in KiB.
    pub(crate) memory: Vec<(String, u64)>,
    /// The memory of a session after few and after many requests, in KiB.
    pub(crate) endless: Option<(u64, u64)>,
}

impl Target {
    /// The ratio of medians, as this target looks at it.
    fn ratio(self, vmdisk: f64, rival: f64) -> f64 {
        match self {
            Target::Faster(_) => rival / vmdisk,
            Target::Within(_) | Target::Told => vmdisk / rival,
        }
    }

    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Target::Faster(times) => Some(ratio >= times),
            Target::Within(times) => Some(ratio <= times),
            Target::Told => None,
        }
    }

    fn text(self) -> String {
        match self {
            Target::Faster(times) => format!(">= {times} x faster"),
            Target::Within(times) => format!("<= {times} x its time"),
            Target::Told => String::new(),
        }
    }

    fn number(self) -> Option<f64> {
        match self {
            Target::Faster(times) | Target::Within(times) => Some(times),
            Target::Told => None,
        }
    }
}

fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "PASS",
        Some(false) => "miss",
        None => "",
    }
}

/// What was measured beside what it is compared with, as a table.
pub(crate) fn compared(all: &[Measured]) -> String {
    let heading = ["work", "vmdisk ms", "against", "ms", "ratio", "at best", "target", ""];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for measured in all {
        for (rival, times) in measured.comparisons() {
            let (ours, theirs) = (measured.vmdisk.median(), times.median());
            let ratio = rival.target.ratio(ours, theirs);
            let at_best = rival.target.ratio(measured.vmdisk.least(), times.least());
            rows.push(vec![
                measured.work.title.to_owned(),
                milliseconds(ours),
                rival.name.to_owned(),
                milliseconds(theirs),
                format!("{ratio:.2}"),
                format!("{at_best:.2}"),
                rival.target.text(),
                verdict(rival.target.is_met(ratio)).to_owned(),
            ]);
        }
    }
    table(&rows)
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine.facts {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
        text.push_str(&format!(
            "{:<12} medians of {} runs, of long works half as many, after one that is not counted, \
             whole processes in turn, page cache warm, nothing left to be written before a run; `at best` is the \
             ratio of the quickest runs, which others disturb least\n",
            "figures", self.runs
        ));
        if !self.measured.is_empty() {
            text.push('\n');
            text.push_str(&compared(&self.measured));
        }
        if self.looked_at().next().is_some() {
            text.push('\n');
            text.push_str(&table(&self.peaks()));
        }
        if let Some((few, many)) = self.endless {
            text.push_str(&format!(
                "\nmemory of a session: {} MiB after {FEW} requests, {} MiB after {MANY}; target: \
                 at most {} MiB more  {}\n",
                mebibytes(few),
                mebibytes(many),
                GROWTH_KIB >> 10,
                verdict(Some(is_flat(few, many)))
            ));
        }
        for warning in self.warnings() {
            text.push_str(&format!("\nwarning: {warning}"));
        }
        text.trim_end().to_owned() + "\n"
    }

    fn peaks(&self) -> Vec<Vec<String>> {
        let heading = ["peak memory", "MiB", "target", ""];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for (title, kib, most) in self.looked_at() {
            rows.push(vec![
                title.to_owned(),
                mebibytes(kib),
                format!("<= {} MiB", mebibytes(most)),
                verdict(Some(kib <= most)).to_owned(),
            ]);
        }
        rows
    }

    /// Titles, peaks of memory and the most that they should be, in KiB.
    fn looked_at(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let cases = self.memory.iter().map(|(title, kib)| (title.as_str(), *kib, MEMORY_KIB));
        let works = self.measured.iter().filter_map(|measured| {
            Some((measured.work.title, measured.peak_kib, measured.most_kib()?))
        });
        cases.chain(works)
    }

    /// Why the figures should be doubted.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(load) = self.machine.load.filter(|load| *load > 0.5) {
            warnings.push(format!("something else was running: load {load} at the start"));
        }
        for measured in &self.measured {
            for (name, times) in everybody(measured) {
                let spread = times.spread();
                if spread > NOISY {
                    let title = measured.work.title;
                    let percent = spread * 100.0;
                    warnings.push(format!(
                        "{title}: {name} is noisy, the middle half of its runs spreads over \
                         {percent:.0} % of the median"
                    ));
                }
            }
        }
        warnings
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let facts: serde_json::Map<String, Value> =
            self.machine.facts.iter().map(|(name, value)| ((*name).into(), json!(value))).collect();
        let peaks: Vec<Value> = self
            .looked_at()
            .map(|(title, kib, most)| {
                let met = kib <= most;
                json!({ "case": title, "peak_kib": kib, "target_kib": most, "met": met })
            })
            .collect();
        json!({
            "machine": facts,
            "load_at_start": self.machine.load,
            "runs": self.runs,
            "works": self.measured.iter().map(work_json).collect::<Vec<_>>(),
            "memory": peaks,
            "session_memory": self.endless.map(|(few, many)| json!({
                "requests": [FEW, MANY],
                "kib": [few, many],
                "met": is_flat(few, many),
            })),
            "warnings": self.warnings(),
        })
    }
}

fn work_json(measured: &Measured) -> Value {
    let rival = |((rival, times), peak_kib): ((&crate::work::Rival, &Times), &u64)| {
        let ratio = rival.target.ratio(measured.vmdisk.median(), times.median());
        json!({
            "name": rival.name,
            "times": times_json(times),
            "ratio": ratio,
            "ratio_at_best": rival.target.ratio(measured.vmdisk.least(), times.least()),
            "ratio_means": match rival.target {
                Target::Faster(_) => "vmdisk is so many times faster",
                Target::Within(_) | Target::Told => "vmdisk takes so many times as long",
            },
            "target": rival.target.number(),
            "met": rival.target.is_met(ratio),
            "peak_kib": peak_kib,
        })
    };
    json!({
        "name": measured.work.name,
        "title": measured.work.title,
        "runs": measured.runs,
        "vmdisk": times_json(&measured.vmdisk),
        "peak_kib": measured.peak_kib,
        "against":
            measured.comparisons().zip(&measured.rival_peaks_kib).map(rival).collect::<Vec<_>>(),
    })
}

fn times_json(times: &Times) -> Value {
    json!({ "median_ms": times.median(), "least_ms": times.least(), "spread": times.spread() })
}

/// vmdisk and its rivals.
fn everybody(measured: &Measured) -> impl Iterator<Item = (&str, &Times)> {
    let rivals = measured.comparisons().map(|(rival, times)| (rival.name, times));
    [("vmdisk", &measured.vmdisk)].into_iter().chain(rivals)
}

fn milliseconds(value: f64) -> String {
    let digits = if value < 100.0 { 2 } else { 0 };
    format!("{value:.digits$}")
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// Rows as columns: the first row is the heading, numbers stand to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column).len()).max().unwrap_or_default())
        .collect();
    let is_number =
        |column: usize| rows.iter().skip(1).all(|row| cell(row, column).parse::<f64>().is_ok());
    let numbers: Vec<bool> = (0..columns).map(is_number).collect();
    let line = |row: &Vec<String>| {
        let cells = (0..columns).map(|column| {
            let (text, width) = (cell(row, column), widths[column]);
            if numbers[column] { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
