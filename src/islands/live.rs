//! Keeps the page up to date when the session changes elsewhere: in another tab, on another device, or because it
//! expires.
//!
//! A hidden page holds no stream.

use std::time::Duration;

use leptos::{leptos_dom::helpers::IntervalHandle, prelude::*};

use super::action_queue::{ActionQueue, Known};
use crate::{
    browser::{Stream, is_online, is_visible, random, seconds},
    client_session::{ClientSession, SessionEvent},
};

/// The path of the stream.
pub const PATH: &str = "/live";

/// The page closes the stream if it has received nothing for this long.
///
/// The server sends an event at least every 15 seconds. Behind a proxy that buffers responses none ever arrives.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(25);

/// The upper bound of the delay before the first attempt to reconnect, in seconds. It doubles with each attempt.
const INITIAL_RETRY_DELAY: f64 = 0.5;

/// The maximum delay before an attempt to reconnect, in seconds.
const MAX_RETRY_DELAY: f64 = 60.0;

/// How long before the end of the session the visitor is warned, in seconds: enough time to come back and click.
const WARNING: i64 = 120;

/// The live connection of the page. All islands share one.
#[derive(Clone, Copy)]
pub struct Live {
    actions: ActionQueue<ClientSession>,
    visible: RwSignal<bool>,
    pub online: RwSignal<bool>,
    /// Whether the session has ended other than by an action on this page.
    pub ended: RwSignal<bool>,
    /// Seconds since the known state was last set.
    elapsed: RwSignal<i64>,
    stream: StoredValue<Option<OpenStream>, LocalStorage>,
    /// The number of attempts since the last event.
    attempts: StoredValue<i32>,
}

/// An open stream.
struct OpenStream {
    _stream: Stream,
    watchdog: Option<IntervalHandle>,
    /// Whether an event has arrived since the watchdog last checked.
    received: bool,
    /// Whether this stream has delivered an event before.
    established: bool,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog {
            watchdog.clear();
        }
    }
}

impl Live {
    pub fn new(actions: ActionQueue<ClientSession>) -> Self {
        Self {
            actions,
            visible: RwSignal::new(false),
            online: RwSignal::new(true),
            ended: RwSignal::new(false),
            elapsed: RwSignal::new(0),
            stream: StoredValue::new_local(None),
            attempts: StoredValue::new(0),
        }
    }

    /// The number of seconds until the session expires, or `None` if there is no known session.
    pub fn remaining(self) -> Option<i64> {
        match self.actions.known().get() {
            Known::Some(session) => Some(session.expires_at - session.now - self.elapsed.get()),
            Known::None | Known::Unknown => None,
        }
    }

    /// The age of the session in seconds, or `None` if there is no known session.
    pub fn age(self) -> Option<i64> {
        match self.actions.known().get() {
            Known::Some(session) => Some(session.now - session.created_at + self.elapsed.get()),
            Known::None | Known::Unknown => None,
        }
    }

    /// Whether the session is about to end.
    pub fn is_ending(self) -> bool {
        self.remaining()
            .is_some_and(|remaining| (0..=WARNING).contains(&remaining))
    }

    /// Starts the live connection. Only called in the browser.
    pub fn start(self) {
        self.visible.set(is_visible());
        self.online.set(is_online());
        window_event_listener_untyped("visibilitychange", move |_| self.visible.set(is_visible()));
        // A page in the back/forward cache closes its stream. The next stream starts with the current state.
        window_event_listener_untyped("pagehide", move |_| self.visible.set(false));
        window_event_listener_untyped("pageshow", move |_| self.visible.set(is_visible()));
        window_event_listener_untyped("offline", move |_| self.online.set(false));
        window_event_listener_untyped("online", move |_| {
            self.online.set(true);
            self.attempts.set_value(0);
        });
        self.keep_time();
        let has_session = Memo::new(move |_| self.actions.has_state());
        Effect::new(move || {
            if has_session.get() && self.visible.get() && self.online.get() {
                self.ended.set(false);
                self.open();
            } else {
                self.stream.set_value(None);
            }
        });
    }

    /// Updates `elapsed` every second while the page is visible.
    fn keep_time(self) {
        let updated_at = StoredValue::new(seconds());
        Effect::new(move || {
            self.actions.known().track();
            updated_at.set_value(seconds());
            self.elapsed.set(0);
        });
        let tick = move || {
            if !self.visible.get_untracked() {
                return;
            }
            let elapsed = (seconds() - updated_at.get_value()) as i64;
            let was_over = untrack(move || self.remaining()).is_none_or(|left| left <= 0);
            self.elapsed.set(elapsed);
            let is_over = untrack(move || self.remaining()).is_some_and(|left| left <= 0);
            if is_over && !was_over {
                // Ask the server, because a request elsewhere may have extended the session.
                self.reopen();
            }
        };
        set_interval(tick, Duration::from_secs(1));
    }

    fn reopen(self) {
        self.stream.set_value(None);
        self.open();
    }

    fn open(self) {
        if self.stream.with_value(Option::is_some) {
            return;
        }
        let stream = Stream::open(
            PATH,
            move |event| self.apply(event),
            move || self.retry_later(),
        );
        let Some(stream) = stream else { return };
        let watchdog = set_interval_with_handle(move || self.check(), SILENCE_TIMEOUT).ok();
        self.stream.set_value(Some(OpenStream {
            _stream: stream,
            watchdog,
            received: false,
            established: false,
        }));
    }

    fn apply(self, event: SessionEvent) {
        let was_established = self.stream.try_update_value(|open| {
            open.as_mut().is_some_and(|open| {
                open.received = true;
                std::mem::replace(&mut open.established, true)
            })
        });
        self.attempts.set_value(0);
        match event {
            SessionEvent::State(session) => self.actions.apply_remote(*session),
            // Another tab may have a new session by now, and the cookie names that one.
            SessionEvent::Ended if was_established == Some(true) => self.reopen(),
            SessionEvent::Ended => {
                let had_session = self
                    .actions
                    .known()
                    .with_untracked(|known| *known != Known::None);
                self.stream.set_value(None);
                self.actions.apply_ended();
                self.ended.set(had_session);
            }
            SessionEvent::Replaced => self.stream.set_value(None),
            SessionEvent::Heartbeat => {}
        }
    }

    /// Closes the stream if it has been silent since the last check.
    fn check(self) {
        let silent = self.stream.try_update_value(|open| {
            open.as_mut()
                .is_some_and(|open| !std::mem::replace(&mut open.received, false))
        });
        if silent == Some(true) {
            self.retry_later();
        }
    }

    /// Closes the stream and reopens it later, with exponential backoff and jitter.
    fn retry_later(self) {
        self.stream.set_value(None);
        let attempts = self.attempts.get_value();
        self.attempts.set_value(attempts.saturating_add(1));
        let max_delay = (INITIAL_RETRY_DELAY * 2_f64.powi(attempts.min(10))).min(MAX_RETRY_DELAY);
        let delay = max_delay * (0.5 + random() / 2.0);
        let retry = move || {
            let wanted = self.visible.get_untracked() && self.online.get_untracked();
            if wanted && untrack(|| self.actions.has_state()) {
                self.open();
            }
        };
        set_timeout(retry, Duration::from_secs_f64(delay));
    }
}
