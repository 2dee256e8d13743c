//! Keeps the page in step with the session, whoever changes it: another tab, another device, or
//! time. A page that nobody sees listens to nothing.

use std::time::Duration;

use leptos::{leptos_dom::helpers::IntervalHandle, prelude::*};

use super::action_queue::{ActionQueue, Known};
use crate::{
    browser::{Stream, is_online, is_visible, random, seconds},
    client_session::{ClientSession, SessionEvent},
};

/// The stream's address.
pub const PATH: &str = "/live";

/// The server is heard every 15 seconds at least; after so much silence the stream is given up.
/// Behind a proxy that buffers nothing is ever heard.
const SILENCE: Duration = Duration::from_secs(25);

/// The wait before the first and before every later try to open a stream that broke, in seconds.
const SHORTEST_WAIT: f64 = 0.5;
const LONGEST_WAIT: f64 = 60.0;

/// The visitor is warned so many seconds before the session ends: enough to come back and click.
const WARNING: i64 = 120;

/// The page's connection to what happens elsewhere. One for the whole app.
#[derive(Clone, Copy)]
pub struct Live {
    actions: ActionQueue<ClientSession>,
    visible: RwSignal<bool>,
    pub online: RwSignal<bool>,
    /// The session was ended by somebody else, or by time.
    pub ended: RwSignal<bool>,
    /// Seconds since the page got to know what it knows.
    elapsed: RwSignal<i64>,
    stream: StoredValue<Option<Open>, LocalStorage>,
    /// Tries since the stream was last heard.
    tries: StoredValue<i32>,
}

/// An open stream.
struct Open {
    _stream: Stream,
    watchdog: Option<IntervalHandle>,
    /// Something came since the watchdog last looked.
    heard: bool,
    /// The session's state came: its end is news.
    established: bool,
}

impl Drop for Open {
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
            tries: StoredValue::new(0),
        }
    }

    /// How long the session still lives, in seconds, if nothing happens. `None`: not known.
    pub fn remaining(self) -> Option<i64> {
        match self.actions.known().get() {
            Known::Some(session) => Some(session.expires_at - session.now - self.elapsed.get()),
            Known::None | Known::Unknown => None,
        }
    }

    /// How long the session has lived, in seconds.
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

    /// Begins to listen; in the browser alone.
    pub fn start(self) {
        self.visible.set(is_visible());
        self.online.set(is_online());
        window_event_listener_untyped("visibilitychange", move |_| self.visible.set(is_visible()));
        // A page in the back/forward cache has no stream. It gets the session's state with the next one.
        window_event_listener_untyped("pagehide", move |_| self.visible.set(false));
        window_event_listener_untyped("pageshow", move |_| self.visible.set(is_visible()));
        window_event_listener_untyped("offline", move |_| self.online.set(false));
        window_event_listener_untyped("online", move |_| {
            self.online.set(true);
            self.tries.set_value(0);
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

    /// Counts the seconds since the page last learned something, while somebody looks.
    fn keep_time(self) {
        let learned = StoredValue::new(seconds());
        Effect::new(move || {
            self.actions.known().track();
            learned.set_value(seconds());
            self.elapsed.set(0);
        });
        let tick = move || {
            if !self.visible.get_untracked() {
                return;
            }
            let elapsed = (seconds() - learned.get_value()) as i64;
            let was_over = untrack(move || self.remaining()).is_none_or(|left| left <= 0);
            self.elapsed.set(elapsed);
            let is_over = untrack(move || self.remaining()).is_some_and(|left| left <= 0);
            if is_over && !was_over {
                // The server knows whether it has really ended.
                self.open_again();
            }
        };
        set_interval(tick, Duration::from_secs(1));
    }

    fn open_again(self) {
        self.stream.set_value(None);
        self.open();
    }

    fn open(self) {
        if self.stream.with_value(Option::is_some) {
            return;
        }
        let stream = Stream::open(PATH, move |event| self.apply(event), move || self.broke());
        let Some(stream) = stream else { return };
        let watchdog = set_interval_with_handle(move || self.check(), SILENCE).ok();
        self.stream.set_value(Some(Open {
            _stream: stream,
            watchdog,
            heard: false,
            established: false,
        }));
    }

    fn apply(self, event: SessionEvent) {
        let was_established = self.stream.try_update_value(|open| {
            open.as_mut().is_some_and(|open| {
                open.heard = true;
                std::mem::replace(&mut open.established, true)
            })
        });
        self.tries.set_value(0);
        match event {
            SessionEvent::State(session) => self.actions.apply_remote(*session),
            // The cookie may name another session by now: another tab may have got a new one.
            SessionEvent::Ended if was_established == Some(true) => self.open_again(),
            SessionEvent::Ended => {
                let had = self
                    .actions
                    .known()
                    .with_untracked(|known| *known != Known::None);
                self.stream.set_value(None);
                self.actions.apply_ended();
                self.ended.set(had);
            }
            SessionEvent::Replaced => self.stream.set_value(None),
            SessionEvent::Heartbeat => {}
        }
    }

    /// Gives up a stream that is silent.
    fn check(self) {
        let silent = self.stream.try_update_value(|open| {
            open.as_mut()
                .is_some_and(|open| !std::mem::replace(&mut open.heard, false))
        });
        if silent == Some(true) {
            self.broke();
        }
    }

    /// Opens the stream again after a while, ever longer, and not all pages at once.
    fn broke(self) {
        self.stream.set_value(None);
        let tries = self.tries.get_value();
        self.tries.set_value(tries.saturating_add(1));
        let longest = (SHORTEST_WAIT * 2_f64.powi(tries.min(10))).min(LONGEST_WAIT);
        let wait = longest * (0.5 + random() / 2.0);
        let again = move || {
            let wanted = self.visible.get_untracked() && self.online.get_untracked();
            if wanted && untrack(|| self.actions.has_state()) {
                self.open();
            }
        };
        set_timeout(again, Duration::from_secs_f64(wait));
    }
}
