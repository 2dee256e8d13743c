//! The pool of connections, without those that have become useless.
//!
//! A pool that pinged each connection before its use would take two round trips for everything. So connections are
//! trusted until one fails. Then the pool replaces all that are older than the failure: the server was restarted,
//! another one took over, or this one is a standby now.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Error, Executor, Pool, pool::PoolOptions};
use tokio::time::timeout;
use tower_sessions::session_store;

use super::Tables;
use crate::store::backend;

/// How long a request waits for a connection or a lock before it fails with 503.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// What a pooler does that gives each transaction another connection.
pub const POOLED: &str = "a pooler in transaction mode stands before PostgreSQL; use its session mode, or the server's own address";

/// How often an operation runs that took no effect: a connection broke, or two transactions met.
const MAX_TRIES: usize = 4;

/// Failures within this time are one.
const ONE_FAILURE: Duration = Duration::from_secs(1);

/// A pool, and its tables.
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

/// A pool, and when a connection of it failed last.
#[derive(Debug)]
pub struct Connections<D: sqlx::Database> {
    pool: Pool<D>,
    failure: Arc<LastFailure>,
}

/// When a connection failed last.
#[derive(Debug, Default)]
struct LastFailure(Mutex<Option<Instant>>);

impl LastFailure {
    /// Connections that are older than this are useless.
    fn record(&self) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() > ONE_FAILURE) {
            *last = Some(Instant::now());
        }
    }

    /// Whether a connection of this age was open when one failed.
    fn is_after(&self, age: Duration) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < age)
    }
}

/// What an error means for the connection, and for another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The connection is useless. The statement may have taken effect.
    Broken,
    /// The statement took no effect, because two transactions met.
    Conflict,
    Other,
}

impl Kind {
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

    /// MySQL numbers its errors; its SQLSTATE is HY000 for most.
    #[cfg(feature = "mysql")]
    fn of_mysql(error: &Error) -> Option<Self> {
        let error = error.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
        match error.number() {
            // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK, and MariaDB's ER_CHECKREAD (the row has changed)
            1205 | 1213 | 1020 => Some(Self::Conflict),
            // ER_SERVER_SHUTDOWN, ER_CONNECTION_KILLED, and the three of a server that became read-only
            1053 | 1927 | 1290 | 1792 | 1836 => Some(Self::Broken),
            _ => None,
        }
    }

    #[cfg(not(feature = "mysql"))]
    fn of_mysql(_error: &Error) -> Option<Self> {
        None
    }
}

impl<D: sqlx::Database> Connections<D> {
    /// Opens up to `most` connections, as they are needed. Each runs `setup` first: poolers refuse settings at the
    /// start of a connection.
    ///
    /// # Errors
    /// When the server does not respond.
    pub async fn open(
        options: <D::Connection as sqlx::Connection>::Options,
        most: u32,
        setup: &'static str,
    ) -> Result<Self, Error>
    where
        for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    {
        let failure = Arc::<LastFailure>::default();
        let last = Arc::clone(&failure);
        let pool = PoolOptions::new()
            .max_connections(most)
            .acquire_timeout(TIMEOUT)
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

    /// Runs an operation that may run twice, and runs it again where the connection broke.
    ///
    /// # Errors
    /// When the server does not respond, or refuses.
    pub async fn run<T, F>(&self, operation: impl Fn() -> F) -> session_store::Result<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.tried(operation, |kind| kind != Kind::Other).await
    }

    /// Runs an operation that must not run twice: a connection that breaks is an error.
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
        is_worth_another: impl Fn(Kind) -> bool,
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
                    self.failure.record();
                    return Err(backend(format!("no answer in {TIMEOUT:?}")));
                }
            };
            let kind = Kind::of(&error);
            if kind == Kind::Broken {
                self.failure.record();
            }
            if tries == MAX_TRIES || !is_worth_another(kind) {
                return Err(backend(plain(&error)));
            }
            tries += 1;
        }
    }
}

/// A pool that needs no care, as SQLite's.
impl<D: sqlx::Database> From<Pool<D>> for Connections<D> {
    fn from(pool: Pool<D>) -> Self {
        Self {
            pool,
            failure: Arc::default(),
        }
    }
}

/// An error in one line.
pub fn plain(error: &Error) -> String {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            // A prepared statement that does not exist, or exists already: it belongs to another connection.
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
