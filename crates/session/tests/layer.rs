//! The session layer, over HTTP in process, with sessions in memory.

mod support;

use std::{convert::Infallible, future::poll_fn, sync::Arc, task::Poll};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Request, Response, StatusCode, header},
    routing::get,
};
use serde::{Deserialize, Serialize};
use support::{ask, memory, request, seen};
use tally_session::{
    Config, Map, Session, SessionError, SessionManager, SessionState,
    store::{EncodedRecord, Store, Swap},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cart {
    items: u64,
}

impl SessionState for Cart {}

async fn add(session: &Session<Cart>) -> Result<u64, SessionError> {
    let added = session.update(|cart| {
        cart.items += 1;
        cart.items
    });
    added.await
}

/// Handlers that add an item, and then end in every possible way.
async fn carts() -> (Router, SessionManager<Cart>) {
    let sessions = SessionManager::new(memory().await, Config::default()).expect("sessions");
    let app = Router::new()
        .route(
            "/read",
            get(|session: Session<Cart>| async move {
                Ok::<_, SessionError>(session.read().await?.items.to_string())
            }),
        )
        .route(
            "/add",
            get(|session: Session<Cart>| async move {
                Ok::<_, SessionError>(add(&session).await?.to_string())
            }),
        )
        .route(
            "/add/{status}",
            get(
                |session: Session<Cart>, Path(status): Path<u16>| async move {
                    let status = StatusCode::from_u16(status).expect("a status");
                    add(&session).await.map(|_| status)
                },
            ),
        )
        .route(
            "/add/panic",
            get(|session: Session<Cart>| async move {
                let _ = add(&session).await;
                panic!("on purpose");
                #[expect(unreachable_code, reason = "gives the handler a type")]
                ""
            }),
        )
        .route(
            "/add/hang",
            get(|session: Session<Cart>| async move {
                let _ = add(&session).await;
                std::future::pending::<()>().await;
            }),
        )
        .layer(sessions.layer());
    (app, sessions)
}

async fn items(app: &Router, cookie: &str) -> String {
    ask(app, "/read", cookie).await.body
}

#[tokio::test]
async fn a_map_keeps_concurrent_changes_of_its_keys() {
    let sessions = SessionManager::<Map>::new(memory().await, Config::default()).expect("sessions");
    let layer = sessions.layer();
    let service = service_fn(|request: Request<Body>| async move {
        let session = request
            .extensions()
            .get::<Session<Map>>()
            .expect("a session");
        let setting = (0..20)
            .map(|number| async move { session.insert(&format!("key{number}"), number).await });
        for set in futures_util::future::join_all(setting).await {
            set?;
        }
        assert_eq!(session.get::<u64>("key7").await?, Some(7));
        assert!(matches!(
            session.get::<bool>("key7").await,
            Err(SessionError::Decode(_))
        ));
        assert_eq!(session.pop::<u64>("key7").await?, Some(7));
        assert_eq!(session.pop::<u64>("key7").await?, None);
        session.remove("key8").await?;
        assert_eq!(session.read().await?.values().len(), 18);
        assert!(session.info().await?.expect("a session").bytes > 0);
        session.clear().await?;
        assert_eq!(session.read().await?, Map::default());
        assert!(
            session.expires_at().await?.is_some(),
            "the session is still there"
        );
        Ok::<_, SessionError>(Response::new(Body::empty()))
    });
    let service = ServiceBuilder::new().layer(layer).service(service);
    service.oneshot(request("/", "")).await.expect("no error");
}

#[tokio::test]
async fn creating_a_session_while_the_body_streams_fails_with_a_helpful_error() {
    let sessions =
        SessionManager::<Cart>::new(memory().await, Config::default()).expect("sessions");
    let app = Router::new()
        .route(
            "/stream",
            get(|session: Session<Cart>| async move {
                let line = async move {
                    let added = match add(&session).await {
                        Ok(items) => items.to_string(),
                        Err(error) => error.to_string(),
                    };
                    Ok::<_, Infallible>(added)
                };
                Body::from_stream(futures_util::stream::once(line))
            }),
        )
        .route(
            "/",
            get(|session: Session<Cart>| async move {
                Ok::<_, SessionError>(add(&session).await?.to_string())
            }),
        )
        .layer(sessions.layer());
    let late = ask(&app, "/stream", "").await;
    assert!(
        late.body.contains("before the response begins"),
        "{}",
        late.body
    );
    assert_eq!(late.set_cookie, None);
    let cookie = ask(&app, "/", "").await.cookie;
    assert_eq!(
        ask(&app, "/stream", &cookie).await.body,
        "2",
        "an existing session can still change"
    );
}

#[tokio::test]
async fn concurrent_changes_are_all_kept() {
    let (app, _sessions) = carts().await;
    let cookie = ask(&app, "/add", "").await.cookie;
    let adding = (0..100).map(|_| {
        let (app, cookie) = (app.clone(), cookie.clone());
        tokio::spawn(async move { ask(&app, "/add", &cookie).await.body })
    });
    let mut numbers = Vec::new();
    for added in adding.collect::<Vec<_>>() {
        numbers.push(
            added
                .await
                .expect("no panic")
                .parse::<u64>()
                .expect("a number"),
        );
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=101).collect::<Vec<_>>());
}

#[tokio::test]
async fn reading_creates_no_session_and_an_unknown_id_is_removed() {
    let (app, _sessions) = carts().await;
    let new = ask(&app, "/read", "").await;
    assert_eq!((new.body.as_str(), new.set_cookie), ("0", None));
    let unknown = ask(&app, "/read", "sessionid=0123456789abcdef0123456789abcdef").await;
    let removed = "sessionid=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0";
    assert_eq!(unknown.set_cookie.as_deref(), Some(removed));
    let planted = ask(&app, "/add", "sessionid=0123456789abcdef0123456789abcdef").await;
    assert!(!planted.cookie.ends_with("0123456789abcdef0123456789abcdef"));
}

#[tokio::test]
async fn a_failed_response_rolls_its_change_back() {
    let (app, _sessions) = carts().await;
    let cookie = ask(&app, "/add", "").await.cookie;
    for (path, status, items_then) in [
        ("/add/502", StatusCode::BAD_GATEWAY, "1"),
        ("/add/408", StatusCode::REQUEST_TIMEOUT, "1"),
        ("/add/404", StatusCode::NOT_FOUND, "2"),
    ] {
        let failed = ask(&app, path, &cookie).await;
        assert_eq!(failed.status, status, "{path}");
        assert_eq!(items(&app, &cookie).await, items_then, "{path}");
        let kept = status == StatusCode::NOT_FOUND;
        assert_eq!(failed.set_cookie.is_some(), kept, "{path}");
    }
}

#[tokio::test]
async fn a_panic_rolls_its_change_back_and_propagates() {
    let (app, _sessions) = carts().await;
    let cookie = ask(&app, "/add", "").await.cookie;
    let (other, sent) = (app.clone(), cookie.clone());
    let panicked = tokio::spawn(async move { ask(&other, "/add/panic", &sent).await.status });
    assert!(panicked.await.expect_err("a panic").is_panic());
    assert_eq!(items(&app, &cookie).await, "1");
}

#[tokio::test]
async fn a_dropped_request_rolls_its_change_back() {
    let (app, _sessions) = carts().await;
    let cookie = ask(&app, "/add", "").await.cookie;
    {
        let mut hanging = Box::pin(ask(&app, "/add/hang", &cookie));
        while items(&app, &cookie).await != "2" {
            poll_fn(|context| Poll::Ready(hanging.as_mut().poll(context).is_ready())).await;
        }
    }
    while items(&app, &cookie).await != "1" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_service_error_rolls_its_change_back() {
    let (app, sessions) = carts().await;
    let cookie = ask(&app, "/add", "").await.cookie;
    let failing = service_fn(|request: Request<Body>| async move {
        let session = request
            .extensions()
            .get::<Session<Cart>>()
            .expect("a session");
        add(session).await.expect("added");
        Err::<Response<Body>, &str>("on purpose")
    });
    let service = ServiceBuilder::new()
        .layer(sessions.layer())
        .service(failing);
    let failed = service.oneshot(request("/", &cookie)).await;
    assert_eq!(failed.err(), Some("on purpose"));
    assert_eq!(items(&app, &cookie).await, "1");
}

#[tokio::test]
async fn a_handler_without_a_layer_responds_500() {
    let app = Router::new().route("/", get(|_session: Session<Cart>| async { "never" }));
    assert_eq!(
        ask(&app, "/", "").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

/// A store that can't be reached.
#[derive(Clone, Debug)]
struct Away;

fn away<T>() -> session_store::Result<T> {
    Err(session_store::Error::Backend("away".to_owned()))
}

#[async_trait::async_trait]
impl SessionStore for Away {
    async fn save(&self, _record: &Record) -> session_store::Result<()> {
        away()
    }

    async fn load(&self, _id: &Id) -> session_store::Result<Option<Record>> {
        away()
    }

    async fn delete(&self, _id: &Id) -> session_store::Result<()> {
        away()
    }
}

#[async_trait::async_trait]
impl Store for Away {
    async fn compare_and_swap(
        &self,
        _old: &EncodedRecord,
        _new: &EncodedRecord,
    ) -> session_store::Result<Swap> {
        away()
    }

    async fn compare_and_delete(&self, _old: &EncodedRecord) -> session_store::Result<bool> {
        away()
    }
}

#[tokio::test]
async fn an_unreachable_store_is_503_or_the_applications_own_response() {
    let sessions =
        SessionManager::<Cart>::new(Arc::new(Away), Config::default()).expect("sessions");
    let marking_service = || {
        service_fn(|request: Request<Body>| async move {
            let session = request
                .extensions()
                .get::<Session<Cart>>()
                .expect("a session");
            session.set_test_cookie();
            Ok::<_, Infallible>(Response::new(Body::from("marked")))
        })
    };
    let service = sessions.layer().on_error(|error| {
        assert!(error.is_store_error());
        Response::new("try later".to_owned())
    });
    let service = ServiceBuilder::new()
        .layer(service)
        .service(marking_service());
    let Ok(response) = service.oneshot(request("/", "")).await;
    assert_eq!(seen(response).await.body, "try later");
    let service = ServiceBuilder::new()
        .layer(sessions.layer())
        .service(marking_service());
    let Ok(response) = service.oneshot(request("/", "")).await;
    assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    let failed = seen(response).await;
    assert_eq!(
        (failed.status, failed.set_cookie),
        (StatusCode::SERVICE_UNAVAILABLE, None)
    );
}

#[tokio::test]
async fn connect_opens_the_store_at_a_url() {
    let sessions = SessionManager::<Cart>::connect("memory:")
        .await
        .expect("opened");
    let app = Router::new()
        .route(
            "/",
            get(|session: Session<Cart>| async move {
                Ok::<_, SessionError>(add(&session).await?.to_string())
            }),
        )
        .layer(sessions.layer());
    assert_eq!(ask(&app, "/", "").await.body, "1");
    let refused = SessionManager::<Cart>::connect("nowhere").await;
    assert!(
        refused
            .expect_err("refused")
            .to_string()
            .contains("redis://")
    );
}
