//! A plain axum app with the console nested at `/ops`.
//!
//! Run it, reload the page a few times, and sign in to the console with the password `correct horse battery staple`.
//!
//! ```sh
//! cargo run -p tally-console --example mounted
//! ```

use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use tally_console::{Console, PasswordHash};
use tally_session::{
    Config, Counter, Session, SessionError, SessionManager, SessionState,
    store::{self, StoreOptions},
};

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

impl SessionState for Visitor {
    const COUNTERS: &'static [Counter<Self>] = &[Counter::new("visits", |before, after| {
        after.visits.saturating_sub(before.visits)
    })];
}

async fn index(session: Session<Visitor>) -> Result<String, SessionError> {
    let visits = session.update(|visitor| {
        visitor.visits += 1;
        visitor.visits
    });
    Ok(format!("Visit count: {}", visits.await?))
}

/// Builds the app.
fn app(sessions: &SessionManager<Visitor>, password: PasswordHash) -> Router {
    let console = Console::new(sessions, password)
        .with_title("Shop console")
        .with_column("Visits", |visitor| visitor.visits.to_string());
    Router::new()
        .route("/", get(index))
        .nest("/ops", console.router())
        .layer(sessions.layer())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = store::open(&StoreOptions::new("memory:".parse()?)).await?;
    let sessions = SessionManager::new(store, Config::default().with_record_stats(true))?;
    sessions.start();
    // A real app stores the hash in its settings. `tally_console::prompt_and_hash` creates it.
    let password = PasswordHash::of("correct horse battery staple")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("app: http://127.0.0.1:3000, console: http://127.0.0.1:3000/ops");
    axum::serve(listener, app(&sessions, password)).await?;
    Ok(())
}
