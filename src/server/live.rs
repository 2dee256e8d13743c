//! The event stream of a session to an open page, as Server-Sent Events.

use std::convert::Infallible;

use axum::{
    Extension,
    http::HeaderValue,
    response::{IntoResponse, Response, Sse, sse::Event},
};
use futures_util::stream::{self, Stream};

use crate::{
    client_session::SessionEvent,
    visitor::{Session, Visitor},
};
use tally_session::Subscription;

/// Responds with a stream that starts with the current state of the session. Without a session it consists of
/// [`SessionEvent::Ended`] only.
pub async fn stream(Extension(session): Extension<Session>) -> Response {
    match session.subscribe().await {
        Ok(Some(subscription)) => streamed(until_end(subscription)),
        Ok(None) => streamed(stream::iter([event(&SessionEvent::Ended)])),
        Err(error) => error.into_response(),
    }
}

/// Builds the response for a stream of events.
pub fn streamed<S>(events: S) -> Response
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let mut response = Sse::new(events).into_response();
    // Otherwise nginx buffers the response.
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The events of a subscription, up to and including the last one.
fn until_end(
    subscription: Subscription<Visitor>,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(Some(subscription), |subscription| async move {
        let mut subscription = subscription?;
        let session_event = SessionEvent::from(&subscription.next().await?);
        let is_last = matches!(session_event, SessionEvent::Ended | SessionEvent::Replaced);
        Some((event(&session_event), (!is_last).then_some(subscription)))
    })
}

fn event(session_event: &SessionEvent) -> Result<Event, Infallible> {
    // Encoding plain data as JSON can't fail.
    Ok(Event::default().data(serde_json::to_string(session_event).unwrap_or_default()))
}
