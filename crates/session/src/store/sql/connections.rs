//! A pool of connections that replaces connections that have become useless, and retries operations.
//!
//! The pool does not ping a connection before its use, because each operation would then take two round trips. Instead,
//! it trusts its connections until one of them fails. Then it replaces all that were open at that time, because the
//! database server has probably been restarted, or has become a standby while another server took over.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, Error, Executor, Pool, pool::PoolOptions};
use tokio::time::timeout;
use tower_sessions::session_store;

use super::Tables;
use crate::store::backend;

/// How long an operation waits for a free connection, or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one attempt of an operation may take. It is longer than [`ACQUIRE_TIMEOUT`] and the database's own limit of
/// a statement together, so a connection that exceeds it is silent. The request fails with status 503.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// The error message for a pooler that uses another connection for each transaction.
pub const TRANSACTION_POOLER: &str = "a pooler in transaction mode is in front of PostgreSQL; \
    use its session mode, or connect to PostgreSQL itself";

/// How often an operation is tried when its connection breaks or its transaction conflicts with another one.
const MAX_ATTEMPTS: usize = 4;

/// Failures within this time after the first one count as the same failure, so that newer connections stay in use.
const FAILURE_WINDOW: Duration = Duration::from_secs(1);

/// A pool of connections, and the names of the tables.
#[derive(Debug)]
pub struct Database<D: sqlx::Database> {
    pub connections: Connections<D>,
    pub tables: Tables,
}

impl<D: sqlx::Database> Database<D> {
    pub fn pool(&self) -> &Pool<D> {
        self.connections.pool()
    }
}

/// A pool of connections, and the time of their last failure.
#[derive(Debug)]
pub struct Connections<D: sqlx::Database> {
    pool: Pool<D>,
    failure: Arc<LastFailure>,
}

/// The time when a connection last failed.
#[derive(Debug, Default)]
struct LastFailure(Mutex<Option<Instant>>);

impl LastFailure {
    /// Records a failure, which makes all open connections useless.
    fn record(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() > FAILURE_WINDOW) {
            *last = Some(Instant::now());
        }
    }

    /// Whether a connection of this age was already open at the failure.
    fn is_after(&self, age: Duration) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < age)
    }
}

/// What an error means for the connection, and for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// The connection is useless. The statement may have taken effect.
    Broken,
    /// The statement conflicted with another transaction and took no effect.
    Conflict,
    /// Any other error. It is not retried.
    Other,
}

impl ErrorKind {
    fn of(error: &Error) -> Self {
        if let Some(kind) = Self::of_mysql(error) {
            return kind;
        }
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

    /// The kind of an error of MySQL, by its number. Most of them have the same SQLSTATE, HY000.
    #[cfg(feature = "mysql")]
    fn of_mysql(error: &Error) -> Option<Self> {
        let error = error.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
        match error.number() {
            // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, and MariaDB's ER_CHECKREAD: the row has changed since it was read
            1205 | 1213 | 1020 => Some(Self::Conflict),
            // ER_SERVER_SHUTDOWN, ER_CONNECTION_KILLED, ER_CLIENT_INTERACTION_TIMEOUT (an idle connection was closed),
            // ER_UNKNOWN_COM_ERROR (a node of Galera is not ready), and the errors of a server that has become read-only:
            // ER_OPTION_PREVENTS_STATEMENT, ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, ER_READ_ONLY_MODE
            1053 | 1927 | 4031 | 1047 | 1290 | 1792 | 1836 => Some(Self::Broken),
            _ => None,
        }
    }

    #[cfg(not(feature = "mysql"))]
    fn of_mysql(_error: &Error) -> Option<Self> {
        None
    }
}

impl<D: sqlx::Database> Connections<D> {
    /// Opens a pool that opens up to `max_connections` as they are needed. Each new connection runs `setup`, because
    /// poolers refuse a connection that sends settings at its start.
    ///
    /// # Errors
    /// When the server does not respond.
    pub async fn open(
        options: <D::Connection as sqlx::Connection>::Options,
        max_connections: u32,
        setup: &'static str,
    ) -> Result<Self, Error>
    where
        for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    {
        // The pool would retry a refused connection, and then report that none was free.
        let connection = D::Connection::connect_with(&options).await?;
        // The server may close its end of a socket first.
        let _ = connection.close().await;
        let failure = Arc::<LastFailure>::default();
        let last = Arc::clone(&failure);
        let pool = PoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(move |_, connection| {
                let is_useless = last.is_after(connection.age);
                Box::pin(async move { Ok(!is_useless) })
            })
            .after_connect(move |connection: &mut D::Connection, _| {
                Box::pin(async move { connection.execute(setup).await.map(|_| ()) })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool, failure })
    }

    pub fn pool(&self) -> &Pool<D> {
        &self.pool
    }

    /// Runs an operation that may run twice. It is retried after a conflict, or if the connection breaks.
    ///
    /// # Errors
    /// When the server does not respond, or refuses the operation.
    pub async fn run<T, F>(&self, operation: impl Fn() -> F) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.retry(operation, |kind| kind != ErrorKind::Other).await
    }

    /// Runs an operation that must not run twice. It is retried only after a conflict, which has no effect.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_once<T, F>(&self, operation: impl Fn() -> F) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.retry(operation, |kind| kind == ErrorKind::Conflict)
            .await
    }

    /// Runs an operation until it succeeds, fails with an error that is not retryable, or has used all attempts.
    async fn retry<T, F>(
        &self,
        operation: impl Fn() -> F,
        is_retryable: impl Fn(ErrorKind) -> bool,
    ) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 1;
        loop {
            let error = match timeout(TIMEOUT, operation()).await {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.failure.record();
                    return Err(backend(format!("no response in {TIMEOUT:?}")));
                }
            };
            let kind = ErrorKind::of(&error);
            if kind == ErrorKind::Broken {
                self.failure.record();
            }
            if attempt == MAX_ATTEMPTS || !is_retryable(kind) {
                return Err(backend(self.message(&error)));
            }
            attempt += 1;
        }
    }
}

impl<D: sqlx::Database> Connections<D> {
    /// The message of an error. A pool that has room for another connection did not get one from the server.
    fn message(&self, error: &Error) -> String {
        let has_room = self.pool.size() < self.pool.options().get_max_connections();
        match error {
            Error::PoolTimedOut if has_room => "no connection could be opened".to_owned(),
            other => plain(other),
        }
    }
}

/// For SQLite, whose pool does not replace connections after a failure.
impl<D: sqlx::Database> From<Pool<D>> for Connections<D> {
    fn from(pool: Pool<D>) -> Self {
        Self {
            pool,
            failure: Arc::default(),
        }
    }
}

/// The message of an error in one line, for an operator.
pub fn plain(error: &Error) -> String {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            // A prepared statement does not exist, or exists already, because a pooler has changed the connection.
            if matches!(&*code, "26000" | "42P05") {
                return TRANSACTION_POOLER.to_owned();
            }
            format!("{} ({code})", error.message().replace('\n', " "))
        }
        Error::Configuration(reason) => reason.to_string(),
        Error::PoolTimedOut => "no connection was free".to_owned(),
        other => other.to_string().replace('\n', " "),
    }
}
