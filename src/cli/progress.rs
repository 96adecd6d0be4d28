//! Progress on standard error: a bar, on a terminal only and only for what takes its time, or
//! lines of JSON.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::colour::understands_escapes;
use super::logs::speak_json;
use super::output::Output;
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
    /// What shows it. Who wants nothing told but what was asked for gets no bar.
    pub(super) fn start(self, output: Output) -> Box<dyn Progress> {
        let is_drawn = || !output.is_quiet() && understands_escapes(&std::io::stderr());
        match self {
            ProgressChoice::Auto if is_drawn() => Box::new(Bar { started: Instant::now() }),
            ProgressChoice::Auto | ProgressChoice::Off => Box::new(Silent),
            ProgressChoice::Json => {
                speak_json();
                Box::new(ProgressLines::new(|line: &str| {
                    // Nowhere to say that standard error is closed.
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }))
            }
        }
    }
}

/// The bar on standard error, which everything has to know of that writes there.
static DRAWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// OK to ignore poison: a bar is only drawn.
fn drawn() -> MutexGuard<'static, Option<ProgressBar>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets `write` write lines to standard error: a bar moves out of their way.
pub(super) fn beside_bar(write: impl FnOnce()) {
    match &*drawn() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Draws on standard error.
struct Bar {
    started: Instant,
}

impl Progress for Bar {
    fn advance(&self, phase: &'static str, done: u64, total: u64) {
        if self.started.elapsed() < PATIENCE {
            return;
        }
        let mut bar = drawn();
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
        if let Some(bar) = drawn().take() {
            bar.finish_and_clear();
        }
    }
}
