//! Work on one piece after the other, by all cores, whose results are taken in order: what comes out
//! does not depend on how many cores there are. In memory are as many pieces as there are workers.

use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{available_parallelism, panicking, scope};

use crate::error::Result;

/// No more workers than this, whatever the number of cores.
const MAX_WORKERS: usize = 16;

/// How the pieces are worked on.
pub(super) struct Steps<Next, Prepare, Deliver> {
    /// Finds the next piece: one worker at a time does, in the order of the pieces.
    pub(super) next: Next,
    /// Works on a piece, beside others.
    pub(super) prepare: Prepare,
    /// Takes the result: one at a time, in the order of the pieces, until it breaks off.
    pub(super) deliver: Deliver,
}

/// As many workers as the cores have use for, of which each takes so many bytes, within `budget`.
pub(super) fn workers(bytes_each: usize, budget: usize) -> usize {
    // One more than there are cores: while one delivers, or waits for its turn, others work.
    let cores = available_parallelism().map_or(1, usize::from);
    cores.saturating_add(1).min(MAX_WORKERS).min(budget / bytes_each.max(1)).max(2)
}

/// Works on all pieces. Each worker has a `desk` of its own, which a piece stays on from its
/// beginning to its end.
///
/// # Errors
/// The first, in the order of the pieces, that a step says.
pub(super) fn in_order<Desk, Piece>(
    workers: usize,
    desk: impl Fn() -> Desk + Sync,
    steps: Steps<
        impl FnMut(&mut Desk) -> Result<Option<Piece>> + Send,
        impl Fn(&mut Desk, &Piece) -> Result<()> + Sync,
        impl FnMut(&mut Desk, Piece) -> Result<ControlFlow<()>> + Send,
    >,
) -> Result<()> {
    let Steps { next, prepare, deliver } = steps;
    let queue = Mutex::new(Queue { next, handed_out: 0 });
    let turns = Turns {
        turn: Mutex::new(Turn { now: 0, deliver, ended: false, result: Ok(()) }),
        came: Condvar::new(),
    };
    scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let _guard = EndOnPanic(&turns);
                let mut desk = desk();
                while let Some((number, piece)) = take(&queue, &turns, &mut desk) {
                    let prepared = piece.and_then(|piece| {
                        prepare(&mut desk, &piece)?;
                        Ok(piece)
                    });
                    turns.wait_and(number, |deliver| match prepared {
                        Ok(piece) => deliver(&mut desk, piece),
                        Err(error) => Err(error),
                    });
                }
            });
        }
    });
    turns.turn.into_inner().unwrap_or_else(PoisonError::into_inner).result
}

struct Queue<Next> {
    next: Next,
    handed_out: u64,
}

/// The next piece with its number, or why there is none where there should be one.
fn take<Desk, Piece, Deliver>(
    queue: &Mutex<Queue<impl FnMut(&mut Desk) -> Result<Option<Piece>>>>,
    turns: &Turns<Deliver>,
    desk: &mut Desk,
) -> Option<(u64, Result<Piece>)> {
    let mut queue = lock(queue);
    if turns.lock().ended {
        return None;
    }
    let piece = (queue.next)(desk).transpose()?;
    let number = queue.handed_out;
    queue.handed_out += 1;
    Some((number, piece))
}

struct Turn<Deliver> {
    /// The number of the piece whose turn it is.
    now: u64,
    deliver: Deliver,
    /// Nothing more is delivered.
    ended: bool,
    result: Result<()>,
}

struct Turns<Deliver> {
    turn: Mutex<Turn<Deliver>>,
    came: Condvar,
}

impl<Deliver> Turns<Deliver> {
    fn lock(&self) -> MutexGuard<'_, Turn<Deliver>> {
        lock(&self.turn)
    }

    /// Waits for the turn of a piece.
    fn wait_and(&self, number: u64, run: impl FnOnce(&mut Deliver) -> Result<ControlFlow<()>>) {
        let is_later = |turn: &mut Turn<Deliver>| turn.now != number && !turn.ended;
        let turn = self.came.wait_while(self.lock(), is_later);
        let mut turn = turn.unwrap_or_else(PoisonError::into_inner);
        if turn.ended {
            return;
        }
        match run(&mut turn.deliver) {
            Ok(ControlFlow::Continue(())) => turn.now += 1,
            Ok(ControlFlow::Break(())) => turn.ended = true,
            Err(error) => (turn.ended, turn.result) = (true, Err(error)),
        }
        self.came.notify_all();
    }
}

/// Nobody waits for the turn of one who will not come.
struct EndOnPanic<'a, Deliver>(&'a Turns<Deliver>);

impl<Deliver> Drop for EndOnPanic<'_, Deliver> {
    fn drop(&mut self) {
        if panicking() {
            self.0.lock().ended = true;
            self.0.came.notify_all();
        }
    }
}

// OK to ignore poison: whoever panics ends everything, and is heard of when the scope ends.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn squares(workers: usize, fails_at: u64, breaks_at: u64) -> (Result<()>, Vec<u64>) {
        let (mut number, mut results) = (0, Vec::new());
        let done = in_order(
            workers,
            || 0,
            Steps {
                next: |_: &mut u64| {
                    number += 1;
                    Ok((number <= 500).then_some(number))
                },
                prepare: |desk: &mut u64, number: &u64| {
                    // Later pieces are ready before earlier ones.
                    std::thread::sleep(std::time::Duration::from_micros(number * 37 % 200));
                    *desk = number * number;
                    match *number == fails_at {
                        true => Err(Error::new(ErrorKind::Io, format!("piece {number}"))),
                        false => Ok(()),
                    }
                },
                deliver: |desk: &mut u64, number| {
                    results.push(*desk);
                    Ok(if number == breaks_at {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                },
            },
        );
        (done, results)
    }

    #[test]
    fn results_come_in_order_and_end_with_the_first_failure() {
        let expected = |count: u64| (1..=count).map(|number| number * number).collect::<Vec<_>>();
        for workers in [1, 2, 5, 16] {
            let (done, results) = squares(workers, 0, 0);
            done.unwrap();
            assert_eq!(results, expected(500));
            let (done, results) = squares(workers, 77, 400);
            assert_eq!(done.unwrap_err().to_string(), "piece 77");
            assert_eq!(results, expected(76));
            let (done, results) = squares(workers, 200, 33);
            done.unwrap();
            assert_eq!(results, expected(33));
        }
    }

    #[test]
    #[should_panic(expected = "scoped thread panicked")]
    fn a_panic_keeps_nobody_waiting() {
        let mut number = 0;
        let _ = in_order(
            3,
            || (),
            Steps {
                next: |_: &mut ()| {
                    number += 1;
                    Ok(Some(number))
                },
                prepare: |_: &mut (), number: &u64| {
                    assert!(*number != 9, "on purpose");
                    Ok(())
                },
                deliver: |_: &mut (), _| Ok(ControlFlow::Continue(())),
            },
        );
    }
}
