//! Security headers: on every answer, and the content policy of each page.

use axum::{
    http::{
        HeaderName, HeaderValue,
        header::{
            REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
            X_FRAME_OPTIONS,
        },
    },
    response::Response,
};
use leptos::{
    nonce::Nonce,
    prelude::{LeptosOptions, use_context},
};
use leptos_axum::ResponseOptions;

use crate::session::layer::RETRY;

/// Adds the headers that every answer carries, errors too.
pub fn secure(response: &mut Response, hsts_age: u64) {
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
}

/// A page's content policy, with the nonce that its one script carries.
pub fn page_policy(nonce: &Nonce, watched: Option<&LeptosOptions>) -> Option<HeaderValue> {
    // `watch` reloads the page over a socket on another port.
    let reload = watched.map_or(String::new(), |options| {
        let port = options.reload_port;
        format!(" ws://127.0.0.1:{port} ws://localhost:{port}")
    });
    let policy = format!(
        "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; \
         connect-src 'self'{reload}; style-src 'self'; img-src 'self'; manifest-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
}

/// Has the browser forget what it keeps for this site, in a server function.
pub fn clear_site_data() {
    if let Some(options) = use_context::<ResponseOptions>() {
        let value = HeaderValue::from_static("\"cookies\", \"storage\"");
        options.insert_header(HeaderName::from_static("clear-site-data"), value);
    }
}

/// Tells clients when to come back to a store that did not answer.
pub fn retry_later(options: &ResponseOptions) {
    options.insert_header(RETRY_AFTER, HeaderValue::from_static(RETRY));
}
