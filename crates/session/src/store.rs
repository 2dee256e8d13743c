//! The session stores, and the traits for what a store can do beyond tower-sessions' [`SessionStore`].
//!
//! Each engine has a file here, and a folder of the same name if it has more parts. To add an engine, implement
//! [`SessionStore`] and [`Store`] in a new file, and add a variant to [`StoreUrl`] and a line to [`open`].

#[cfg(feature = "file")]
mod file;
pub(crate) mod index;
pub(crate) mod instrumented;
#[cfg(feature = "memcached")]
mod memcached;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
mod outage;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod refusal;
mod single_server;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[cfg_attr(
    not(any(feature = "mysql", feature = "postgres")),
    allow(dead_code, unused_imports, reason = "SQLite alone needs a part of it")
)]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod url;
mod users;
pub(crate) mod values;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use thiserror::Error;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

pub use index::{
    Bucket, Counts, History, Resolution, SessionIndex, SessionScan, StatsBatch, StatsStore,
};
pub use refusal::Refusal;
pub use single_server::SingleServer;
pub use url::{StoreUrl, StoreUrlError};
pub use users::{UserEntry, UserIndex};
pub use values::Values;

/// How long one attempt to open a store may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait between two attempts.
const OPEN_RETRY: Duration = Duration::from_millis(250);

/// The default prefix of keys, for a Redis or Memcached that is shared with other applications.
const DEFAULT_PREFIX: &str = "tally:";

/// The default table of sessions. It has the same name in tower-sessions' SQLite store.
const DEFAULT_TABLE: &str = "tower_sessions";

/// The default limit on connections. It is enough for a server with several cores, because a request holds a connection
/// for only one statement at a time.
const DEFAULT_CONNECTIONS: u32 = 16;

/// The most records that one operation removes or scans, so that no request waits long for the store.
const CLEAR_BATCH: u32 = 1_000;

/// A tower-sessions store with conditional writes.
///
/// Without them, the last writer wins: with 16 connections that change one session, 88 of 100 changes are lost.
///
/// Only two methods are required. Each of the others returns an optional trait, if the store implements it.
#[async_trait::async_trait]
pub trait Store: SessionStore + fmt::Debug {
    /// Replaces the stored record if it is still `old`. A record that has been deleted is not created again.
    ///
    /// # Errors
    /// When the store fails. The record may have been replaced nevertheless.
    async fn compare_and_swap(
        &self,
        old: &EncodedRecord,
        new: &EncodedRecord,
    ) -> session_store::Result<Swap>;

    /// Deletes the stored record if it is still `old`. Returns whether it was deleted.
    ///
    /// # Errors
    /// When the store fails. The record may have been deleted nevertheless.
    async fn compare_and_delete(&self, old: &EncodedRecord) -> session_store::Result<bool>;

    /// The removal of expired records, for stores that don't do it on their own.
    fn delete_expired(&self) -> Option<&dyn DeleteExpired> {
        None
    }

    /// The change feed, for stores that notify each server of the others' changes. Without it, a server knows only of
    /// its own changes.
    fn change_feed(&self) -> Option<&dyn ChangeFeed> {
        None
    }

    /// The index of sessions, for stores that can list them. Such a store also has [`Store::values`], because otherwise
    /// the index would list values as sessions.
    fn index(&self) -> Option<&dyn SessionIndex> {
        None
    }

    /// The index of users, for stores that can find the sessions of a user.
    fn users(&self) -> Option<&dyn UserIndex> {
        None
    }

    /// The small values, for stores that keep them apart from sessions. In other stores, each value is a record.
    fn values(&self) -> Option<&dyn Values> {
        None
    }

    /// The statistics, for stores that keep those of all servers.
    fn stats(&self) -> Option<&dyn StatsStore> {
        None
    }

    /// The diagnostics, for stores that can check their own state.
    fn diagnostics(&self) -> Option<&dyn Diagnostics> {
        None
    }

    /// Closes the store before the process exits.
    async fn close(&self) {}
}

/// The removal of a store's expired records.
#[async_trait::async_trait]
pub trait DeleteExpired: Send + Sync {
    /// Removes up to `limit` expired records. Returns how many it has removed.
    ///
    /// # Errors
    /// When the store fails.
    async fn delete_expired(&self, limit: u32) -> session_store::Result<u64>;
}

/// A feed of changes to sessions, whichever server makes them.
#[async_trait::async_trait]
pub trait ChangeFeed: Send + Sync {
    /// Subscribes to a session. From now on, [`ChangeFeed::next_event`] returns its changes.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn subscribe(&self, id: &Id) -> session_store::Result<()>;

    /// Unsubscribes from a session.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn unsubscribe(&self, id: &Id) -> session_store::Result<()>;

    /// Waits for the next event. Only one task calls this method.
    async fn next_event(&self) -> ChangeEvent;
}

/// An event of a [`ChangeFeed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeEvent {
    /// A session was written or deleted.
    Changed(Id),
    /// The connection was lost, or there were too many events. Any session may have changed.
    Lagged,
}

/// Checks of a store's state.
#[async_trait::async_trait]
pub trait Diagnostics: Send + Sync {
    /// Writes a small value that is not a session, to check whether the store accepts writes.
    ///
    /// # Errors
    /// When the store fails or refuses the write.
    async fn check_writable(&self) -> session_store::Result<()>;

    /// Lists everything that the store knows to be unsafe for production, in a line each.
    ///
    /// # Errors
    /// When the store does not respond.
    async fn deploy_warnings(&self) -> session_store::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The size of the write-ahead log in bytes. `None`: the store has no such log.
    fn log_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether the store has tables, which are created or updated when it is opened.
    fn has_table(&self) -> bool {
        false
    }
}

/// A record with its encoding, which is what engines store.
///
/// A record is encoded only once: a save stores the bytes, and the next save compares them with the stored ones.
#[derive(Clone, Debug)]
pub struct EncodedRecord {
    record: Record,
    bytes: OnceLock<Vec<u8>>,
}

impl EncodedRecord {
    /// Decodes a record that an engine has loaded.
    ///
    /// # Errors
    /// When the bytes are not a record.
    pub fn decode(bytes: Vec<u8>) -> session_store::Result<Self> {
        Ok(Self {
            record: decoded(&bytes)?,
            bytes: OnceLock::from(bytes),
        })
    }

    /// The encoding, in the format of tower-sessions' own stores.
    ///
    /// # Errors
    /// When the record can't be encoded.
    pub fn bytes(&self) -> session_store::Result<&[u8]> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let bytes = encoded(&self.record)?;
        Ok(self.bytes.get_or_init(|| bytes))
    }
}

impl EncodedRecord {
    /// The size of the encoding in bytes, or 0 if the record has not been encoded yet.
    pub(crate) fn size(&self) -> usize {
        self.bytes.get().map_or(0, Vec::len)
    }
}

impl From<Record> for EncodedRecord {
    fn from(record: Record) -> Self {
        Self {
            record,
            bytes: OnceLock::new(),
        }
    }
}

impl Deref for EncodedRecord {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

/// The result of [`Store::compare_and_swap`].
#[derive(Clone, Debug)]
pub enum Swap {
    /// The new record is stored.
    Saved,
    /// The stored record was not the expected one. Contains the stored record if the engine has returned it.
    Conflict(Option<EncodedRecord>),
}

impl From<bool> for Swap {
    fn from(saved: bool) -> Self {
        if saved {
            Self::Saved
        } else {
            Self::Conflict(None)
        }
    }
}

/// The reason why a store can't be opened. Its message is one line, without the store's password.
#[derive(Debug, Error)]
#[error("the session store ({store}) can't be reached: {reason}")]
pub struct StoreError {
    store: StoreUrl,
    reason: String,
}

/// The options for opening a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub url: StoreUrl,
    /// How many replicas must have a write before it counts as saved. Only Redis supports this.
    pub replicas: u32,
    /// The prefix of all keys, for a Redis or Memcached that is shared with other applications.
    pub prefix: String,
    /// The table in PostgreSQL or MySQL: a table name, or a schema and a table name with a dot between.
    pub table: String,
    /// The most connections that this server opens to PostgreSQL or MySQL. On PostgreSQL, one more connection listens
    /// for notifications.
    pub connections: u32,
}

impl StoreOptions {
    /// The names that a table may have, for error messages.
    pub const ALLOWED_TABLE: &'static str = "a table name, or a schema and a table name with a dot \
        between: each up to 40 letters, digits and _";

    /// Whether a table may have this name. The name becomes part of SQL statements, so this must not allow quotes.
    pub fn is_table(name: &str) -> bool {
        let is_name = |name: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            (1..=40).contains(&name.len()) && name.bytes().all(is_allowed)
        };
        name.split('.').count() <= 2 && name.split('.').all(is_name)
    }

    /// The default options for the store at this URL.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            replicas: 0,
            prefix: DEFAULT_PREFIX.to_owned(),
            table: DEFAULT_TABLE.to_owned(),
            connections: DEFAULT_CONNECTIONS,
        }
    }
}

/// Whether this is a valid URL of Redis.
#[cfg(feature = "redis")]
fn check_redis(url: &str) -> bool {
    redis::config(url).is_ok()
}

#[cfg(not(feature = "redis"))]
fn check_redis(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// The address and the database in a URL of Redis, without the password.
#[cfg(feature = "redis")]
fn describe_redis(url: &str) -> String {
    redis::config(url).map_or_else(|_| "unknown".to_owned(), |config| redis::describe(&config))
}

#[cfg(not(feature = "redis"))]
fn describe_redis(_url: &str) -> String {
    "unknown".to_owned()
}

/// Whether this is a valid URL of PostgreSQL.
#[cfg(feature = "postgres")]
fn check_postgres(url: &str) -> bool {
    postgres::options(url).is_ok()
}

#[cfg(not(feature = "postgres"))]
fn check_postgres(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// The user, the address and the database in a URL of PostgreSQL, without the password.
#[cfg(feature = "postgres")]
fn describe_postgres(url: &str) -> String {
    postgres::options(url).map_or_else(
        |_| "unknown".to_owned(),
        |options| postgres::describe(&options),
    )
}

#[cfg(not(feature = "postgres"))]
fn describe_postgres(_url: &str) -> String {
    "unknown".to_owned()
}

/// Whether this is a valid URL of MySQL or MariaDB.
#[cfg(feature = "mysql")]
fn check_mysql(url: &str) -> bool {
    mysql::options(url).is_ok()
}

#[cfg(not(feature = "mysql"))]
fn check_mysql(url: &str) -> bool {
    ::url::Url::parse(url).is_ok()
}

/// The user, the address and the database in a URL of MySQL or MariaDB, without the password.
#[cfg(feature = "mysql")]
fn describe_mysql(url: &str) -> String {
    mysql::options(url).map_or_else(
        |_| "unknown".to_owned(),
        |options| mysql::describe(&options),
    )
}

#[cfg(not(feature = "mysql"))]
fn describe_mysql(_url: &str) -> String {
    "unknown".to_owned()
}

/// Opens a store, and verifies that it responds.
///
/// # Errors
/// When the store can't be opened, does not respond in time, or has a table name that is not allowed.
pub async fn open(options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let opening = async {
        let store: Arc<dyn Store> = match &options.url {
            StoreUrl::Memory => Arc::new(memory::Memory::default()),
            #[cfg(feature = "file")]
            StoreUrl::File(folder) => Arc::new(file::open(folder).map_err(reason)?),
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => Arc::new(sqlite::open(path).await.map_err(reason)?),
            #[cfg(feature = "memcached")]
            StoreUrl::Memcached(server) => {
                let memcached = memcached::open(server, &options.prefix).await;
                Arc::new(memcached.map_err(reason)?)
            }
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            StoreUrl::MySql(_) | StoreUrl::Postgres(_)
                if !StoreOptions::is_table(&options.table) =>
            {
                return Err(format!(
                    "{:?} is not {}",
                    options.table,
                    StoreOptions::ALLOWED_TABLE
                ));
            }
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => {
                let opened = postgres::open(url, &options.table, options.connections).await;
                Arc::new(opened.map_err(|error| sql::connections::plain(&error))?)
            }
            #[cfg(feature = "mysql")]
            StoreUrl::MySql(url) => {
                let opened = mysql::open(url, &options.table, options.connections).await;
                Arc::new(opened.map_err(|error| sql::connections::plain(&error))?)
            }
            #[cfg(feature = "redis")]
            StoreUrl::Redis(url) => {
                let redis = redis::open(url, options.replicas, &options.prefix).await;
                Arc::new(redis.map_err(|error| redis::plain(&error))?)
            }
            #[allow(unreachable_patterns, reason = "all features may be enabled")]
            other => {
                let feature = other.feature();
                return Err(format!(
                    "this program was built without the feature {feature} of tally-session"
                ));
            }
        };
        Ok(store)
    };
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(format!("no response in {OPEN_TIMEOUT:?}")));
    opened.map_err(|reason| StoreError {
        store: options.url.clone(),
        reason,
    })
}

/// Opens a store like [`open`], and retries for up to `max_wait`, because a server may start before its store.
///
/// Calls `on_retry` with the error of the first attempt that is retried.
///
/// # Errors
/// When the last attempt fails.
pub async fn open_with_retries(
    options: &StoreOptions,
    max_wait: Duration,
    on_retry: impl FnOnce(&StoreError),
) -> Result<Arc<dyn Store>, StoreError> {
    let deadline = Instant::now() + max_wait;
    let mut on_retry = Some(on_retry);
    loop {
        match open(options).await {
            // A file that can't be opened now can't be opened a moment later either.
            Err(error) if options.url.is_a_server() && Instant::now() + OPEN_RETRY < deadline => {
                if let Some(on_retry) = on_retry.take() {
                    on_retry(&error);
                }
                tokio::time::sleep(OPEN_RETRY).await;
            }
            other => return other,
        }
    }
}

/// Removes all expired records in batches, and returns their number. Calls `progress` with the number so far after each
/// batch.
///
/// # Errors
/// When the store fails.
pub(crate) async fn clear_expired(
    store: &dyn Store,
    mut progress: impl FnMut(u64),
) -> session_store::Result<u64> {
    let mut removed = 0;
    let Some(expired) = store.delete_expired() else {
        return Ok(removed);
    };
    loop {
        let batch = expired.delete_expired(CLEAR_BATCH).await?;
        removed += batch;
        progress(removed);
        if batch < u64::from(CLEAR_BATCH) {
            return Ok(removed);
        }
    }
}

/// The message of an error in one line, for [`StoreError`].
#[cfg(any(feature = "file", feature = "memcached", feature = "sqlite"))]
fn reason(error: impl fmt::Display) -> String {
    error.to_string().replace('\n', " ")
}

/// Encodes a record in the format of tower-sessions' own stores.
fn encoded(record: &Record) -> session_store::Result<Vec<u8>> {
    rmp_serde::to_vec(record).map_err(|error| session_store::Error::Encode(error.to_string()))
}

/// Decodes a record in the format of [`encoded`].
fn decoded(bytes: &[u8]) -> session_store::Result<Record> {
    rmp_serde::from_slice(bytes).map_err(|error| session_store::Error::Decode(error.to_string()))
}

/// Converts an engine's error to tower-sessions' error.
#[cfg(any(
    feature = "file",
    feature = "memcached",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite"
))]
fn backend(error: impl fmt::Display) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}
