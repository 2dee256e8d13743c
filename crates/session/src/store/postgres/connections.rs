//! The pool of connections, without those that have become useless.
//!
//! A pool that pinged each connection before its use would take two round trips for everything. So connections are
//! believed until one fails. Then all that are older than the failure are made anew: the server has been restarted,
//! another one has taken over, or this one is a standby now.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Error, Executor,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tokio::time::timeout;
use tower_sessions::session_store;

use crate::store::backend;

/// How long a request waits for a connection or a lock before it is answered 503.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// The same for the server, which would work on a statement that nobody waits for. Set on each connection: poolers
/// refuse settings at its start.
const STATEMENT_TIMEOUT: &str = "set statement_timeout = 2000";

/// What a pooler does that gives each transaction another connection.
pub const POOLED: &str = "a pooler in transaction mode stands before PostgreSQL; use its session mode, or the server's own address";

/// How often an operation is tried that the server has not done: a connection broke, or two transactions met.
const MOST_TRIES: usize = 4;

/// Failures in so short a time are one.
const ONE_FAILURE: Duration = Duration::from_secs(1);

/// A pool, and when a connection of it has failed.
#[derive(Debug)]
pub struct Connections {
    pool: PgPool,
    failure: Arc<Failure>,
}

/// When a connection failed last.
#[derive(Debug, Default)]
struct Failure(Mutex<Option<Instant>>);

impl Failure {
    /// Connections that are older than this are useless.
    fn note(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() > ONE_FAILURE) {
            *last = Some(Instant::now());
        }
    }

    /// Whether a connection of this age has outlived a failure.
    fn came_after(&self, age: Duration) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < age)
    }
}

/// What an error means for the connection, and for another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The connection is of no more use. The statement may have been done.
    Broken,
    /// Nothing was done, because two transactions met.
    Conflict,
    Other,
}

impl Kind {
    fn of(error: &Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match (code.as_deref(), error) {
            // serialization_failure, deadlock_detected
            (Some("40001" | "40P01"), _) => Self::Conflict,
            // admin_shutdown, crash_shutdown, cannot_connect_now, read_only_sql_transaction
            (Some("57P01" | "57P02" | "57P03" | "25006"), _)
            | (None, Error::Io(_) | Error::Protocol(_) | Error::Tls(_) | Error::WorkerCrashed) => {
                Self::Broken
            }
            _ => Self::Other,
        }
    }
}

impl Connections {
    /// Opens up to `most` connections, as they are needed.
    ///
    /// # Errors
    /// When the server does not respond.
    pub async fn open(options: PgConnectOptions, most: u32) -> Result<Self, Error> {
        let failure = Arc::<Failure>::default();
        let after = Arc::clone(&failure);
        let pool = PgPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(move |_, connection| {
                let is_useless = after.came_after(connection.age);
                Box::pin(async move { Ok(!is_useless) })
            })
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(STATEMENT_TIMEOUT).await.map(|_| ()) })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool, failure })
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does what may be done twice, and does it again where the connection broke.
    ///
    /// # Errors
    /// When the server does not respond, or refuses.
    pub async fn run<T, F>(&self, operation: impl Fn() -> F) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.tried(operation, |kind| kind != Kind::Other).await
    }

    /// Does what may be done once alone: a broken connection is an error.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_once<T, F>(&self, operation: impl Fn() -> F) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.tried(operation, |kind| kind == Kind::Conflict).await
    }

    async fn tried<T, F>(
        &self,
        operation: impl Fn() -> F,
        is_worth_it: impl Fn(Kind) -> bool,
    ) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut tries = 1;
        loop {
            let error = match timeout(TIMEOUT, operation()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.failure.note();
                    return Err(backend(format!("no answer in {TIMEOUT:?}")));
                }
            };
            let kind = Kind::of(&error);
            if kind == Kind::Broken {
                self.failure.note();
            }
            if tries == MOST_TRIES || !is_worth_it(kind) {
                return Err(backend(plain(&error)));
            }
            tries += 1;
        }
    }
}

/// An error in one line.
pub fn plain(error: &Error) -> String {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            // A prepared statement that is not there, or there already: another connection has it.
            if matches!(&*code, "26000" | "42P05") {
                return POOLED.to_owned();
            }
            format!("{} ({code})", error.message().replace('\n', " "))
        }
        Error::Configuration(reason) => reason.to_string(),
        Error::PoolTimedOut => "no connection was free".to_owned(),
        other => other.to_string().replace('\n', " "),
    }
}
