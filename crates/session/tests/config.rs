//! The effects of the config, in process.

mod support;

use axum::{
    Router,
    body::Body,
    http::{Method, Request, header},
    routing::{any, get},
};
use support::{ask, memory, request, send};
use tally_session::{
    Config, ConfigError, ConnectError, CookieHost, CookieSecure, Map, Session, SessionError,
    SessionManager, Transport,
};

/// Handlers that read, extend, clear and delete a session.
async fn app(config: Config) -> (Router, SessionManager<Map>) {
    let sessions = SessionManager::new(memory().await, config).expect("sessions");
    let app = Router::new()
        .route(
            "/read",
            any(
                async |session: Session<Map>| -> Result<String, SessionError> {
                    Ok(session.read().await?.values().len().to_string())
                },
            ),
        )
        .route(
            "/add",
            any(
                async |session: Session<Map>| -> Result<String, SessionError> {
                    let added = session.update(|map| {
                        let name = map.values().len().to_string();
                        map.values_mut().insert(name, true.into());
                        map.values().len()
                    });
                    Ok(added.await?.to_string())
                },
            ),
        )
        .route(
            "/clear",
            get(async |session: Session<Map>| session.clear().await),
        )
        .route(
            "/flush",
            get(async |session: Session<Map>| session.flush().await),
        )
        .route(
            "/expiry",
            get(
                async |session: Session<Map>| -> Result<String, SessionError> {
                    let expires_at = session.expires_at().await?;
                    Ok(expires_at.map_or(0, |at| at.unix_timestamp()).to_string())
                },
            ),
        )
        .layer(sessions.layer());
    (app, sessions)
}

fn with(name: &str, value: &str, cookie: &str) -> Request<Body> {
    let mut request = request("/add", cookie);
    request.headers_mut().insert(
        header::HeaderName::from_bytes(name.as_bytes()).expect("a name"),
        value.parse().expect("a value"),
    );
    request
}

#[tokio::test]
async fn the_header_wins_over_the_cookie_and_browsers_keep_using_cookies() {
    let transport = Transport::CookieOrHeader(Transport::HEADER);
    let (app, _sessions) = app(Config::default().with_transport(transport)).await;
    let by_cookie = ask(&app, "/add", "").await;
    assert!(by_cookie.set_cookie.is_some());
    assert_eq!(
        by_cookie.headers[header::VARY],
        "Cookie, Authorization, x-auth-token"
    );
    let by_header = send(&app, with("x-auth-token", "", &by_cookie.cookie)).await;
    assert_eq!(
        (by_header.body.as_str(), &by_header.set_cookie),
        ("1", &None)
    );
    let id = by_header.headers["x-auth-token"].to_str().expect("text");
    let both = send(&app, with("x-auth-token", id, &by_cookie.cookie)).await;
    assert_eq!((both.body.as_str(), both.set_cookie), ("2", None));
    let foreign = send(
        &app,
        with("authorization", "Bearer not.an.id", &by_cookie.cookie),
    )
    .await;
    assert_eq!(
        foreign.body, "2",
        "another application's token does not hide the cookie"
    );
    let mut flush = with("x-auth-token", id, "");
    *flush.uri_mut() = "/flush".parse().expect("a path");
    assert_eq!(
        send(&app, flush).await.headers["x-auth-token"],
        "",
        "removed"
    );
}

#[tokio::test]
async fn the_cookie_is_partitioned_and_has_another_name_on_another_host() {
    let other = CookieHost {
        host: "shop.example".to_owned(),
        name: "shopid".to_owned(),
        domain: "shop.example".to_owned(),
    };
    let config = Config::default()
        .with_cookie_secure(CookieSecure::Always)
        .with_cookie_partitioned(true)
        .with_cookie_hosts(vec![other]);
    let (app, _sessions) = app(config).await;
    let here = ask(&app, "/add", "").await.set_cookie.expect("a cookie");
    assert!(here.starts_with("sessionid="), "{here}");
    assert!(here.contains("; Secure; Partitioned; Path=/"), "{here}");
    let there = send(&app, with("host", "SHOP.example:8443", "")).await;
    let set = there.set_cookie.expect("a cookie");
    assert!(set.starts_with("shopid="), "{set}");
    assert!(set.contains("; Domain=shop.example;"), "{set}");
    let again = send(&app, with("host", "shop.example", &there.cookie)).await;
    assert_eq!(again.body, "2");
    // HTTP/2 has the host only in the request's URI.
    let by_uri = ask(&app, "http://shop.example/add", &there.cookie).await;
    assert_eq!(by_uri.body, "3");
    assert_eq!(
        ask(&app, "/read", &there.cookie).await.body,
        "0",
        "the cookie belongs to another host"
    );
}

#[tokio::test]
async fn a_session_is_renewed_at_most_once_per_interval() {
    for (interval, renews) in [(0, true), (3_600, false)] {
        let config = Config::default()
            .with_save_every_request(true)
            .with_renew_interval(interval as u64);
        let (app, sessions) = app(config).await;
        let cookie = ask(&app, "/add", "").await.cookie;
        let saves = || sessions.metrics().store_times[1].count;
        let before = saves();
        let read = ask(&app, "/read", &cookie).await;
        assert_eq!(read.set_cookie.is_some(), renews);
        assert_eq!(saves() > before, renews);
        let unknown = ask(&app, "/read", "sessionid=0123456789abcdef0123456789abcdef").await;
        assert!(unknown.set_cookie.expect("removed").contains("Max-Age=0"));
        assert_eq!(
            sessions.metrics().created,
            1,
            "an unknown id creates no session"
        );
    }
}

#[tokio::test]
async fn an_empty_session_ends_if_the_config_says_so() {
    for (delete_empty, ends) in [(false, false), (true, true)] {
        let (app, _sessions) = app(Config::default().with_delete_empty(delete_empty)).await;
        let cookie = ask(&app, "/add", "").await.cookie;
        let cleared = ask(&app, "/clear", &cookie).await;
        let removed = cleared.set_cookie.expect("a cookie").contains("Max-Age=0");
        assert_eq!(removed, ends);
        assert_eq!(ask(&app, "/expiry", &cookie).await.body == "0", ends);
    }
}

#[tokio::test]
async fn prefetches_and_head_and_options_requests_change_nothing() {
    let (app, sessions) = app(Config::default()).await;
    let cookie = ask(&app, "/add", "").await.cookie;
    let prefetch = |name: &'static str, value: &'static str| with(name, value, &cookie);
    let method = |method: Method| {
        let mut request = request("/add", &cookie);
        *request.method_mut() = method;
        request
    };
    for request in [
        prefetch("sec-purpose", "prefetch;prerender"),
        prefetch("purpose", "prefetch"),
        method(Method::OPTIONS),
        method(Method::HEAD),
    ] {
        let seen = send(&app, request).await;
        assert_eq!(seen.set_cookie, None);
    }
    assert_eq!(ask(&app, "/read", &cookie).await.body, "1");
    let new = send(&app, with("sec-purpose", "prefetch", "")).await;
    assert_eq!(
        (new.body.as_str(), new.set_cookie),
        ("1", None),
        "the change runs on a copy"
    );
    assert_eq!(sessions.metrics().created, 1);
}

#[tokio::test]
async fn a_config_that_browsers_would_reject_is_refused() {
    let config = Config::default().with_cookie_name("__Host-id");
    let refused = SessionManager::<Map>::new(memory().await, config);
    assert!(matches!(
        refused,
        Err(ConnectError::Config(ConfigError::PrefixNeedsSecure))
    ));
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn the_metrics_facade_gets_the_counts() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let store = memory().await;
    let sessions = metrics::with_local_recorder(&recorder, || {
        SessionManager::<Map>::new(store, Config::default()).expect("sessions")
    });
    let app = Router::new()
        .route(
            "/",
            get(async |session: Session<Map>| session.insert("key", 1).await),
        )
        .layer(sessions.layer());
    ask(&app, "/", "").await;
    let counted = snapshotter.snapshot().into_vec();
    let created = counted
        .iter()
        .find(|(key, ..)| key.key().name() == "tally_sessions_created_total");
    let (.., value) = created.expect("a counter");
    assert_eq!(*value, DebugValue::Counter(1));
}
