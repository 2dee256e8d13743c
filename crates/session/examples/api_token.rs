//! The session's id in a header, for apps and programs.
//!
//! Run `cargo run -p tally-session --example api_token`, then `curl -i http://127.0.0.1:3000`. Send the `x-auth-token`
//! of the response in the next request, in the same header or as `Authorization: Bearer`.

use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use tally_session::{
    Config, Session, SessionError, SessionManager, SessionState, Transport,
    store::{self, StoreOptions},
};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    calls: u64,
}

impl SessionState for Client {}

/// Counts the client's calls. The first response has the id in its header, and sets no cookie.
async fn call(session: Session<Client>) -> Result<String, SessionError> {
    let calls = session.update(|client| {
        client.calls += 1;
        client.calls
    });
    Ok(format!("Call {}\n", calls.await?))
}

pub fn config() -> Config {
    Config::default().with_transport(Transport::Header(Transport::HEADER))
}

pub fn app(sessions: &SessionManager<Client>) -> Router {
    Router::new().route("/", get(call)).layer(sessions.layer())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("SESSION_STORE").unwrap_or("memory:".to_owned());
    let store = store::open(&StoreOptions::new(url.parse()?)).await?;
    let sessions = SessionManager::new(store, config())?;
    sessions.start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(&sessions)).await?)
}
