//! The way of a request, from the outside in.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header::CONNECTION},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tower::ServiceExt;

use super::{
    address, forms, headers, log,
    metrics::Metrics,
    origin,
    pages::{self, Load, Loaded},
    render::Renderer,
    request_id::{REQUEST_ID, RequestId},
    settings::Settings,
};
use crate::{
    console::{self, Console},
    session::{
        Sessions,
        layer::{self, Caller},
    },
};

/// So much of a body that is too large is thrown away before it is refused, in bytes.
const DISCARDED: usize = 1_024 * 1_024;

/// Everything that answering takes. axum's layers would do the same; they clone all that is inside
/// of them for each request and each connection, which takes as long as rendering a page and costs
/// 40 KB a connection.
#[derive(Debug)]
pub struct Site {
    pub settings: Settings,
    pub sessions: Arc<Sessions>,
    pub metrics: Metrics,
    /// The server has been told to stop: whoever holds a connection shall find another server.
    pub leaving: Arc<AtomicBool>,
    pub renderer: Renderer,
    /// The operator's console, where there is one.
    pub console: Option<Arc<Console>>,
    /// Makes names for requests of their numbers, which would tell how many there are.
    pub names: RandomState,
    /// What is no page: server functions, files.
    pub routes: Router,
}

impl Site {
    /// Answers a request. Every answer, errors too, leaves here with the security headers, and is
    /// counted.
    pub async fn answer(self: Arc<Self>, request: Request, peer: IpAddr) -> Response {
        let began = Instant::now();
        let trusted = &self.settings.trusted_proxies;
        let caller = Caller {
            number: self.sessions.next_request(),
            address: address::visitor(peer, request.headers(), trusted),
        };
        let believed = address::is_trusted(peer, trusted);
        let id = RequestId::of(
            request.headers(),
            believed,
            self.names.hash_one(caller.number),
        );
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let limit = Duration::from_secs(self.settings.request_timeout);
        // In a box, for what is put around it would move some kilobytes each time.
        let answer = Box::pin(self.within_limits(request, caller, &id));
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let answer = tokio::time::timeout(limit, answer);
        let mut response = match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => panicked(),
            Err(_) => timed_out(),
        };
        headers::secure(&mut response, self.settings.hsts_age);
        response.headers_mut().insert(REQUEST_ID, id.value());
        if self.leaving.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        let took = began.elapsed();
        let route = self.metrics.route(uri.path());
        self.metrics.answered(route, response.status(), took);
        log::answered(&id, &method, uri.path(), &response, took);
        response
    }

    async fn within_limits(&self, request: Request, caller: Caller, id: &RequestId) -> Response {
        let refusal = origin::refusal(&self.settings, &request);
        let (head, body) = request.into_parts();
        let body = match whole(body, self.settings.body_limit).await {
            Ok(body) => body,
            Err(error) => return refusal.unwrap_or_else(|| error.into_response()),
        };
        match refusal {
            Some(refusal) => refusal,
            None => {
                let request = Request::from_parts(head, body);
                self.with_session(request, caller, id).await
            }
        }
    }

    async fn with_session(&self, mut request: Request, caller: Caller, id: &RequestId) -> Response {
        let session = layer::begin(&self.sessions, &mut request, caller);
        let is_form = forms::is_form(&request);
        let work = pin!(async {
            if let Some(load) = Load::of(&request) {
                return self.renderer.answer(pages::load(load, &session).await);
            }
            if let Some(console) = &self.console
                && console::is_path(request.uri().path())
            {
                // In a box, for visitors' requests need not be as large as the console's.
                return Box::pin(console.answer(request, &session, caller, id)).await;
            }
            let Ok(response) = self.routes.clone().oneshot(request).await;
            if response.extensions().get::<NoPage>().is_some() {
                return self.renderer.answer(Loaded::NOT_FOUND);
            }
            response
        });
        // The session must see a panic as the failed answer that it is.
        let response = AssertUnwindSafe(work).catch_unwind().await;
        let response = response.unwrap_or_else(|_| panicked());
        let response = if is_form {
            forms::answer_form(response)
        } else {
            response
        };
        layer::end(&session, response).await
    }
}

/// Marks that the router found nothing: the page that says so is rendered outside of it.
#[derive(Clone, Copy, Debug)]
pub struct NoPage;

/// What the router answers where it knows of nothing.
pub async fn no_page() -> Extension<NoPage> {
    Extension(NoPage)
}

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyError {
    TooLarge,
    BrokeOff,
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        match self {
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "That is more than this site takes.\n",
            ),
            Self::BrokeOff => (StatusCode::BAD_REQUEST, "The body broke off.\n"),
        }
        .into_response()
    }
}

/// The whole body, of `limit` bytes at the most, read before anything is done for the request. Some
/// of what is over the limit is read, too, and thrown away: who is still sending hears no answer.
async fn whole(mut body: Body, limit: usize) -> Result<Body, BodyError> {
    if body.is_end_stream() {
        return Ok(body);
    }
    let most = limit.saturating_add(DISCARDED);
    if body.size_hint().lower() > most as u64 {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    let mut size: usize = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::BrokeOff)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        size = size.saturating_add(data.len());
        if size <= limit {
            bytes.extend_from_slice(&data);
        } else if size > most {
            break;
        }
    }
    if size > limit {
        return Err(BodyError::TooLarge);
    }
    Ok(Body::from(bytes))
}

fn timed_out() -> Response {
    let status = StatusCode::REQUEST_TIMEOUT;
    (status, "The request took too long. Please try again.\n").into_response()
}

/// The panic itself has been logged by its hook.
fn panicked() -> Response {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "Something went wrong here. Nothing was changed.\n",
    )
        .into_response()
}
