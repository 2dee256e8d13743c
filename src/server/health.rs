//! Whether the server lives, and whether it is ready for visitors: for whoever restarts it, and for
//! the balancer in front.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::time::timeout;

use crate::session::Sessions;

/// How long the store may take to answer: balancers ask again after a few seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What readiness depends on.
#[derive(Clone, Debug)]
struct Ready {
    sessions: Arc<Sessions>,
    leaving: Arc<AtomicBool>,
}

/// `/health/live`: the process answers. `/health/ready`: the store answers too, and the server has
/// not been told to stop. `/health` is `/health/live` by its short name.
pub fn routes(sessions: Arc<Sessions>, leaving: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Ready { sessions, leaving })
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(ready): State<Ready>) -> (StatusCode, &'static str) {
    if ready.leaving.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match timeout(PATIENCE, ready.sessions.ping()).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n"),
        Ok(Err(_)) | Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the session store does not answer\n",
        ),
    }
}
