//! A state of one's own: a cart whose total is never wrong, and how a failed response takes its step back.
//! `cargo run -p tally-session --example typed_state`.

use axum::{
    Json, Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tally_session::{Session, SessionError, SessionManager, SessionState};

/// What the session of each customer keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cart {
    items: Vec<String>,
    /// How many items were ever added, also those that were removed since.
    added: u64,
}

impl SessionState for Cart {
    /// A failed request takes its own step from the count, whatever others have added since. The items are restored
    /// by the core, if nobody has written them since.
    fn revert(&mut self, before: &Self, after: &Self, newest: &Self) {
        let step = after.added - before.added;
        self.added = newest.added.saturating_sub(step);
    }
}

impl Cart {
    /// A change depends on the state alone, because it may run more than once.
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

/// Adds an item, and then finds out that it is sold out: the response fails, so the cart stays as it was.
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
