//! The way of a request, from the outside in.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{
        HeaderName, HeaderValue, StatusCode, Version,
        header::{CONNECTION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, Stream, StreamExt, future::ready, stream};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;
use tower::ServiceExt;

use super::{
    address::{self, Forwarded},
    headers, log,
    metrics::Metrics,
    origin,
    request_id::{REQUEST_ID, RequestId},
    responder::Responder,
    settings::Settings,
};
use crate::visitor::Visitor;
use tally_session::{ClientInfo, SessionService};

/// How long, and how many bytes of, a body that is too large is read after it has been refused.
const LINGER: Duration = Duration::from_secs(5);
const MOST_DISCARDED: usize = 64 * 1_024 * 1_024;

const PLAIN: [(HeaderName, HeaderValue); 1] = [(
    CONTENT_TYPE,
    HeaderValue::from_static("text/plain; charset=utf-8"),
)];

/// Everything that answering takes. axum's layers would do the same; they clone all that is inside
/// of them for each request and each connection, which takes as long as rendering a page and costs
/// 40 KB a connection.
#[derive(Debug)]
pub struct Site {
    pub settings: Settings,
    pub metrics: Metrics,
    /// The server has been told to stop: whoever holds a connection shall find another server.
    pub leaving: Arc<AtomicBool>,
    /// Makes names for requests of their numbers, which would tell how many there are.
    pub names: RandomState,
    /// The number of the next request.
    pub requests: AtomicU64,
    /// What responds, inside of the session layer.
    pub responder: SessionService<Visitor, Responder>,
}

impl Site {
    /// How long a connection may wait for its next request, and take for that request's head.
    pub fn next_request(&self) -> Duration {
        Duration::from_secs(self.settings.keep_alive_timeout)
    }

    /// Answers a request. Every answer, errors too, leaves here with the security headers, and is
    /// counted.
    pub async fn answer(self: Arc<Self>, mut request: Request, peer: IpAddr) -> Response {
        let began = Instant::now();
        let trusted = &self.settings.trusted_proxies;
        let forwarded = Forwarded::of(peer, request.headers(), trusted);
        let is_https = forwarded.is_https;
        let client = ClientInfo {
            address: Some(address::visitor(peer, request.headers(), trusted)),
            is_https: is_https == Some(true),
        };
        if forwarded.host.is_some() {
            request.extensions_mut().insert(forwarded);
        }
        let version = request.version();
        let believed = address::is_trusted(peer, trusted);
        let id = RequestId::of(
            request.headers(),
            believed,
            self.names
                .hash_one(self.requests.fetch_add(1, Ordering::Relaxed)),
        );
        let (method, uri) = (request.method().clone(), request.uri().clone());
        // In a box, for what is put around it would move some kilobytes each time.
        request.extensions_mut().insert(client);
        request.headers_mut().insert(REQUEST_ID, id.value());
        let answer = Box::pin(self.within_limits(request));
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let mut response = answer.await.unwrap_or_else(|_| panicked());
        // A browser that has come by plain http ignores it.
        let hsts_age = if is_https == Some(false) {
            0
        } else {
            self.settings.hsts_age
        };
        headers::secure(&mut response, hsts_age);
        response.headers_mut().insert(REQUEST_ID, id.value());
        if self.leaving.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if version == Version::HTTP_2 {
            // Its connections are told otherwise.
            response.headers_mut().remove(CONNECTION);
        }
        let took = began.elapsed();
        let route = self.metrics.route(uri.path());
        self.metrics.answered(route, response.status(), took);
        log::answered(&id, &method, uri.path(), &response, took);
        response
    }

    async fn within_limits(&self, request: Request) -> Response {
        let refusal = origin::refusal(&self.settings, &request);
        let (head, body) = request.into_parts();
        let limit = Duration::from_secs(self.settings.request_timeout);
        let reading = timeout(limit, buffer_body(body, self.settings.body_limit));
        let body = match reading.await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return refusal.map_or_else(|| error.into_response(), closing),
            Err(_) => return closing(timed_out()),
        };
        match refusal {
            Some(refusal) => refusal,
            None => {
                let request = Request::from_parts(head, body);
                let Ok(response) = self.responder.clone().oneshot(request).await;
                response
            }
        }
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

/// The panic itself has been logged by its hook.
pub fn panicked() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong here. Nothing was changed.\n",
    )
        .into_response()
}
