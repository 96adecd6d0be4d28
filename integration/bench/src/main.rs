//! Measures vmdisk against qemu-img and against a *floor*: a program that writes the same bytes to
//! the same places and does nothing else; its library against other libraries, and against reads and
//! writes of a raw file. It informs: its exit status is 0 whatever it finds.

mod check;
mod compact;
mod copy;
mod data;
mod format;
mod inside;
mod look;
mod machine;
mod measure;
mod options;
mod process;
mod report;
mod snapshots;
mod stats;
mod sys;
mod work;

use std::env;
use std::fs::write;
use std::io::Result;

use self::machine::Machine;
use self::measure::{endless, measure, peak};
use self::options::{Options, USAGE};
use self::process::WorkFolder;
use self::report::{Report, compared};
use self::work::Programs;

fn main() {
    let done = Options::parse(env::args().skip(1)).and_then(|options| match options {
        Some(options) => run(options),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    });
    if let Err(error) = done {
        eprintln!("vmdisk-bench: {error}");
    }
}

fn run(options: Options) -> Result<()> {
    let programs = Programs { vmdisk: options.vmdisk, qemu_img: options.qemu_img };
    let folder = WorkFolder::inside(&options.folder)?;
    let mut report = Report {
        machine: Machine::look(folder.path(), &programs),
        runs: options.runs,
        measured: Vec::new(),
        memory: Vec::new(),
        endless: None,
    };
    for work in work::all(&programs) {
        if work.name.contains(&options.filter) {
            eprintln!("measuring: {}", work.title);
            let measured = measure(work, options.runs, &folder)?;
            eprint!("{}", compared(std::slice::from_ref(&measured)));
            report.measured.push(measured);
        }
    }
    if "memory".contains(&options.filter) {
        for case in work::memory(&programs) {
            eprintln!("measuring: memory: {}", case.title);
            let most = peak(&case, &folder)?;
            report.memory.push((case.title, most));
        }
    }
    if "session-memory".contains(&options.filter) {
        eprintln!("measuring: memory of a session");
        report.endless = Some(endless(&programs, &folder)?);
    }
    print!("{}", report.text());
    if let Some(file) = &options.json {
        write(file, format!("{:#}\n", report.json()))?;
    }
    Ok(())
}
