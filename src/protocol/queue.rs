//! Requests that wait for their turn, and the one that has it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::envelope::{Id, Refused, Request};
use crate::task::Cancel;

/// Lines may wait until they have this many bytes together; then no more are read until some are
/// done. (What a line becomes in memory can be some ten times as large.)
const MAX_WAITING_BYTES: usize = 1 << 20;

/// What a line counts for beside its bytes: many short ones take memory too.
const BYTES_A_LINE: usize = 256;

/// What waits for its turn.
pub(super) enum Item {
    /// A request, with the wish to stop that is its own.
    Request(Request, Cancel),
    /// A line that gets an error for an answer.
    Refused(Refused),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Item, usize)>,
    waiting_bytes: usize,
    running: Option<(Id, Cancel)>,
    /// Nothing more will come.
    ended: bool,
    /// Why, unless it was the end of input.
    failure: Option<io::Error>,
}

/// Filled by the one who reads, emptied by the one who works.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Appends what a line of `len` bytes said; waits while too much is waiting already. What
    /// comes after the end is dropped.
    pub(super) fn push(&self, item: Item, len: usize) {
        let full = |state: &mut State| state.waiting_bytes >= MAX_WAITING_BYTES && !state.ended;
        let state = self.changed.wait_while(self.state(), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if !state.ended {
            let len = len + BYTES_A_LINE;
            state.waiting.push_back((item, len));
            state.waiting_bytes += len;
            self.changed.notify_all();
        }
    }

    /// Nothing more will come; what waits is still answered.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Nothing more will come, because reading failed.
    pub(super) fn fail(&self, error: io::Error) {
        self.state().failure = Some(error);
        self.end();
    }

    /// Why reading failed, if it did.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }

    /// The next in turn, when there is one; `None` at the end. What had its turn before is done.
    pub(super) fn next(&self) -> Option<Item> {
        let mut state = self.state();
        state.running = None;
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let mut state =
            self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let (item, len) = state.waiting.pop_front()?;
        state.waiting_bytes -= len;
        if let Item::Request(request, cancel) = &item {
            state.running = Some((request.id.clone(), cancel.clone()));
        }
        self.changed.notify_all();
        Some(item)
    }

    /// Asks the request of this name to stop, or not to begin. Tells whether there is one.
    pub(super) fn cancel(&self, id: &Id) -> bool {
        let state = self.state();
        let waiting = state.waiting.iter().filter_map(|(item, _)| match item {
            Item::Request(request, cancel) => Some((&request.id, cancel)),
            Item::Refused(_) => None,
        });
        let running = state.running.iter().map(|(id, cancel)| (id, cancel));
        let named = running.chain(waiting).filter(|(known, _)| *known == id);
        named.map(|(_, cancel)| cancel.trip()).count() > 0
    }

    /// OK to ignore poison: nobody panics while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
