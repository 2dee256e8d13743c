//! The site with routes of one's own beside the pages: how plain axum handlers use the session.
//! The contract's tests run it, for what no page offers: expiry, rotation, flush, and failures.

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

/// One error type, which becomes an answer in one place.
enum Failure {
    Session(SessionError),
    Bad(String),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Session(error) => error.into_response(),
            Self::Bad(reason) => (StatusCode::BAD_REQUEST, reason).into_response(),
        }
    }
}

type Answer<T> = Result<T, Failure>;

async fn read(session: Session) -> Answer<Json<Visitor>> {
    Ok(Json(session.read().await?))
}

/// Counts a visit and answers with the status that is asked for.
async fn write(session: Session, Path(status): Path<u16>) -> Answer<(StatusCode, String)> {
    let visits = session.update(|visitor| visitor.visit()).await?;
    Ok((answer_status(status)?, visits.to_string()))
}

async fn panics(session: Session) -> Answer<String> {
    session.update(|visitor| visitor.visit()).await?;
    panic!("asked for by a test");
}

async fn clear(session: Session) -> Answer<()> {
    session
        .update(|visitor| *visitor = Visitor::default())
        .await?;
    Ok(())
}

async fn flush(session: Session) -> Answer<()> {
    Ok(session.flush().await?)
}

/// Signs in, so to say: the id changes, if the answer succeeds.
async fn rotate(session: Session, Path(status): Path<u16>) -> Answer<StatusCode> {
    session.cycle_id();
    answer_status(status)
}

/// Signs in, if the answer succeeds.
async fn sign_in(session: Session, Path(status): Path<u16>) -> Answer<StatusCode> {
    session.sign_in("members", SignIn::new("ada")).await?;
    answer_status(status)
}

async fn is_signed_in(session: Session) -> Answer<String> {
    Ok(session.signed_in("members").await?.is_some().to_string())
}

async fn expire(session: Session, Path((kind, value)): Path<(String, i64)>) -> Answer<()> {
    let expiry = match kind.as_str() {
        "seconds" => Expiry::seconds(value).map(Some),
        "at" => OffsetDateTime::from_unix_timestamp(value)
            .map_err(|error| Failure::Bad(error.to_string()))
            .map(Expiry::at)?
            .map(Some),
        _ => Ok(None),
    };
    let expiry = expiry.map_err(|error| Failure::Bad(error.to_string()))?;
    Ok(session.set_expiry(expiry).await?)
}

async fn test_cookie(session: Session, Path(step): Path<String>) -> Answer<String> {
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

/// Lets a test act between a request's read and its write.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static GO_ON: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(0));

async fn read_wait_write(session: Session) -> Answer<String> {
    session.read().await?;
    WAITING.fetch_add(1, Ordering::SeqCst);
    if let Ok(permit) = GO_ON.acquire().await {
        permit.forget();
    }
    let visits = session.update(|visitor| visitor.visit()).await?;
    Ok(format!("{visits} {}", session.was_replaced()))
}

/// Writes, and then takes longer than any request may.
async fn write_and_hang(session: Session) -> Answer<()> {
    session.update(|visitor| visitor.visit()).await?;
    std::future::pending().await
}

/// Begins to write, and then looks after other things for ever.
async fn park(session: Session) -> Answer<()> {
    let update = session.update(|visitor| visitor.visit());
    let mut update = std::pin::pin!(update);
    let _ = futures_util::poll!(&mut update);
    WAITING.fetch_add(1, Ordering::SeqCst);
    std::future::pending().await
}

/// A WebSocket that repeats what it is told.
async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

fn answer_status(status: u16) -> Answer<StatusCode> {
    StatusCode::from_u16(status).map_err(|error| Failure::Bad(error.to_string()))
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
    let ended = Settings::read(None)
        .map_err(|error| error.to_string())
        .and_then(|settings| server::serve(settings, routes()).map_err(|error| error.to_string()));
    if let Err(error) = ended {
        eprintln!("probe: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
