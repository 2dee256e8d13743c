//! The stream of a session to an open page, as Server-Sent Events: plain HTTP, which proxies know.

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

/// Answers with a stream that begins with the session as it is now. Without a session it says so,
/// and ends.
pub async fn stream(Extension(session): Extension<Session>) -> Response {
    match session.subscribe().await {
        Ok(Some(subscription)) => streamed(until_end(subscription)),
        Ok(None) => streamed(stream::iter([event(&SessionEvent::Ended)])),
        Err(error) => error.into_response(),
    }
}

/// The answer of a stream of events.
pub fn streamed<S>(events: S) -> Response
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let mut response = Sse::new(events).into_response();
    // nginx keeps an answer back otherwise.
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The subscription's news, up to the one that is the last.
fn until_end(
    subscription: Subscription<Visitor>,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(Some(subscription), |subscription| async move {
        let mut subscription = subscription?;
        let told = SessionEvent::from(&subscription.next().await?);
        let last = matches!(told, SessionEvent::Ended | SessionEvent::Replaced);
        Some((event(&told), (!last).then_some(subscription)))
    })
}

fn event(told: &SessionEvent) -> Result<Event, Infallible> {
    // What is plain data becomes text.
    Ok(Event::default().data(serde_json::to_string(told).unwrap_or_default()))
}
