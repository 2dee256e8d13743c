//! The overview's stream: the operator's own session is listened to as every open page's is, and the
//! parts that have changed go along.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::HeaderValue,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use tally_session::{Session, SessionEvent, SessionState, Subscription};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{
    Console,
    access::Access,
    layout::html,
    overview::{self, Overview, Part},
};

/// Where the stream is, inside of the console.
pub const PATH: &str = "/live";

/// How often the overview is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// An overview that somebody looks at.
struct Watched<S: SessionState> {
    console: Arc<Console<S>>,
    session: Session<S>,
    subscription: Subscription<S>,
    looks: Interval,
    /// The parts as they were sent.
    sent: HashMap<String, String>,
    /// What is still to be sent.
    waiting: Vec<Part>,
}

/// Answers with the stream, which ends with the sign-in.
pub fn respond<S: SessionState>(
    console: Arc<Console<S>>,
    session: Session<S>,
    subscription: Subscription<S>,
) -> Response {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watched = Watched {
        console,
        session,
        subscription,
        looks,
        sent: HashMap::new(),
        waiting: Vec::new(),
    };
    let events = stream::unfold(Some(watched), |watched| async {
        let mut watched = watched?;
        match watched.next().await? {
            Told::Part(part) => {
                let html = html(|| overview::part(part));
                let event = Event::default().event("part").data(html);
                Some((Ok(event), Some(watched)))
            }
            Told::Beat => Some((Ok(Event::default().comment("beat")), Some(watched))),
            Told::Last(why) => {
                // Browsers pass over an event without data.
                let last = Event::default().event(why).data(why);
                Some((Ok::<_, Infallible>(last), None))
            }
        }
    });
    let mut response = Sse::new(events).into_response();
    // nginx keeps a response back otherwise.
    let unbuffered = HeaderValue::from_static("no");
    response
        .headers_mut()
        .insert("x-accel-buffering", unbuffered);
    response
}

/// What the page is told next.
enum Told {
    Part(Part),
    /// The connection is alive.
    Beat,
    /// Nothing more, and why.
    Last(&'static str),
}

/// Nobody is signed in any more.
const ENDED: &str = "ended";

/// So many pages listen that a later one has taken this one's place.
const REPLACED: &str = "replaced";

impl<S: SessionState> Watched<S> {
    /// `None`: the server stops.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(part) = self.waiting.pop() {
                return Some(Told::Part(part));
            }
            tokio::select! {
                news = self.subscription.next() => match news? {
                    SessionEvent::Ended => return Some(Told::Last(ENDED)),
                    SessionEvent::Replaced => return Some(Told::Last(REPLACED)),
                    SessionEvent::Heartbeat => return Some(Told::Beat),
                    SessionEvent::State(_) => {}
                },
                _ = self.looks.tick() => {
                    if !self.is_signed_in().await {
                        return Some(Told::Last(ENDED));
                    }
                    self.look().await;
                }
            }
        }
    }

    /// While the store is away, nobody has been signed out.
    async fn is_signed_in(&self) -> bool {
        let access = self.console.access(&self.session).await;
        access.is_err() || matches!(access, Ok(Access::Operator(_)))
    }

    /// Finds the parts that have changed.
    async fn look(&mut self) {
        let overview = match Overview::load(&self.console.sessions, &self.console.store).await {
            Ok(overview) => overview,
            Err(error) => {
                tracing::debug!(%error, "an open overview could not be kept in step");
                return;
            }
        };
        for (name, html) in overview.parts() {
            if self.sent.get(&name) != Some(&html) {
                self.sent.insert(name.clone(), html.clone());
                self.waiting.push((name, html));
            }
        }
    }
}
