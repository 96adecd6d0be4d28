//! A progress bar, on a terminal only, and only for what takes its time.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::task::Progress;

/// Nothing is drawn before this much time has passed.
const PATIENCE: Duration = Duration::from_millis(700);

/// Draws on standard error.
pub(super) struct TerminalProgress {
    started: Instant,
    bar: Mutex<Option<ProgressBar>>,
    terminal: bool,
}

impl TerminalProgress {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        TerminalProgress { started: Instant::now(), bar: Mutex::new(None), terminal }
    }
}

impl Progress for TerminalProgress {
    fn advance(&self, phase: &'static str, done: u64, total: u64) {
        if !self.terminal || self.started.elapsed() < PATIENCE {
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

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.lock().ok().and_then(|mut bar| bar.take()) {
            bar.finish_and_clear();
        }
    }
}
