//! The event stream of the overview: sends each part of the page that has changed.
//!
//! The stream also holds a subscription to the operator's own session, so that it ends with the session.

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

/// The path of the stream within the console.
pub const PATH: &str = "/live";

/// How often the overview is refreshed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// The stream of one open overview.
struct OverviewStream<S: SessionState> {
    console: Arc<Console<S>>,
    session: Session<S>,
    subscription: Subscription<S>,
    refresh: Interval,
    /// The last HTML sent for each part, by its name.
    sent: HashMap<String, String>,
    /// Changed parts that are still to be sent.
    pending: Vec<Part>,
}

/// Responds with the stream, which ends when the sign-in ends.
pub fn respond<S: SessionState>(
    console: Arc<Console<S>>,
    session: Session<S>,
    subscription: Subscription<S>,
) -> Response {
    let mut refresh = interval(REFRESH_INTERVAL);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let overview = OverviewStream {
        console,
        session,
        subscription,
        refresh,
        sent: HashMap::new(),
        pending: Vec::new(),
    };
    let events = stream::unfold(Some(overview), |overview| async {
        let mut overview = overview?;
        match overview.next().await? {
            Output::Part(part) => {
                let html = html(|| overview::part(part));
                let event = Event::default().event("part").data(html);
                Some((Ok(event), Some(overview)))
            }
            Output::Heartbeat => Some((Ok(Event::default().comment("beat")), Some(overview))),
            Output::Last(reason) => {
                // Browsers ignore an event without data.
                let last = Event::default().event(reason).data(reason);
                Some((Ok::<_, Infallible>(last), None))
            }
        }
    });
    let mut response = Sse::new(events).into_response();
    // Otherwise nginx buffers the response.
    let unbuffered = HeaderValue::from_static("no");
    response
        .headers_mut()
        .insert("x-accel-buffering", unbuffered);
    response
}

/// What the stream sends next.
enum Output {
    Part(Part),
    /// A comment that keeps the connection open.
    Heartbeat,
    /// The last event, named after the reason.
    Last(&'static str),
}

/// The operator is no longer signed in.
const ENDED: &str = "ended";

/// The session has too many subscriptions, and a newer one has replaced this one.
const REPLACED: &str = "replaced";

impl<S: SessionState> OverviewStream<S> {
    /// Returns `None` when the server stops.
    async fn next(&mut self) -> Option<Output> {
        loop {
            if let Some(part) = self.pending.pop() {
                return Some(Output::Part(part));
            }
            tokio::select! {
                event = self.subscription.next() => match event? {
                    SessionEvent::Ended => return Some(Output::Last(ENDED)),
                    SessionEvent::Replaced => return Some(Output::Last(REPLACED)),
                    SessionEvent::Heartbeat => return Some(Output::Heartbeat),
                    SessionEvent::State(_) => {}
                },
                _ = self.refresh.tick() => {
                    if !self.is_signed_in().await {
                        return Some(Output::Last(ENDED));
                    }
                    self.queue_changes().await;
                }
            }
        }
    }

    /// Whether the operator is still signed in. An error of the store does not end the sign-in.
    async fn is_signed_in(&self) -> bool {
        let access = self.console.access(&self.session).await;
        access.is_err() || matches!(access, Ok(Access::Operator(_)))
    }

    /// Queues the parts that have changed since they were sent.
    async fn queue_changes(&mut self) {
        let overview = match Overview::load(&self.console.sessions, &self.console.store).await {
            Ok(overview) => overview,
            Err(error) => {
                tracing::debug!(%error, "failed to refresh an open overview");
                return;
            }
        };
        for (name, html) in overview.parts() {
            if self.sent.get(&name) != Some(&html) {
                self.sent.insert(name.clone(), html.clone());
                self.pending.push((name, html));
            }
        }
    }
}
