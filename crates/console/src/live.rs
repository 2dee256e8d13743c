//! The overview's stream: the operator's own session is listened to as every open page's is, and the
//! parts that have changed go along.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::response::{Response, sse::Event};
use futures_util::stream;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    Access, Console,
    layout::html,
    overview::{self, Overview, Part},
};
use crate::{
    server::live::streamed,
    visitor::{Session, Visitor},
};
use tally_session::{SessionEvent, Subscription};

/// Where the stream is.
pub const PATH: &str = "/admin/live";

/// How often the overview is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// An overview that somebody looks at.
struct Watched {
    console: Arc<Console>,
    session: Session,
    subscription: Subscription<Visitor>,
    looks: Interval,
    /// The parts as they were sent.
    sent: HashMap<String, String>,
    /// What is still to be sent.
    waiting: Vec<Part>,
}

/// Answers with the stream, which ends with the sign-in.
pub fn answer(
    console: Arc<Console>,
    session: Session,
    subscription: Subscription<Visitor>,
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
    streamed(stream::unfold(Some(watched), |watched| async {
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
    }))
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

impl Watched {
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
