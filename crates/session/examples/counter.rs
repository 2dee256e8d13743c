//! A visit counter, a cookie test and a reset.
//!
//! Run `cargo run -p tally-session --example counter`. `SESSION_STORE` selects another store, such as
//! `redis://127.0.0.1:6379`.

use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use tally_session::{Session, SessionError, SessionManager, SessionState};

/// The state of each visitor's session.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Visitor {
    visits: u64,
}

impl SessionState for Visitor {}

/// Counts a visit. The change is a function, so concurrent visits are not lost.
async fn index(session: Session<Visitor>) -> Result<String, SessionError> {
    session.set_test_cookie();
    let visits = session.update(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    Ok(format!("Visit count: {}", visits.await?))
}

/// Shows whether the browser has sent back the cookie of an earlier visit.
async fn about(session: Session<Visitor>) -> Result<&'static str, SessionError> {
    if session.test_cookie_worked().await? {
        session.delete_test_cookie();
        return Ok("Cookie Tested!");
    }
    Ok("Cookie not set or not supported")
}

async fn reset(session: Session<Visitor>) -> Result<&'static str, SessionError> {
    session.update(|visitor| visitor.visits = 0).await?;
    Ok("Visit count has been reset to 0")
}

pub fn app(sessions: &SessionManager<Visitor>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/about", get(about))
        .route("/reset", get(reset))
        .layer(sessions.layer())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = std::env::var("SESSION_STORE").unwrap_or("memory:".to_owned());
    let sessions = SessionManager::connect(&store).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(&sessions)).await?)
}
