//! The site with additional routes, whose plain axum handlers use the session.
//!
//! The contract tests run it to test what no page offers: expiry, a new id, flush, and failures.

use std::{
    process::ExitCode,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, ws::WebSocketUpgrade},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use tally::{
    server::{self, settings::Settings},
    visitor::{Session, Visitor},
};
use tally_session::{Expiry, SessionError, auth::SignIn};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

/// The error of a handler.
enum Error {
    Session(SessionError),
    BadRequest(String),
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Session(error) => error.into_response(),
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, reason).into_response(),
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

async fn read(session: Session) -> Result<Json<Visitor>> {
    Ok(Json(session.read().await?))
}

/// Counts a visit and responds with the requested status.
async fn write(session: Session, Path(status): Path<u16>) -> Result<(StatusCode, String)> {
    let visits = session.update(|visitor| visitor.visit()).await?;
    Ok((parse_status(status)?, visits.to_string()))
}

async fn panics(session: Session) -> Result<String> {
    session.update(|visitor| visitor.visit()).await?;
    panic!("requested by a test");
}

async fn clear(session: Session) -> Result<()> {
    session
        .update(|visitor| *visitor = Visitor::default())
        .await?;
    Ok(())
}

async fn flush(session: Session) -> Result<()> {
    Ok(session.flush().await?)
}

/// Changes the id if the response succeeds.
async fn rotate(session: Session, Path(status): Path<u16>) -> Result<StatusCode> {
    session.cycle_id();
    parse_status(status)
}

/// Signs in if the response succeeds.
async fn sign_in(session: Session, Path(status): Path<u16>) -> Result<StatusCode> {
    session.sign_in("members", SignIn::new("ada")).await?;
    parse_status(status)
}

async fn is_signed_in(session: Session) -> Result<String> {
    Ok(session.signed_in("members").await?.is_some().to_string())
}

async fn expire(session: Session, Path((kind, value)): Path<(String, i64)>) -> Result<()> {
    let expiry = match kind.as_str() {
        "seconds" => Expiry::seconds(value).map(Some),
        "at" => OffsetDateTime::from_unix_timestamp(value)
            .map_err(|error| Error::BadRequest(error.to_string()))
            .map(Expiry::at)?
            .map(Some),
        _ => Ok(None),
    };
    let expiry = expiry.map_err(|error| Error::BadRequest(error.to_string()))?;
    Ok(session.set_expiry(expiry).await?)
}

async fn test_cookie(session: Session, Path(step): Path<String>) -> Result<String> {
    if step.contains("set") {
        session.set_test_cookie();
    }
    if step.contains("delete") {
        session.delete_test_cookie();
    }
    session.update(|_| ()).await?;
    let worked = session.test_cookie_worked().await?;
    Ok(worked.to_string())
}

/// The number of requests that have reached the point where they wait.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Each permit lets one request of [`read_wait_write`] continue.
static GO_ON: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(0));

/// Reads, waits until the test has acted, and writes.
async fn read_wait_write(session: Session) -> Result<String> {
    session.read().await?;
    WAITING.fetch_add(1, Ordering::SeqCst);
    if let Ok(permit) = GO_ON.acquire().await {
        permit.forget();
    }
    let visits = session.update(|visitor| visitor.visit()).await?;
    Ok(format!("{visits} {}", session.was_replaced()))
}

/// Writes, and then never responds.
async fn write_and_hang(session: Session) -> Result<()> {
    session.update(|visitor| visitor.visit()).await?;
    std::future::pending().await
}

/// Starts an update, polls it only once, and never responds.
async fn park(session: Session) -> Result<()> {
    let update = session.update(|visitor| visitor.visit());
    let mut update = std::pin::pin!(update);
    let _ = futures_util::poll!(&mut update);
    WAITING.fetch_add(1, Ordering::SeqCst);
    std::future::pending().await
}

/// A WebSocket that echoes each message.
async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

fn parse_status(status: u16) -> Result<StatusCode> {
    StatusCode::from_u16(status).map_err(|error| Error::BadRequest(error.to_string()))
}

fn routes() -> Router {
    Router::new()
        .route("/probe/read", get(read))
        .route("/probe/write/{status}", post(write))
        .route("/probe/panic", post(panics))
        .route("/probe/clear", post(clear))
        .route("/probe/flush", post(flush))
        .route("/probe/rotate/{status}", post(rotate))
        .route("/probe/sign-in/{status}", post(sign_in))
        .route("/probe/signed-in", get(is_signed_in))
        .route("/probe/expiry/{kind}/{value}", post(expire))
        .route("/probe/test-cookie/{step}", post(test_cookie))
        .route("/probe/read-wait-write", post(read_wait_write))
        .route("/probe/write-and-hang", post(write_and_hang))
        .route("/probe/park", post(park))
        .route("/probe/echo", any(echo))
        .route(
            "/probe/waiting",
            get(|| async { WAITING.load(Ordering::SeqCst).to_string() }),
        )
        .route("/probe/go-on", post(|| async { GO_ON.add_permits(1) }))
}

fn main() -> ExitCode {
    let result = Settings::read(None)
        .map_err(|error| error.to_string())
        .and_then(|settings| server::serve(settings, routes()).map_err(|error| error.to_string()));
    if let Err(error) = result {
        eprintln!("probe: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
