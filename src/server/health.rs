//! Health checks: liveness for the service manager, and readiness for the load balancer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::visitor::Sessions;
use axum::{Router, extract::State, http::StatusCode, routing::get};

/// The state of the health routes.
#[derive(Clone, Debug)]
struct Ready {
    sessions: Sessions,
    draining: Arc<AtomicBool>,
}

/// The health routes.
///
/// `/health/live`, with the alias `/health`, responds with 200 as long as the process runs. `/health/ready` responds
/// with 200 if sessions can be read and written and the server is not draining. Otherwise it responds with 503 and the
/// reason in one word.
pub fn routes(sessions: Sessions, draining: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Ready { sessions, draining })
}

/// Whether a path is one of the health routes.
pub fn is_probe(path: &str) -> bool {
    path == "/health" || path.starts_with("/health/")
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(ready): State<Ready>) -> (StatusCode, String) {
    if ready.draining.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    match ready.sessions.check_ready().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")),
    }
}
