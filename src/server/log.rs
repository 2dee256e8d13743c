//! The log, on standard error, as text or as JSON. It never contains the id or a value of a session.

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

/// The maximum length of a logged path, in bytes.
const MAX_PATH: usize = 200;

/// The maximum length of a logged method, in bytes.
const MAX_METHOD: usize = 16;

/// The Redis client would warn about each lost connection. The store logs outages as a whole.
const QUIET: &str = "fred=error";

/// Installs the log subscriber and the panic hook.
pub fn start(settings: &Settings) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A later directive for the same target wins, so the audit log can't be disabled.
        .with_env_filter(format!("{QUIET},{},{AUDIT}=info", settings.log));
    match settings.log_format {
        LogFormat::Pretty => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        // The message may contain a visitor's data, so log it only in debug builds.
        let message = panic.payload_as_str().filter(|_| cfg!(debug_assertions));
        tracing::error!(location, message, "panicked");
    }));
}

/// Records and logs each response, and adds the request id to it.
pub async fn requests<S: Inner>(metrics: Arc<Metrics>, request: Request, inner: S) -> Response {
    let start = Instant::now();
    let id = request.headers().get(REQUEST_ID).cloned();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = inner.respond(request).await;
    let duration = start.elapsed();
    metrics.record(metrics.route(uri.path()), response.status(), duration);
    let text = id.as_ref().and_then(|id| id.to_str().ok());
    log_response(
        text.unwrap_or_default(),
        &method,
        uri.path(),
        &response,
        duration,
    );
    response.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
    response
}

/// Logs a response. The path has no query, because a query may contain private input of the visitor.
///
/// Server errors are logged as warnings. Exceptions are failures of the store, because the store logs its outages, and
/// health checks, for which "not ready" is a normal result.
fn log_response(id: &str, method: &Method, path: &str, response: &Response, duration: Duration) {
    let (status, milliseconds) = (response.status().as_u16(), duration.as_secs_f64() * 1_000.0);
    let path = &path[..path.floor_char_boundary(MAX_PATH)];
    let method = method.as_str();
    let method = &method[..method.floor_char_boundary(MAX_METHOD)];
    let failure = response.extensions().get::<SessionFailure>();
    let error = failure.map(|SessionFailure(error)| tracing::field::display(error));
    let is_expected = failure.is_some_and(|SessionFailure(error)| error.is_store_error())
        || health::is_probe(path);
    if status >= 500 && !is_expected {
        tracing::warn!(
            id,
            method,
            ?path,
            status,
            milliseconds,
            error,
            "request failed"
        );
    } else {
        tracing::info!(
            id,
            method,
            ?path,
            status,
            milliseconds,
            error,
            "request completed"
        );
    }
}
