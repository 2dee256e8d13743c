//! Shared by the tests: single requests as a browser makes them, and a store in memory.
#![allow(dead_code, reason = "each test uses only a part")]

pub mod members;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use tally_session::store::{self, Store, StoreOptions, StoreUrl};
use tower::ServiceExt;

/// A response as a browser sees it.
pub struct Seen {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The `Set-Cookie` header.
    pub set_cookie: Option<String>,
    /// The cookie as the browser sends it back.
    pub cookie: String,
    pub body: String,
}

pub async fn seen(response: Response<Body>) -> Seen {
    let (parts, body) = response.into_parts();
    let set_cookie = parts.headers.get(header::SET_COOKIE);
    let set_cookie = set_cookie.map(|value| value.to_str().expect("text").to_owned());
    let cookie = set_cookie
        .as_deref()
        .and_then(|text| text.split(';').next());
    let cookie = cookie.unwrap_or_default().to_owned();
    let body = body.collect().await.expect("a body");
    Seen {
        status: parts.status,
        headers: parts.headers,
        set_cookie,
        cookie,
        body: String::from_utf8(body.to_bytes().to_vec()).expect("text"),
    }
}

pub fn request(path: &str, cookie: &str) -> Request<Body> {
    let request = Request::get(path).header(header::COOKIE, cookie);
    request.body(Body::empty()).expect("a request")
}

pub async fn send(app: &Router, request: Request<Body>) -> Seen {
    let Ok(response) = app.clone().oneshot(request).await;
    seen(response).await
}

pub async fn ask(app: &Router, path: &str, cookie: &str) -> Seen {
    send(app, request(path, cookie)).await
}

pub async fn memory() -> Arc<dyn Store> {
    let options = StoreOptions::new(StoreUrl::Memory);
    store::open(&options).await.expect("memory")
}
