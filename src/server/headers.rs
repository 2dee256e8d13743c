//! Security headers of every response, and the content security policy of pages.

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

/// The content security policy of responses that are not pages.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// The headers of every response.
const ALWAYS: [(HeaderName, HeaderValue); 2] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// The headers of every response that a browser could display.
///
/// `Referrer-Policy` allows the `Referer` within this site, because forms without JavaScript are redirected to it.
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

/// Adds the security headers to every response, including errors.
pub async fn secure<S: Inner>(hsts_age: u64, request: Request, inner: S) -> Response {
    let forwarded = request.extensions().get::<Forwarded>();
    let is_plain = forwarded.is_some_and(|forwarded| forwarded.is_https == Some(false));
    let mut response = inner.respond(request).await;
    // Browsers ignore Strict-Transport-Security on plain http.
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
    // Browsers don't display a stream, and hyper keeps its headers in memory until it ends. The 13th header would
    // double the size of the map, which costs 1.3 KiB for each open page.
    if headers
        .get(CONTENT_TYPE)
        .is_some_and(|it| it == "text/event-stream")
    {
        return;
    }
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(NOTHING);
    headers.extend(SHOWN);
}

/// The content security policy of a page. Its inline script carries the nonce.
pub fn page_policy(nonce: &Nonce, watched: Option<&LeptosOptions>) -> Option<HeaderValue> {
    // `cargo leptos watch` uses a WebSocket on another port.
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

/// Makes the browser delete its cookies and storage for this site. Call it in a server function.
pub fn clear_site_data() {
    if let Some(options) = use_context::<ResponseOptions>() {
        let value = HeaderValue::from_static("\"cookies\", \"storage\"");
        options.insert_header(HeaderName::from_static("clear-site-data"), value);
    }
}

/// Sets `Retry-After` in a server function.
pub fn retry_after(options: &ResponseOptions, seconds: u64) {
    options.insert_header(RETRY_AFTER, HeaderValue::from(seconds));
}
