//! A visit counter as tally-session's documentation shows it: the crate's example `counter`.
//! `tally-counter PORT REDIS_URL`

use axum::{Router, routing::get};
use mimalloc::MiMalloc;
use serde::{Deserialize, Serialize};
use tally_session::{Session, SessionError, SessionManager, SessionState};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

impl SessionState for Visitor {}

async fn visit(session: Session<Visitor>) -> Result<String, SessionError> {
    let visits = session.update(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    Ok(visits.await?.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().ok_or("a port")?;
    let redis = arguments.next().ok_or("a Redis URL")?;
    let sessions = SessionManager::<Visitor>::connect(&redis).await?;
    let routes = Router::new().route("/", get(visit).post(visit)).layer(sessions.layer());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
