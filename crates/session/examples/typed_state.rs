//! A state of your own type: a cart with a counter, and how a failed response is rolled back.
//!
//! Run `cargo run -p tally-session --example typed_state`.

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tally_session::{Session, SessionError, SessionManager, SessionState};

/// The state of each customer's session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cart {
    items: Vec<String>,
    /// The number of items that were ever added, including those that have been removed.
    added: u64,
}

impl SessionState for Cart {
    /// Subtracts the failed change from the newest count, which other requests may have increased since. The core
    /// restores the items, if no other request has written them since.
    fn revert(&mut self, before: &Self, after: &Self, newest: &Self) {
        let added = after.added - before.added;
        self.added = newest.added.saturating_sub(added);
    }
}

impl Cart {
    /// Depends only on the state, because a change may run more than once.
    fn add(&mut self, item: &str) -> usize {
        self.items.push(item.to_owned());
        self.added += 1;
        self.items.len()
    }
}

async fn cart(session: Session<Cart>) -> Result<Json<Cart>, SessionError> {
    Ok(Json(session.read().await?))
}

async fn add(session: Session<Cart>, Path(item): Path<String>) -> Result<String, SessionError> {
    let items = session.update(move |cart| cart.add(&item)).await?;
    Ok(format!("{items} items"))
}

/// Adds an item, and then finds out that it is sold out. The response fails, so the change is rolled back.
async fn order(
    session: Session<Cart>,
    Path(item): Path<String>,
) -> Result<StatusCode, SessionError> {
    session.update(move |cart| cart.add(&item)).await?;
    Ok(StatusCode::BAD_GATEWAY)
}

pub fn app(sessions: &SessionManager<Cart>) -> Router {
    Router::new()
        .route("/", get(cart))
        .route("/add/{item}", post(add))
        .route("/order/{item}", post(order))
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
