//! Any store of tower-sessions, on a single server.
//!
//! Run `cargo run -p tally-session --example tower_sessions_store`.

use std::sync::Arc;

use axum::{Router, routing::get};
use tally_session::{
    Config, ConnectError, Map, Session, SessionError, SessionManager, store::SingleServer,
};
use tower_sessions::MemoryStore;

/// Reads and writes a key as with tower-sessions, but loses no concurrent visit.
async fn index(session: Session<Map>) -> Result<String, SessionError> {
    let visits = session.update(|map| {
        let values = map.values_mut();
        let visits = values.get("visits").and_then(|visits| visits.as_u64());
        let visits = visits.unwrap_or(0) + 1;
        values.insert("visits".to_owned(), visits.into());
        visits
    });
    Ok(format!("Visit count: {}", visits.await?))
}

/// Replace `MemoryStore` by any store that implements `tower_sessions::SessionStore`.
pub fn sessions() -> Result<SessionManager<Map>, ConnectError> {
    let store = SingleServer::new(MemoryStore::default());
    SessionManager::new(Arc::new(store), Config::default())
}

pub fn app(sessions: &SessionManager<Map>) -> Router {
    Router::new().route("/", get(index)).layer(sessions.layer())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = sessions()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(&sessions)).await?)
}
