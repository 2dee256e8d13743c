//! What a request may take: bytes of a body, and time.

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

/// How long, and how many bytes of, a body that is too large is read after it has been refused.
const LINGER: Duration = Duration::from_secs(5);
const MOST_DISCARDED: usize = 64 * 1_024 * 1_024;

/// When clients shall come back to a handler that was too slow, in seconds.
const RETRY: u64 = 2;

const PLAIN: [(HeaderName, HeaderValue); 1] = [(
    CONTENT_TYPE,
    HeaderValue::from_static("text/plain; charset=utf-8"),
)];

/// Reads the whole body before anything is done for the request, so that a slow client holds no session.
/// tower-http's limit breaks off while the client is sending, and the client may never read why.
pub async fn buffer<S: Inner>(settings: Arc<Settings>, request: Request, inner: S) -> Response {
    let (head, body) = request.into_parts();
    let limit = Duration::from_secs(settings.request_timeout);
    match timeout(limit, buffer_body(body, settings.body_limit)).await {
        Ok(Ok(body)) => inner.respond(Request::from_parts(head, body)).await,
        Ok(Err(error)) => error.into_response(),
        Err(_) => closing(timed_out()),
    }
}

/// What is wrong with a body.
enum BodyError {
    /// With what is left of it.
    TooLarge(Body),
    BrokeOff,
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        match self {
            Self::TooLarge(rest) => {
                let why = Ok(Bytes::from_static(b"That is more than this site takes.\n"));
                let body = Body::from_stream(stream::iter([why]).chain(discarded(rest)));
                closing((StatusCode::PAYLOAD_TOO_LARGE, PLAIN, body).into_response())
            }
            Self::BrokeOff => {
                let why = "The body broke off.\n";
                closing((StatusCode::BAD_REQUEST, why).into_response())
            }
        }
    }
}

/// The whole body, of `limit` bytes at the most, read before anything is done for the request.
async fn buffer_body(mut body: Body, limit: usize) -> Result<Body, BodyError> {
    if body.is_end_stream() {
        return Ok(body);
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge(body));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::BrokeOff)?;
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

/// Reads what a client is still sending, while it reads the response, and throws it away. A connection that is
/// closed over unread bytes is reset, and the response with it may be lost.
fn discarded(body: Body) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let discard = async move {
        let mut body = body;
        let read = async {
            let mut size = 0;
            while let Some(Ok(frame)) = body.frame().await {
                size += frame.data_ref().map_or(0, Bytes::len);
                if size > MOST_DISCARDED {
                    break;
                }
            }
        };
        let _ = timeout(LINGER, read).await;
    };
    stream::once(discard).filter_map(|()| ready(None))
}

/// The client took too long to send its request.
fn timed_out() -> Response {
    let status = StatusCode::REQUEST_TIMEOUT;
    (status, "The request took too long. Please try again.\n").into_response()
}

/// The response after which the connection ends.
fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// Has a handler fail that panics or takes longer than `limit`. The session layer outside takes back what it changed.
/// tower-http's layer for panics would box the body of each response.
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
        [(RETRY_AFTER, HeaderValue::from(RETRY))],
        "This took too long, so nothing was changed. Please try again.\n",
    )
        .into_response()
}

/// The panic itself has been logged by its hook.
fn panicked() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong here. Nothing was changed.\n",
    )
        .into_response()
}
