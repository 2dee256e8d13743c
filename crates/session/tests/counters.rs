//! An application's own counters.

mod support;

use axum::{Router, http::StatusCode, routing::any};
use serde::{Deserialize, Serialize};
use support::{ask, memory};
use tally_session::{
    Config, ConfigError, ConnectError, Counter, Session, SessionError, SessionManager, SessionState,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Shopper {
    orders: u64,
    returns: u64,
}

impl SessionState for Shopper {
    const COUNTERS: &'static [Counter<Self>] = &[
        Counter::new("orders", |before, after| after.orders - before.orders),
        Counter::new("returns", |before, after| after.returns - before.returns),
    ];
}

async fn order(session: &Session<Shopper>) -> Result<(), SessionError> {
    session.update(|shopper| shopper.orders += 2).await?;
    session.update(|shopper| shopper.returns += 1).await
}

#[tokio::test]
async fn changes_count_only_if_the_response_succeeds() {
    let sessions =
        SessionManager::<Shopper>::new(memory().await, Config::default()).expect("sessions");
    let app = Router::new()
        .route(
            "/order",
            any(async |session: Session<Shopper>| order(&session).await),
        )
        .route(
            "/fail",
            any(async |session: Session<Shopper>| {
                order(&session).await?;
                Ok::<_, SessionError>(StatusCode::INTERNAL_SERVER_ERROR)
            }),
        )
        .layer(sessions.layer());
    let cookie = ask(&app, "/order", "").await.cookie;
    let failed = ask(&app, "/fail", &cookie).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    ask(&app, "/order", &cookie).await;

    let metrics = sessions.metrics();
    assert_eq!(metrics.counters, [("orders", 4), ("returns", 2)]);
    assert_eq!((metrics.created, metrics.changes), (1, 4));
    let statistics = sessions.statistics().await.expect("statistics");
    assert_eq!(statistics.counters, ["orders", "returns"]);
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Taken;

impl SessionState for Taken {
    const COUNTERS: &'static [Counter<Self>] = &[Counter::new("conflicts", |_, _| 1)];
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Twice;

impl SessionState for Twice {
    const COUNTERS: &'static [Counter<Self>] = &[
        Counter::new("orders", |_, _| 1),
        Counter::new("orders", |_, _| 1),
    ];
}

async fn refused<S: SessionState>() -> Option<ConfigError> {
    match SessionManager::<S>::new(memory().await, Config::default()) {
        Err(ConnectError::Config(error)) => Some(error),
        _ => None,
    }
}

#[tokio::test]
async fn a_counter_name_that_is_taken_is_refused() {
    assert_eq!(
        refused::<Taken>().await,
        Some(ConfigError::CounterName("conflicts"))
    );
    assert_eq!(
        refused::<Twice>().await,
        Some(ConfigError::CounterName("orders"))
    );
    assert_eq!(refused::<Shopper>().await, None);
}
