//! Tells of a failing store once when it begins and once when it ends, however many requests it fails.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tower_sessions::session_store;

use super::refusal::Refusal;

/// An outage ends with the first success after so long without a failure: not between two failures.
const CALM: Duration = Duration::from_secs(1);

/// What an operation does. What can be read may not be writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Whether the store fails now.
#[derive(Debug, Default)]
pub struct Outage {
    /// Looked at before the lock, because almost always nothing fails.
    is_on: AtomicBool,
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    last: Instant,
    failures: u64,
    /// Ends with a success of this kind: a write shows that reads work, too.
    ends_with: Access,
}

impl Outage {
    pub fn failed(&self, access: Access, error: &session_store::Error) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some(state) => {
                state.last = now;
                state.failures += 1;
                if access == Access::Write {
                    state.ends_with = Access::Write;
                }
            }
            None => {
                let reason = Refusal::of(error);
                tracing::error!(%reason, %error, "the session store fails");
                *state = Some(State {
                    began: now,
                    last: now,
                    failures: 1,
                    ends_with: access,
                });
                self.is_on.store(true, Ordering::Release);
            }
        }
    }

    pub fn succeeded(&self, access: Access) {
        if !self.is_on.load(Ordering::Acquire) {
            return;
        }
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = &*guard else { return };
        let shows_nothing = state.ends_with == Access::Write && access == Access::Read;
        if shows_nothing || state.last.elapsed() < CALM {
            return;
        }
        let seconds = state.last.duration_since(state.began).as_secs_f64();
        let failures = state.failures;
        tracing::warn!(failures, seconds, "the session store works again");
        *guard = None;
        self.is_on.store(false, Ordering::Release);
    }
}
