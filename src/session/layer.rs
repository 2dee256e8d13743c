//! Gives each request its session handle, and writes what became of it into the answer's head.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, SET_COOKIE, VARY},
    },
    middleware::Next,
    response::Response,
};

use super::{Session, Sessions, cookie};

/// The session layer: parses the cookie and touches no store; the handle does, when it is asked.
pub async fn session_layer(
    State(sessions): State<Arc<Sessions>>,
    mut request: Request,
    next: Next,
) -> Response {
    let sent = cookie::sent(request.headers(), &sessions.settings.cookie_name);
    let session = Session::new(Arc::clone(&sessions), sent);
    request.extensions_mut().insert(session.clone());
    let mut response = next.run(request).await;

    let (touched, decision) = session.outcome();
    if !touched {
        return response;
    }
    let failed = response.status().is_server_error();
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Cookie"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if !failed && let Some(value) = cookie::set_cookie(&decision, &sessions.settings) {
        headers.append(SET_COOKIE, value);
    }
    response
}
