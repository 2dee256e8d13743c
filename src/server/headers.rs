//! Security headers: on every answer, and the content policy of each page.

use axum::{
    extract::Request,
    http::{
        HeaderName, HeaderValue,
        header::{
            CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
            STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    response::Response,
};
use leptos::{
    nonce::Nonce,
    prelude::{LeptosOptions, use_context},
};
use leptos_axum::ResponseOptions;

use super::{address::Forwarded, middleware::Inner};

/// What an answer may do that is no page: nothing.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// On every answer.
const ALWAYS: [(HeaderName, HeaderValue); 2] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// On every answer that a browser could show. Forms without script are redirected to the page that
/// they came from, so pages of this site may know each other by Referer; nobody else is told.
const SHOWN: [(HeaderName, HeaderValue); 4] = [
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=()"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Adds the headers that every answer carries, errors too.
pub async fn secure<S: Inner>(hsts_age: u64, request: Request, inner: S) -> Response {
    let forwarded = request.extensions().get::<Forwarded>();
    let is_plain = forwarded.is_some_and(|forwarded| forwarded.is_https == Some(false));
    let mut response = inner.respond(request).await;
    // A browser that has come by plain http ignores it.
    add(&mut response, if is_plain { 0 } else { hsts_age });
    response
}

fn add(response: &mut Response, hsts_age: u64) {
    let headers = response.headers_mut();
    if hsts_age > 0
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={hsts_age}"))
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
    headers.extend(ALWAYS);
    // No browser shows a stream, and hyper keeps its headers in memory until it ends: the map
    // doubles at the 13th, which is 1.3 KiB for each open page.
    if headers
        .get(CONTENT_TYPE)
        .is_some_and(|it| it == "text/event-stream")
    {
        return;
    }
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(NOTHING);
    headers.extend(SHOWN);
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

/// Tells clients after how many seconds another try is worth it, in a server function.
pub fn retry_after(options: &ResponseOptions, seconds: u64) {
    options.insert_header(RETRY_AFTER, HeaderValue::from(seconds));
}
