//! Limits on the size and the duration of requests.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, Stream, StreamExt, future::ready, stream};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::{middleware::Inner, settings::Settings};

/// How long the rest of a body is read and discarded after it has been rejected as too large.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of bytes of a rejected body that are read and discarded.
const MAX_DISCARDED: usize = 64 * 1_024 * 1_024;

/// The value of `Retry-After` if a handler has timed out, in seconds.
const RETRY_AFTER_TIMEOUT: u64 = 2;

const PLAIN_TEXT: [(HeaderName, HeaderValue); 1] = [(
    CONTENT_TYPE,
    HeaderValue::from_static("text/plain; charset=utf-8"),
)];

/// Reads the whole body before the request is handled, so that a client holds no session while it is sending.
///
/// tower-http's limit closes the connection while the client is still sending, and the client may never read the
/// response.
pub async fn buffer<S: Inner>(settings: Arc<Settings>, request: Request, inner: S) -> Response {
    let (head, body) = request.into_parts();
    let limit = Duration::from_secs(settings.request_timeout);
    match timeout(limit, buffer_body(body, settings.body_limit)).await {
        Ok(Ok(body)) => inner.respond(Request::from_parts(head, body)).await,
        Ok(Err(error)) => error.into_response(),
        Err(_) => closing(timed_out()),
    }
}

/// The reason why a body is rejected.
enum BodyError {
    /// The body is too large. Holds the rest of it.
    TooLarge(Body),
    /// The client has not sent the whole body.
    Incomplete,
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        match self {
            Self::TooLarge(rest) => {
                let message = Ok(Bytes::from_static(b"The request body is too large.\n"));
                let body = Body::from_stream(stream::iter([message]).chain(discard(rest)));
                closing((StatusCode::PAYLOAD_TOO_LARGE, PLAIN_TEXT, body).into_response())
            }
            Self::Incomplete => {
                let message = "The request body is incomplete.\n";
                closing((StatusCode::BAD_REQUEST, message).into_response())
            }
        }
    }
}

/// Reads a body of up to `limit` bytes into memory.
async fn buffer_body(mut body: Body, limit: usize) -> Result<Body, BodyError> {
    if body.is_end_stream() {
        return Ok(body);
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge(body));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Incomplete)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(BodyError::TooLarge(body));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Body::from(bytes))
}

/// An empty stream that reads and discards the rest of the request body.
///
/// A connection that is closed with unread bytes is reset, and the client may lose the response.
fn discard(body: Body) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let reading = async move {
        let mut body = body;
        let read = async {
            let mut size = 0;
            while let Some(Ok(frame)) = body.frame().await {
                size += frame.data_ref().map_or(0, Bytes::len);
                if size > MAX_DISCARDED {
                    break;
                }
            }
        };
        let _ = timeout(DISCARD_TIMEOUT, read).await;
    };
    stream::once(reading).filter_map(|()| ready(None))
}

/// The response to a client that took too long to send its request.
fn timed_out() -> Response {
    let status = StatusCode::REQUEST_TIMEOUT;
    (status, "The request took too long. Please try again.\n").into_response()
}

/// Makes the server close the connection after this response.
fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// Responds with an error if the handler panics or takes longer than `limit`.
///
/// The session layer outside then rolls back the handler's changes. tower-http's `CatchPanicLayer` is not used because
/// it boxes the body of each response.
pub async fn contain<S: Inner>(limit: Duration, request: Request, inner: S) -> Response {
    let handling = AssertUnwindSafe(timeout(limit, inner.respond(request)));
    match handling.catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => too_slow(),
        Err(_) => panicked(),
    }
}

fn too_slow() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_TIMEOUT))],
        "This took too long, so nothing was changed. Please try again.\n",
    )
        .into_response()
}

/// The response after a panic, which the panic hook has logged.
fn panicked() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong. Nothing was changed.\n",
    )
        .into_response()
}
