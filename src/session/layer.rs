//! Gives each request its session handle, and writes what became of it into the answer's head.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, RETRY_AFTER, SET_COOKIE, VARY},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Session, Sessions, cookie};

/// The session layer: parses the cookie and touches no store; the handle does, when it is asked.
/// Panics must be caught inside of it, so that it sees them as a status of 500.
pub async fn session_layer(
    State(sessions): State<Arc<Sessions>>,
    mut request: Request,
    next: Next,
) -> Response {
    let sent = cookie::sent(request.headers(), &sessions.settings.cookie_name);
    let session = Session::new(Arc::clone(&sessions), sent);
    request.extensions_mut().insert(session.clone());
    let mut response = next.run(request).await;

    let mut failed = response.status().is_server_error();
    if !failed && let Err(error) = session.commit().await {
        tracing::error!(%error, "an answer's session could not be committed");
        response = unavailable();
        failed = true;
    }
    if failed {
        session.roll_back().await;
    }
    let (touched, decision) = session.outcome();
    if !touched {
        return response;
    }
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Cookie"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if !failed && let Some(value) = cookie::set_cookie(&decision, &sessions.settings) {
        headers.append(SET_COOKIE, value);
    }
    response
}

fn unavailable() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(RETRY_AFTER, "2")],
        "Your session can't be reached right now. Please try again.\n",
    )
        .into_response()
}
