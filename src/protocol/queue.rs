//! Requests that wait for their turn, and the one that has it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::envelope::{Id, Refused, Request};
use crate::task::Cancel;

/// Lines may wait until they have this many bytes together; then no more are read until some are
/// done, and `cancel` is not heard.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// What a line counts for beside its bytes: many short ones take memory too.
const BYTES_A_LINE: usize = 256;

/// What waits for its turn.
pub(super) enum Item {
    /// A request, with the wish to stop that is its own.
    Request(Request, Cancel),
    /// A line that gets an error for an answer.
    Refused(Refused),
}

/// Why nothing more comes.
#[derive(Debug)]
pub(super) enum End {
    /// There is no more input.
    Input,
    /// Somebody asked to stop.
    Stopped,
    /// Reading failed.
    Failed(io::Error),
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Item, usize)>,
    waiting_bytes: usize,
    running: Option<(Id, Cancel)>,
    /// Nothing more will come, for this reason.
    end: Option<End>,
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
        let full =
            |state: &mut State| state.waiting_bytes >= MAX_WAITING_BYTES && state.end.is_none();
        let state = self.changed.wait_while(self.state(), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.end.is_none() {
            let len = len + BYTES_A_LINE;
            state.waiting.push_back((item, len));
            state.waiting_bytes += len;
            self.changed.notify_all();
        }
    }

    /// Nothing more will come; what waits is still answered. The first reason counts.
    pub(super) fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Why nothing more came.
    pub(super) fn why(&self) -> Option<End> {
        self.state().end.take()
    }

    /// Nothing more is wanted: whoever still reads need not wait for room.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.end.get_or_insert(End::Stopped);
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// The next in turn, when there is one; `None` at the end. What had its turn before is done.
    pub(super) fn next(&self) -> Option<Item> {
        let mut state = self.state();
        state.running = None;
        let idle = |state: &mut State| state.waiting.is_empty() && state.end.is_none();
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

#[cfg(test)]
impl Queue {
    /// Whether a request of this name runs or waits.
    pub(super) fn knows(&self, id: &Id) -> bool {
        let state = self.state();
        let runs = state.running.as_ref().is_some_and(|(known, _)| known == id);
        let is = |item: &Item| matches!(item, Item::Request(request, _) if request.id == *id);
        runs || state.waiting.iter().any(|(item, _)| is(item))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::Scope;
    use std::time::Duration;

    use super::super::envelope::Params;
    use super::*;

    fn id(id: u64) -> Id {
        Id::Number(id.to_string())
    }

    fn request(number: u64) -> (Item, Cancel) {
        let request =
            Request { id: id(number), method: "info".to_owned(), params: Params::default() };
        let cancel = Cancel::new();
        (Item::Request(request, cancel.clone()), cancel)
    }

    fn name(item: Option<Item>) -> Option<Id> {
        match item? {
            Item::Request(request, _) => Some(request.id),
            Item::Refused(refused) => refused.id,
        }
    }

    #[test]
    fn first_in_first_out_and_what_waits_outlives_the_end() {
        let queue = Queue::default();
        for number in [1, 2] {
            queue.push(request(number).0, 10);
        }
        queue.end(End::Input);
        queue.push(request(3).0, 10);
        assert_eq!(name(queue.next()), Some(id(1)));
        assert_eq!(name(queue.next()), Some(id(2)));
        assert_eq!(name(queue.next()), None);
        assert_eq!(queue.state().waiting_bytes, 0);
    }

    /// Pushes from a thread of its own, and tells when that is done.
    fn pushed<'scope>(
        scope: &'scope Scope<'scope, '_>,
        queue: &'scope Queue,
        number: u64,
    ) -> Receiver<()> {
        let (tell, told) = channel();
        scope.spawn(move || {
            queue.push(request(number).0, 0);
            tell.send(()).unwrap();
        });
        told
    }

    /// Whoever reads has to wait: for lines that are long, and for lines that are many.
    #[test]
    fn what_waits_is_bounded() {
        const LONG: Duration = Duration::from_secs(20);
        for len in [0, 1, 1000, 1 << 20, 64 << 20] {
            let queue = Queue::default();
            let mut count = 0;
            while queue.state().waiting_bytes < MAX_WAITING_BYTES {
                queue.push(request(count).0, len);
                count += 1;
                assert!(count <= 65536, "{count} lines of {len} bytes");
            }
            std::thread::scope(|scope| {
                let next = pushed(scope, &queue, 1 << 20);
                assert!(next.recv_timeout(Duration::from_millis(30)).is_err(), "{len}: no bound");
                assert_eq!(name(queue.next()), Some(id(0)));
                next.recv_timeout(LONG).expect("room for one more");
                // The end sets free whoever waits, and keeps nothing of it.
                while queue.state().waiting_bytes < MAX_WAITING_BYTES {
                    queue.push(request(count).0, len);
                }
                let last = pushed(scope, &queue, 2 << 20);
                assert!(last.recv_timeout(Duration::from_millis(30)).is_err(), "{len}: no bound");
                queue.end(End::Input);
                last.recv_timeout(LONG).expect("nobody waits beyond the end");
                assert!(!queue.knows(&id(2 << 20)));
            });
        }
    }

    #[test]
    fn what_runs_and_what_waits_is_called_off_by_its_name() {
        let queue = Queue::default();
        let items = [request(1), request(2), request(1), request(3)];
        let cancels: Vec<_> = items.iter().map(|(_, cancel)| cancel.clone()).collect();
        for (item, _) in items {
            queue.push(item, 10);
        }
        let tripped = || cancels.iter().map(Cancel::is_tripped).collect::<Vec<_>>();
        queue.next();
        assert!(!queue.cancel(&id(4)) && !queue.cancel(&Id::Text("1".to_owned())));
        assert_eq!(tripped(), [false; 4]);
        assert!(queue.cancel(&id(1)));
        assert_eq!(tripped(), [true, false, true, false]);
        queue.next();
        queue.next();
        assert!(queue.cancel(&id(3)) && queue.cancel(&id(1)));
        queue.next();
        // The one that runs is the last there is.
        assert!(!queue.cancel(&id(1)) && !queue.cancel(&id(2)) && queue.cancel(&id(3)));
        queue.end(End::Input);
        assert!(queue.next().is_none() && !queue.cancel(&id(3)));
    }

    /// Whoever has nothing to do is woken by what comes, and by the end.
    #[test]
    fn the_idle_are_woken() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| (name(queue.next()), name(queue.next())));
            std::thread::sleep(Duration::from_millis(20));
            queue.push(request(1).0, 10);
            std::thread::sleep(Duration::from_millis(20));
            queue.end(End::Input);
            assert_eq!(worker.join().unwrap(), (Some(id(1)), None));
        });
    }
}
