//! Logs each outage of the store twice, at its start and at its end, however many requests fail.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tower_sessions::session_store;

use super::refusal::Refusal;

/// How long the store must not have failed before a success ends the outage.
const CALM: Duration = Duration::from_secs(1);

/// The kind of an operation. A store that can be read may not be writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// The current outage, if there is one.
#[derive(Debug, Default)]
pub struct Outage {
    /// Checked before the lock is taken, because there is almost never an outage.
    is_on: AtomicBool,
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    started: Instant,
    last: Instant,
    failures: u64,
    /// The kind of success that ends the outage. A write also shows that reads work.
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
                    started: now,
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
        let is_insufficient = state.ends_with == Access::Write && access == Access::Read;
        if is_insufficient || state.last.elapsed() < CALM {
            return;
        }
        let seconds = state.last.duration_since(state.started).as_secs_f64();
        let failures = state.failures;
        tracing::warn!(failures, seconds, "the session store works again");
        *guard = None;
        self.is_on.store(false, Ordering::Release);
    }
}
