//! Logs: what the rooms below say of their work, a line each on standard error.
//!
//! What is wanted of them is said by `--verbose`, and by `VMDISK_LOG` in the words of `env_logger`.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use env_filter::{Builder, Filter};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;

use super::colour::{ASIDE, BAD, Colours, DOUBTFUL, GOOD};
use super::flags::OutputFlags;
use super::progress::beside_bar;
use crate::error::one_line;

/// The first that is set says what is wanted.
const VARIABLES: [&str; 2] = ["VMDISK_LOG", "RUST_LOG"];

/// How a line looks. (`ValueEnum` would print comments on the values as help.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogForm {
    Text,
    Json,
}

/// Whether whoever reads standard error reads JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From here on, lines are JSON, as those are that stand beside them.
pub(super) fn speak_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// From here on, what is wanted of the logs goes to standard error. Where somebody else takes them
/// already, nothing changes.
pub(super) fn start(flags: &OutputFlags, form: LogForm) {
    if form == LogForm::Json {
        speak_json();
    }
    let told = VARIABLES.into_iter().find_map(|name| {
        let wish = std::env::var_os(name).filter(|wish| !wish.is_empty())?;
        Some((name, wish.to_string_lossy().into_owned()))
    });
    let by_default = if flags.quiet { LevelFilter::Error } else { LevelFilter::Warn };
    let (filter, problem) = match told {
        None => (of_level(by_default), None),
        Some((name, wish)) => match Builder::new().try_parse(&wish) {
            Ok(builder) => (builder.build(), None),
            Err(error) => (of_level(by_default), Some(format!("ignored: {name}: {error}"))),
        },
    };
    let at_least = match flags.verbose {
        0 => LevelFilter::Off,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let most = at_least.max(filter.filter());
    let colours = Colours::of(&std::io::stderr());
    if log::set_boxed_logger(Box::new(Logger { at_least, filter, colours })).is_err() {
        return;
    }
    log::set_max_level(most);
    if let Some(problem) = problem {
        log::warn!("{problem}");
    }
}

fn of_level(level: LevelFilter) -> Filter {
    Builder::new().filter_level(level).build()
}

struct Logger {
    /// What `--verbose` asks for, whatever the filter says.
    at_least: LevelFilter,
    filter: Filter,
    colours: Colours,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.at_least || self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() > self.at_least && !self.filter.matches(record) {
            return;
        }
        let (level, target) = (record.level(), record.target());
        let message = record.args().to_string();
        let line = match AS_JSON.load(Ordering::Relaxed) {
            false => text(level, target, &message, self.colours),
            true => {
                let entry = Entry { level: name(level), target, message: &message };
                // OK to default: three texts.
                serde_json::to_string(&entry).unwrap_or_default()
            }
        };
        beside_bar(|| {
            // Nowhere to say that standard error is closed.
            let _ = std::io::stderr().write_all((line + "\n").as_bytes());
        });
    }

    fn flush(&self) {}
}

#[derive(Serialize)]
struct Entry<'a> {
    level: &'static str,
    target: &'a str,
    message: &'a str,
}

/// One line, whatever names are in it. Who wants every step also wants to know whose it is.
fn text(level: Level, target: &str, message: &str, colours: Colours) -> String {
    let (who, colour) = match level {
        Level::Error => ("vmdisk", BAD),
        Level::Warn => ("vmdisk", DOUBTFUL),
        Level::Info => ("vmdisk", GOOD),
        Level::Debug | Level::Trace => (target, ASIDE),
    };
    let level = colours.paint(colour, format!("{}:", name(level)));
    format!("{who}: {level} {}", one_line(message))
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}
