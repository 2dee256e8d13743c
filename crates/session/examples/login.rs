//! Signing in and out: `cargo run -p tally-session --example login`, then
//! `curl -c jar -b jar -d name=ada -d password=lovelace http://127.0.0.1:3000/login`.

use axum::{
    Form, Router,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tally_session::{
    Session, SessionError, SessionManager, SessionState,
    auth::{Limits, SignIn},
};
use time::OffsetDateTime;

/// A sign-in says nothing in another realm, as an operator's console would be one.
const REALM: &str = "members";

/// Half an hour without a request, or half a day.
const LIMITS: Limits = Limits {
    idle: 1_800,
    absolute: 43_200,
};

/// A program would hash the stored password here: another password ends every sign-in made with the old one.
const AUTH_HASH: u64 = 7;

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    name: Option<String>,
}

impl SessionState for Member {}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// The session goes on under a new id, once this response has succeeded. The old id is signed in nowhere.
async fn log_in(
    session: Session<Member>,
    Form(credentials): Form<Credentials>,
) -> Result<Response, SessionError> {
    if credentials.password != "lovelace" {
        return Ok((StatusCode::UNAUTHORIZED, "Wrong name or password\n").into_response());
    }
    let name = credentials.name;
    session
        .update(move |member| member.name = Some(name.clone()))
        .await?;
    session.sign_in(REALM, SignIn::new(AUTH_HASH, now()));
    Ok(Redirect::to("/").into_response())
}

async fn page(session: Session<Member>) -> Result<String, SessionError> {
    let sign_in = session.signed_in(REALM).await?;
    let holds = sign_in.is_some_and(|sign_in| sign_in.check(AUTH_HASH, LIMITS, now()).is_ok());
    if !holds {
        return Ok("Please log in\n".to_owned());
    }
    session.use_sign_in(REALM, now()).await?;
    let name = session.read().await?.name.unwrap_or_default();
    Ok(format!("Hello {name}\n"))
}

async fn log_out(session: Session<Member>) -> Result<Redirect, SessionError> {
    session.sign_out(REALM).await?;
    Ok(Redirect::to("/"))
}

pub fn app(sessions: &SessionManager<Member>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/login", post(log_in))
        .route("/logout", post(log_out))
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
