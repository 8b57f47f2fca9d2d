//! The state machine of a session behind its lock, and who waits for what.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use crate::error::Error;
use crate::frame::StreamId;
use crate::mux::{Event, Mux};

/// A wish of the peer that waits to be taken up.
pub(crate) struct Wish {
    pub(crate) stream: StreamId,
    pub(crate) proto: String,
    pub(crate) address: String,
}

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What the lock protects.
pub(crate) struct State {
    pub(crate) mux: Mux,
    waiting: HashMap<StreamId, Waiting>,
    /// At most one for every stream in the table.
    pub(crate) wishes: VecDeque<Wish>,
}

impl State {
    pub(crate) fn wait_readable(&mut self, id: StreamId, waker: &Waker) {
        self.waiting.entry(id).or_default().reader = Some(waker.clone());
    }

    pub(crate) fn wait_writable(&mut self, id: StreamId, waker: &Waker) {
        self.waiting.entry(id).or_default().writer = Some(waker.clone());
    }

    pub(crate) fn forget(&mut self, id: StreamId) {
        self.waiting.remove(&id);
        self.mux.release(id);
    }

    /// Sorts the events; gives those that are to be woken.
    fn settle(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(event) = self.mux.next_event() {
            match event {
                Event::Readable(id) => {
                    woken.extend(self.waiting.get_mut(&id).and_then(|w| w.reader.take()));
                }
                Event::Writable(id) => {
                    woken.extend(self.waiting.get_mut(&id).and_then(|w| w.writer.take()));
                }
                Event::Connect { stream, proto, address } => {
                    self.wishes.push_back(Wish { stream, proto, address });
                }
            }
        }
        woken
    }

    /// Whether there is something for the session's task to do.
    pub(crate) fn needs_driver(&mut self) -> bool {
        self.mux.take_relieved()
            || !self.wishes.is_empty()
            || self.mux.has_messages()
            || self.mux.failure().is_some()
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// The session's task.
    pub(crate) driver: AtomicWaker,
    pub(crate) closed: watch::Sender<Option<Error>>,
}

impl Shared {
    pub(crate) fn new(mux: Mux) -> Shared {
        let state = State { mux, waiting: HashMap::new(), wishes: VecDeque::new() };
        Shared {
            state: Mutex::new(state),
            driver: AtomicWaker::new(),
            closed: watch::Sender::new(None),
        }
    }

    /// Does something to the session and wakes whom it concerns.
    pub(crate) fn with<R>(&self, action: impl FnOnce(&mut State) -> R) -> R {
        let (result, driver) = self.with_as_driver(|state| {
            let result = action(state);
            (result, state.needs_driver())
        });
        if driver {
            self.driver.wake();
        }
        result
    }

    /// The same for the session's task, which must not wake itself: it may be waiting for its socket.
    pub(crate) fn with_as_driver<R>(&self, action: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = action(&mut state);
        let woken = state.settle();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        result
    }

    pub(crate) fn fail(&self, error: Error) {
        self.with(|state| state.mux.fail(error));
    }
}

/// The clock of the runtime, which tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
