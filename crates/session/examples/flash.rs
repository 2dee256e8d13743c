//! Messages that the next page shows once, and values by string keys.
//!
//! Run `cargo run -p tally-session --example flash`.

use axum::{Router, extract::Path, response::Redirect, routing::get};
use tally_session::{Level, Map, Message, Session, SessionError, SessionManager};

/// Stores a colour, and redirects to the page with a message.
async fn choose(
    session: Session<Map>,
    Path(colour): Path<String>,
) -> Result<Redirect, SessionError> {
    session.insert("colour", &colour).await?;
    let message = Message::new(Level::Success, format!("The colour is {colour} now."));
    session.add_message(message).await?;
    Ok(Redirect::to("/"))
}

/// Shows the pending messages, and removes them.
async fn page(session: Session<Map>) -> Result<String, SessionError> {
    let colour: Option<String> = session.get("colour").await?;
    let mut page = format!("Colour: {}\n", colour.as_deref().unwrap_or("none yet"));
    for Message { level, text } in session.take_messages().await? {
        page += &format!("{level:?}: {text}\n");
    }
    Ok(page)
}

pub fn app(sessions: &SessionManager<Map>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/choose/{colour}", get(choose))
        .layer(sessions.layer())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = std::env::var("SESSION_STORE").unwrap_or("memory:".to_owned());
    let sessions = SessionManager::connect(&store).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/choose/blue", listener.local_addr()?);
    Ok(axum::serve(listener, app(&sessions)).await?)
}
