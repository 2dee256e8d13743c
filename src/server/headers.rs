//! Security headers: on every answer, and the content policy of each page.

use axum::{
    extract::{Request, State},
    http::{
        HeaderValue,
        header::{
            CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::Response,
};
use leptos::{nonce::use_nonce, prelude::use_context};
use leptos_axum::ResponseOptions;

/// Headers that every answer carries, errors too.
pub async fn security_headers(
    State(hsts_age): State<u64>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if hsts_age > 0
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={hsts_age}"))
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Forms without script are redirected to the page that they came from.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Sets the page's content policy, with the nonce that its one script carries.
pub fn provide_policy() {
    let (Some(nonce), Some(options)) = (use_nonce(), use_context::<ResponseOptions>()) else {
        return;
    };
    // `watch` reloads the page over a socket on another port.
    let reload = match std::env::var("LEPTOS_RELOAD_PORT") {
        Ok(port) if std::env::var_os("LEPTOS_WATCH").is_some() => {
            format!(" ws://127.0.0.1:{port} ws://localhost:{port}")
        }
        _ => String::new(),
    };
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; \
         connect-src 'self'{reload}; style-src 'self'; img-src 'self'; manifest-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    if let Ok(value) = HeaderValue::from_str(&policy) {
        options.insert_header(CONTENT_SECURITY_POLICY, value);
    }
}

/// Tells clients when to come back to a store that did not answer.
pub fn retry_later(options: &ResponseOptions) {
    options.insert_header(RETRY_AFTER, HeaderValue::from_static("2"));
}
