//! Whether the server lives, and whether it is ready for visitors: for whoever restarts it, and for
//! the balancer in front.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::visitor::Sessions;
use axum::{Router, extract::State, http::StatusCode, routing::get};

/// What readiness depends on.
#[derive(Clone, Debug)]
struct Ready {
    sessions: Sessions,
    leaving: Arc<AtomicBool>,
}

/// `/health/live`: the process answers. `/health/ready`: sessions can be read and written, and the server
/// has not been told to stop; else the body says why not, in one word. `/health` is `/health/live` by its short name.
pub fn routes(sessions: Sessions, leaving: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Ready { sessions, leaving })
}

/// Whether a path is for probes.
pub fn is_probe(path: &str) -> bool {
    path == "/health" || path.starts_with("/health/")
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(ready): State<Ready>) -> (StatusCode, String) {
    if ready.leaving.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    match ready.sessions.check_ready().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")),
    }
}
