//! Progress on standard error: a bar, on a terminal only and only for what takes its time, or
//! lines of JSON.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::protocol::ProgressLines;
use crate::task::{Progress, Silent};

/// Nothing is drawn before this much time has passed.
const PATIENCE: Duration = Duration::from_millis(700);

/// How progress is shown. (`ValueEnum` would print comments on the values as help.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressChoice {
    Auto,
    Json,
    Off,
}

impl ProgressChoice {
    /// What shows it.
    pub(super) fn start(self) -> Box<dyn Progress> {
        match self {
            ProgressChoice::Auto if std::io::stderr().is_terminal() => Box::new(Bar::new()),
            ProgressChoice::Auto | ProgressChoice::Off => Box::new(Silent),
            ProgressChoice::Json => Box::new(ProgressLines::new(|line: &str| {
                // Nowhere to say that standard error is closed.
                let _ = std::io::stderr().write_all(line.as_bytes());
            })),
        }
    }
}

/// Draws on standard error.
struct Bar {
    started: Instant,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn new() -> Self {
        Bar { started: Instant::now(), bar: Mutex::new(None) }
    }
}

impl Progress for Bar {
    fn advance(&self, phase: &'static str, done: u64, total: u64) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        // OK to ignore poison: a bar is only drawn.
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let style = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}";
            let style = ProgressStyle::with_template(style);
            let target = ProgressDrawTarget::stderr_with_hz(10);
            ProgressBar::with_draw_target(Some(total), target)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_message(phase);
        bar.set_length(total);
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.lock().ok().and_then(|mut bar| bar.take()) {
            bar.finish_and_clear();
        }
    }
}
