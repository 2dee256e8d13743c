//! The headers of every response, whatever the request and its outcome.

use crate::support::{Engine, Response, Server, Setup, until};
use leptos::server_fn::axum::server_fn_paths;
use tally::pages::LINKS;

/// The headers of every response.
const ALWAYS: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("strict-transport-security", "max-age=31536000"),
];

/// The headers of every response that a browser could show.
const SHOWN: [(&str, &str); 4] = [
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=()",
    ),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The kind of a response, which determines its policy and its caching.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Shows a visitor's state.
    Session,
    /// A page that is the same for everyone.
    Page,
    /// Neither a page nor a visitor's state.
    Plain,
    /// A file that browsers revalidate.
    File,
    /// A session's events, which no browser shows.
    Stream,
}

fn check(what: &str, response: &Response, status: u16, kind: Kind) {
    assert_eq!(response.status, status, "{what}: {}", response.body);
    for (name, value) in ALWAYS {
        assert_eq!(response.header(name), Some(value), "{what}");
    }
    assert!(
        response
            .header("x-request-id")
            .is_some_and(|id| id.len() == 16),
        "{what}"
    );
    if kind != Kind::Stream {
        check_shown(what, response, kind);
    }
    let cache = response.header("cache-control");
    match kind {
        Kind::Session | Kind::Stream => {
            assert_eq!(cache, Some("private, no-store"), "{what}");
            assert!(response.varies_by_cookie(), "{what}");
        }
        Kind::File => assert_eq!(cache, Some("no-cache"), "{what}"),
        Kind::Page | Kind::Plain => {
            assert_eq!(response.header("set-cookie"), None, "{what}");
            assert!(!response.varies_by_cookie(), "{what}");
        }
    }
}

/// Whether the response must be a page in HTML.
fn must_be_page(what: &str, kind: Kind) -> bool {
    let pages = ["GET /", "HEAD /", "a page"];
    let is_page = || pages.iter().any(|page| what.starts_with(page));
    kind == Kind::Page || (kind == Kind::Session && is_page())
}

fn check_shown(what: &str, response: &Response, kind: Kind) {
    for (name, value) in SHOWN {
        assert_eq!(response.header(name), Some(value), "{what}");
    }
    let policy = response
        .header("content-security-policy")
        .expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{what}: {policy}");
    assert!(
        policy.contains("frame-ancestors 'none'"),
        "{what}: {policy}"
    );
    for forbidden in ["unsafe-inline", "'unsafe-eval'", "*", "data:", "http:"] {
        assert!(!policy.contains(forbidden), "{what}: {policy}");
    }
    let content = response.header("content-type").unwrap_or_default();
    let is_page = content.starts_with("text/html");
    assert!(is_page || !must_be_page(what, kind), "{what}: {content}");
    assert_eq!(
        policy.contains("script-src 'self' 'nonce-"),
        is_page,
        "{what}: {policy}"
    );
    // The response to HEAD has a page's headers but no body.
    if is_page && !what.starts_with("HEAD") {
        let nonce = policy
            .split("'nonce-")
            .nth(1)
            .and_then(|rest| rest.split('\'').next());
        let nonce = nonce.expect("a nonce");
        let script = format!("nonce=\"{nonce}\"");
        assert_eq!(response.body.matches(&script).count(), 1, "{what}");
        assert_eq!(response.body.matches("<script").count(), 1, "{what}");
    }
}

fn secured(setup: Setup) -> Setup {
    setup.probe().set("TALLY_HSTS_AGE", "31536000")
}

#[test]
fn every_route_and_status_has_the_security_headers() {
    let server = Server::start_as(Engine::Redis, secured);
    let cookie = server.new_session();
    for (method, path, status, kind) in [
        ("GET", "/", 200, Kind::Session),
        ("GET", "/about", 200, Kind::Session),
        ("GET", "/reset", 200, Kind::Session),
        ("HEAD", "/", 200, Kind::Session),
        ("GET", "/nowhere", 404, Kind::Page),
        ("GET", "/pkg/nothing.js", 404, Kind::Page),
        ("GET", "/about/", 308, Kind::Plain),
        ("GET", "/health", 200, Kind::Plain),
        ("GET", "/health/live", 200, Kind::Plain),
        ("GET", "/health/ready", 200, Kind::Plain),
        ("GET", "/icon.svg", 200, Kind::File),
        ("GET", "/robots.txt", 200, Kind::File),
        ("POST", "/api/visit", 200, Kind::Session),
        ("POST", "/api/reset", 200, Kind::Session),
        ("POST", "/api/extend", 200, Kind::Session),
        ("GET", "/reset/", 308, Kind::Plain),
        ("GET", "/live?without-a-session", 200, Kind::Stream),
        ("GET", "/api/visit", 405, Kind::Plain),
        ("DELETE", "/", 405, Kind::Plain),
        ("OPTIONS", "/", 405, Kind::Plain),
        ("POST", "/probe/write/404", 404, Kind::Session),
        ("POST", "/probe/write/500", 500, Kind::Session),
        ("POST", "/probe/panic", 500, Kind::Session),
    ] {
        let what = format!("{method} {path}");
        let cookie = if path.contains("without") {
            ""
        } else {
            &cookie
        };
        let response = server.request(method, path).cookie(cookie).send();
        check(&what, &response, status, kind);
    }
    let large = server.post("/api/visit").body(&"x".repeat(100_000)).send();
    check("a body that is too large", &large, 413, Kind::Plain);
    let foreign = server
        .post("/api/visit")
        .header("origin", "https://evil.example")
        .send();
    check("another site's call", &foreign, 403, Kind::Plain);
    let form = server
        .post("/api/visit")
        .cookie(&cookie)
        .header("accept", "text/html")
        .send();
    check("a form", &form, 303, Kind::Session);
    let long = server
        .post("/api/draft")
        .cookie(&cookie)
        .body(&format!("draft={}", "x".repeat(501)))
        .send();
    check("a draft that is too long", &long, 422, Kind::Session);
    for (path, body) in [
        ("/api/theme", "theme=dark"),
        ("/api/draft", "draft=x"),
        ("/api/delete", ""),
    ] {
        let response = server
            .post(path)
            .cookie(&server.new_session())
            .body(body)
            .send();
        check(path, &response, 200, Kind::Session);
    }
    let wrong = server
        .post("/api/theme")
        .cookie(&cookie)
        .body("colour=%ff")
        .send();
    check("invalid arguments", &wrong, 400, Kind::Plain);
    server.backend().stop();
    let page = server.get("/").cookie(&cookie).send();
    check("a page without a store", &page, 503, Kind::Session);
    let call = server.post("/api/visit").cookie(&cookie).send();
    check("a call without a store", &call, 503, Kind::Session);
    let ready = server.get("/health/ready").send();
    check("readiness without a store", &ready, 503, Kind::Plain);
    for response in [page, call] {
        let seconds = response
            .header("retry-after")
            .and_then(|it| it.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0));
    }
}

/// Asks the app for its routes, so that the checks cover new ones.
#[test]
fn the_checked_routes_include_every_page_and_server_function() {
    let server = Server::start_as(Engine::Memory, secured);
    let cookie = server.new_session();
    for (_, path) in LINKS {
        let response = server.get(path).cookie(&cookie).send();
        check(path, &response, 200, Kind::Session);
    }
    let calls: Vec<_> = server_fn_paths().collect();
    assert!(calls.len() >= 6, "{calls:?}");
    for (path, method) in calls {
        assert_eq!(method, "POST", "{path}: a server function must use POST");
        let response = server
            .post(path)
            .header("origin", "https://evil.example")
            .send();
        check(path, &response, 403, Kind::Plain);
        // Two functions need arguments, which this call lacks.
        let response = server.post(path).cookie(&cookie).send();
        let (status, kind) = match path {
            "/api/draft" | "/api/theme" => (400, Kind::Plain),
            _ => (200, Kind::Session),
        };
        check(path, &response, status, kind);
    }
}

#[test]
fn a_timed_out_request_has_the_security_headers() {
    let server = Server::start_as(Engine::Memory, |setup| {
        secured(setup).set("TALLY_REQUEST_TIMEOUT", "1")
    });
    let slow = server.post("/probe/read-wait-write").send();
    check("a handler that never ends", &slow, 503, Kind::Session);
}

#[test]
fn refused_requests_have_the_security_headers() {
    let server = Server::start_as(Engine::Memory, |setup| {
        secured(setup)
            .set("TALLY_ALLOWED_HOSTS", "127.0.0.1")
            .set("TALLY_NEW_SESSIONS", "1")
            .set("TALLY_NEW_SESSIONS_PER_SECOND", "1")
    });
    let other = server.get("/").header("host", "evil.example").send();
    check("another host", &other, 421, Kind::Plain);
    let flood = until(|| Some(server.get("/").send()).filter(|response| response.status != 200));
    check("too many sessions", &flood, 429, Kind::Session);
    let icon = server.get("/icon.svg").send();
    let tag = icon.header("etag").expect("a tag").to_owned();
    let again = server.get("/icon.svg").header("if-none-match", &tag).send();
    check("a file that has not changed", &again, 304, Kind::File);
}
