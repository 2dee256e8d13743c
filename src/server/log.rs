//! The log: lines to standard error, for people or for programs. No line holds a session's id or a
//! value of it.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{extract::Request, http::Method, response::Response};

use super::{
    health,
    metrics::Metrics,
    middleware::Inner,
    request_id::REQUEST_ID,
    settings::{LogFormat, Settings},
};
use tally_console::AUDIT_TARGET as AUDIT;
use tally_session::SessionFailure;

/// The most of a path and of a method that is logged, in bytes.
const LOGGED_PATH: usize = 200;
const LOGGED_METHOD: usize = 16;

/// The Redis client warns of each broken connection of its own; the store tells of outages as a whole.
const QUIET: &str = "fred=error";

/// Begins to log, as the settings say.
pub fn start(settings: &Settings) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A later directive for the same target wins. What operators do is always written down.
        .with_env_filter(format!("{QUIET},{},{AUDIT}=info", settings.log));
    match settings.log_format {
        LogFormat::Pretty => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        // The message may hold a visitor's data: developers need it, operators' logs must not have it.
        let message = panic.payload_as_str().filter(|_| cfg!(debug_assertions));
        tracing::error!(location, message, "panicked");
    }));
}

/// Counts and logs each response, and returns the name of its request with it.
pub async fn requests<S: Inner>(metrics: Arc<Metrics>, request: Request, inner: S) -> Response {
    let began = Instant::now();
    let id = request.headers().get(REQUEST_ID).cloned();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = inner.respond(request).await;
    let took = began.elapsed();
    metrics.answered(metrics.route(uri.path()), response.status(), took);
    let text = id.as_ref().and_then(|id| id.to_str().ok());
    answered(
        text.unwrap_or_default(),
        &method,
        uri.path(),
        &response,
        took,
    );
    response.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
    response
}

/// One line a request: its path without the query, for what visitors type stays theirs, and what
/// went wrong. A flood that is turned away is no failure, and a store that fails has its own two lines.
fn answered(id: &str, method: &Method, path: &str, response: &Response, took: Duration) {
    let (status, milliseconds) = (response.status().as_u16(), took.as_secs_f64() * 1_000.0);
    let path = &path[..path.floor_char_boundary(LOGGED_PATH)];
    let method = method.as_str();
    let method = &method[..method.floor_char_boundary(LOGGED_METHOD)];
    let cause = response.extensions().get::<SessionFailure>();
    let error = cause.map(|SessionFailure(error)| tracing::field::display(error));
    // A probe that is told "not ready" is no failure, either.
    let is_told = cause.is_some_and(|SessionFailure(error)| error.is_of_the_store())
        || health::is_probe(path);
    if status >= 500 && !is_told {
        tracing::warn!(id, method, ?path, status, milliseconds, error, "failed");
    } else {
        tracing::info!(id, method, ?path, status, milliseconds, error, "answered");
    }
}
