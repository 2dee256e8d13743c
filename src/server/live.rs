//! The stream of news to an open page, as Server-Sent Events: plain HTTP, which proxies know.

use std::convert::Infallible;

use axum::{
    Extension,
    http::HeaderValue,
    response::{IntoResponse, Response, Sse, sse::Event},
};
use futures_util::{Stream, stream};

use super::encoding;
use crate::{
    snapshot::News,
    visitor::{Session, Visitor},
};
use tally_session::live::Listener;

/// Answers with a stream that begins with the session as it is now. Without a session it says so,
/// and ends.
pub async fn news(Extension(session): Extension<Session>) -> Response {
    match session.listen().await {
        Ok(Some(listener)) => streamed(until_end(listener)),
        Ok(None) => streamed(stream::iter([event(&News::Ended)])),
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

/// The listener's news, up to the one that is the last.
fn until_end(listener: Listener<Visitor>) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(Some(listener), |listener| async move {
        let mut listener = listener?;
        let news = News::from(&listener.next().await?);
        let last = matches!(news, News::Ended | News::Replaced);
        Some((event(&news), (!last).then_some(listener)))
    })
}

fn event(news: &News) -> Result<Event, Infallible> {
    Ok(Event::default().data(encoding::form(|write| news.write(write))))
}
